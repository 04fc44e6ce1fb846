"""The end of a group of processes: its exit class, and the process that is the cause."""
import dataclasses
import math
import signal
from collections.abc import Sequence

from bigjax.errors import DONE, FAILED, NO, NONFINITE, PREEMPTED, USER

DETACHED = 130  # Ctrl-C: the job keeps running without this launcher
LOST = 1000  # in place of an exit code: the machine was taken away or switched off
CLASSES = {DONE: 'done', FAILED: 'failed', USER: 'wrong input', NONFINITE: 'non-finite loss', NO: 'the answer is no',
           PREEMPTED: 'preempted, run it again', DETACHED: 'keeps running without this launcher'}
TOGETHER = (NONFINITE, NO, PREEMPTED)
"""Exits that all processes of an experiment reach at the same step."""


@dataclasses.dataclass(frozen=True)
class End:
    """The end of one process.

    Attributes:
      process: its rank.
      code: its exit code; -9 if signal 9 killed it; LOST.
      when: `time.monotonic()`, in seconds.
      where: the machine, if it is not this one.
    """

    process: int
    code: int
    when: float
    where: str = ''

    def __str__(self) -> str:
        """'process 1 was killed by SIGKILL'."""
        who = f'process {self.process}' + (f' on {self.where}' if self.where else '')
        if self.code == LOST:
            return f'{who} is lost: its machine is gone or was restarted'
        if self.code >= 0:
            return f'{who} ended with exit code {self.code}'
        try:
            return f'{who} was killed by {signal.Signals(-self.code).name}'
        except ValueError:  # a real-time signal
            return f'{who} was killed by signal {-self.code}'


def kind(code: int) -> int:
    """The exit class of a code, which is the launcher's own exit code. A lost process counts as preempted."""
    return PREEMPTED if code == LOST else code if code in CLASSES and code != DETACHED else FAILED


def from_shell(code: int) -> int:
    """The exit code of a shell or container (128 + n after signal n) as Python writes it (-n)."""
    return 128 - code if 128 < code <= 192 else code


def cause(ends: Sequence[End], term_sent: float = math.inf) -> End | None:
    """The end that explains the others; None if all succeeded.

    It is the first process to end badly by itself: ends after `term_sent`, the time of the launcher's SIGTERM, are its
    consequence. If all ended after it, a process that chose its exit code comes before one that a signal killed.
    """
    bad = sorted((end for end in ends if end.code != DONE), key=lambda end: end.when)
    candidates = [end for end in bad if end.when <= term_sent] or [end for end in bad if end.code > 0] or bad
    return candidates[0] if candidates else None
