"""Whether the run was asked to stop (SIGTERM, Ctrl-C), agreed upon by all processes after the same step."""
import contextlib

import jax

from bigjax.watchdog.signals import StopRequested
from bigjax.watchdog.watchdog import Guard


class StopRequest:
    """Reads the guard's signal, between steps and while the main thread waits for data.

    Attributes:
      interruptible: `with interruptible():` a signal ends the wait for data. Only for a single process: several stop after the
        same step, for which every one of them needs its data.
    """

    def __init__(self, guard: Guard):
        self._guard = guard
        self.interruptible = guard.interruptible if jax.process_count() == 1 else contextlib.nullcontext

    def __call__(self) -> bool:
        """Whether to stop here; every process must call it the same number of times."""
        return self._guard.stop_agreed()

    def while_prefetching(self, feed, step: int) -> bool:
        """Fetches batch `step`; whether the request came meanwhile, and the batch was given up."""
        try:
            feed.ahead(step, self.interruptible)
        except StopRequested:
            return True
        return False

    @property
    def signal(self) -> str:
        """The signal's name; another process may have received it."""
        return self._guard.asked or 'SIGTERM'
