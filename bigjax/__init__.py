"""bigjax: one compiled train step for every family of models, and one readable script per paper."""
from bigjax.errors import UserError as UserError

__version__ = '0.2.0'
