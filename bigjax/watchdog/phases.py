"""The phase that a run is in, and the seconds that it has spent in each.

The main thread is in exactly one phase, so the seconds of all phases add up to the time since the clock was made:

    start        the process itself, its imports, reading the config and the data, building the program
    compile      the first call of the train step
    restore      checkpoints verified and read, weights initialised
    data         the loop waits for a batch
    step         training
    evaluation   evaluators, samples
    save         the loop waits for a checkpoint (which is written during the next steps)
    report       records and report at the end
    lost         steps of earlier starts that had to be done again (`bigjax.runs.writer`)
"""
import contextlib
import os
import time
from typing import NamedTuple

from bigjax.errors import UserError
from bigjax.io.text import printable

PHASES = ('start', 'compile', 'restore', 'data', 'step', 'evaluation', 'save', 'report')
TIMEOUTS_S = {'start': 14400.0, 'compile': 3600.0, 'restore': 3600.0, 'data': 900.0, 'step': 900.0, 'evaluation': 7200.0,
              'save': 3600.0, 'report': 7200.0}
"""A phase that lasts longer counts as stuck; 'start' may read and pack a large data set, and 'report' ends when all processes
have come to their end. A phase that is not here has no timeout."""


class Now(NamedTuple):
    """The phase of the main thread, the step it is at, and since when (`time.monotonic`)."""

    phase: str
    step: int
    since: float


class Clock:
    """Adds up seconds by phase; `now` may be read by any thread."""

    def __init__(self, phase: str = 'start', began: float | None = None):
        """Begins with a phase, at `began` (`time.monotonic`) or now."""
        self._spent = dict.fromkeys(PHASES, 0.0)
        self.now = Now(phase, 0, time.monotonic() if began is None else began)

    def enter(self, phase: str, step: int | None = None) -> str:
        """Begins a phase, or the next round of the same one; returns the one before."""
        before, now = self.now, time.monotonic()
        self._spent[before.phase] += now - before.since
        self.now = Now(phase, before.step if step is None else step, now)
        return before.phase

    @contextlib.contextmanager
    def within(self, phase: str):
        """Inside, the phase is this one."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def place(self) -> str:
        """The phase for messages: "step 7, 'save' for 12 s"."""
        now = self.now
        return f"step {now.step:,}, '{now.phase}' for {time.monotonic() - now.since:.0f} s"

    def spent(self) -> dict[str, float]:
        """{phase: seconds} until now."""
        now = self.now
        return {**self._spent, now.phase: self._spent[now.phase] + time.monotonic() - now.since}


def process_began() -> float:
    """The start of this process (`time.monotonic`), or now where the system does not show it."""
    try:
        with open('/proc/self/stat') as file:
            ticks = int(file.read().rpartition(')')[2].split()[19])
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK'))
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic()


def phase_timeouts(text: str) -> dict[str, float]:
    """{phase: seconds} of 'step:60,save:300' over the defaults; 0 is no limit.

    Raises:
      UserError: the text has another form, or an unknown phase.
    """
    found = dict(TIMEOUTS_S)
    for part in filter(None, text.split(',')):
        phase, _, seconds = part.partition(':')
        try:
            found[phase] = float(seconds)
        except ValueError:
            found[phase] = -1.0
        if phase not in PHASES or not found[phase] >= 0:
            raise UserError(f"--phase_timeouts: got '{printable(part)}', expected PHASE:SECONDS, such as step:60,save:300; "
                            f"the phases are {', '.join(PHASES)}", code='watchdog/phase-timeouts')
    return {phase: seconds for phase, seconds in found.items() if seconds}
