"""The start of several processes, the device mesh, and the placement of state and batches on it."""
from bigjax.parallel.start import start as start
