"""How a group of processes ended: its exit class, and the process that is the cause."""
import dataclasses
import math
import signal
from collections.abc import Sequence

DONE, FAILED, USER, NONFINITE, NO, PREEMPTED, DETACHED = 0, 1, 2, 3, 4, 75, 130
LOST = 1000  # instead of an exit code: its machine is gone, or it left none; the cloud took it, or it was switched off
CLASSES = {DONE: 'done', FAILED: 'failed', USER: 'wrong input', NONFINITE: 'non-finite loss', NO: 'the answer is no',
           PREEMPTED: 'preempted, run it again', DETACHED: 'goes on without this launcher'}
TOGETHER = (NONFINITE, NO, PREEMPTED)
"""Exits that all processes of an experiment reach at the same step."""


@dataclasses.dataclass(frozen=True)
class End:
    """One process has ended.

    Attributes:
      process: its number.
      code: its exit code; -9 where signal 9 killed it; LOST.
      when: `time.monotonic()`, in seconds.
      where: the machine, where it is not this one.
    """

    process: int
    code: int
    when: float
    where: str = ''

    def __str__(self) -> str:
        """'process 1 was killed by SIGKILL'."""
        who = f'process {self.process}' + (f' on {self.where}' if self.where else '')
        if self.code == LOST:
            return f'{who} is lost: its machine is gone, or was restarted'
        if self.code >= 0:
            return f'{who} ended with exit code {self.code}'
        try:
            return f'{who} was killed by {signal.Signals(-self.code).name}'
        except ValueError:  # a real-time signal
            return f'{who} was killed by signal {-self.code}'


def kind(code: int) -> int:
    """The exit class of a code, itself the code that the launcher exits with. A process that is lost was preempted."""
    return PREEMPTED if code == LOST else code if code in CLASSES and code != DETACHED else FAILED


def cause(ends: Sequence[End], told: float = math.inf) -> End | None:
    """The end that explains the others; None where all is well.

    The first to end badly by itself: what ends after `told`, when the launcher sent a signal, ends because of that. Where
    the launcher was the first, a process that chose its code comes before one that was killed.
    """
    bad = sorted((end for end in ends if end.code != DONE), key=lambda end: end.when)
    candidates = [end for end in bad if end.when <= told] or [end for end in bad if end.code > 0] or bad
    return candidates[0] if candidates else None
