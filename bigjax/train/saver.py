"""When the loop's state is on disk: one checkpoint per step, written in the background, and never lost before the run ends."""
import sys

import jax

from bigjax.checkpoint.manager import Checkpoints
from bigjax.io import storage

FAILED_SAVE_TIMEOUT_S = 5.0  # a failing process waits at most this long for its own pending save; its peers are not in it


class Saver:
    """Saves the carry of one run.

    Args:
      phases: the clock of the run's phases.
    """

    def __init__(self, workdir, records, progress, phases, keep: int):
        self._workdir, self._records, self._phases, self._saved = workdir, records, phases, None
        with phases.within('restore'):
            self.checkpoints = Checkpoints(workdir, keep=keep, say=progress.say, before_seal=records.flush)
        records.damaged(self.checkpoints.damaged)

    def save(self, step: int, carry, eval_pending: bool = False) -> None:
        """Starts to write a checkpoint, unless the same one was written; `eval_pending`: its evaluators have yet to run."""
        if (step, eval_pending) == self._saved:
            return
        with self._phases.within('save'):
            self.checkpoints.save(step, carry, eval_pending)
            self._records.saved(step)
        self._saved = step, eval_pending

    def wait_for_upload(self, step: int, carry, eval_pending: bool = False) -> None:
        """Returns when the last save into a store has succeeded: the state must not be dropped before."""
        while storage.remote(self._workdir) and self.checkpoints.lost(wait=True):
            self._saved = None
            self.save(step, carry, eval_pending)

    def close(self) -> None:
        """Waits for the save in progress; in a process that fails alone, only a moment."""
        error = sys.exception()
        together = error is None or getattr(error, 'shared', False) or jax.process_count() == 1
        with self._phases.within('save'):
            self.checkpoints.close(None if together else FAILED_SAVE_TIMEOUT_S)
