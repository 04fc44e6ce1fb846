"""bigjax: one compiled train step for every family of models, and one readable script per paper."""

__version__ = '0.2.0'


class UserError(Exception):
    """The user's input is wrong: a flag, a config key, a file, the data.

    The message is one line that names the thing, the place and the mend. The command line prints it and exits 2.
    """
