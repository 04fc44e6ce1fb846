"""The restart loop, the same for every engine: start the group, wait, find the cause, restart it where that can help.

Engines and groups are those of `launch.engines.base`. When one process ends badly the others get SIGTERM, and shortly after
the grace SIGKILL. The processes of an array are independent: one that fails does not stop the others.
"""
import dataclasses
import math
import signal
import time
from collections.abc import Callable

from launch import outcome
from launch.engines.base import Engine, Group

POLL_S = 0.1
JOINT_EXIT_S = 5.0  # time for the other processes to reach an exit that all reach at the same step, before SIGTERM
QUICK_FAILURE_S, MAX_QUICK_FAILURES = 10.0, 3  # this many failures in a row, each so soon after the start, end the retries
MAX_PAUSE_S = 60.0  # between two restarts
KILL_MARGIN_S = 10.0  # at most a third of the grace: a process that uses all of its grace keeps its own exit code
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The retry limits of a job.

    Attributes:
      restarts, preemptions: restarts allowed after a failure, after a preemption.
      grace: seconds after SIGTERM that a process may use.
      alone: whether each process is independent of the others (an array).
    """

    restarts: int = 0
    preemptions: int = 100
    grace: float = 30.0
    alone: bool = False

    @property
    def kill(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return self.grace + min(KILL_MARGIN_S, self.grace / 3)


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a job: exit class, cause in words ('' for success), number of restarts and preemptions, duration."""

    code: int
    cause: str
    restarts: int
    preemptions: int
    seconds: float


class Supervisor:
    """Runs an engine's groups, one after the other.

    The first SIGINT, SIGTERM or SIGHUP is passed to the group as SIGTERM and ends the restarts; the second kills the group at
    once. With a detached engine the first one leaves the group running and ends the loop; before the group has started it
    raises KeyboardInterrupt.

    Args:
      log: prints one line.
    """

    def __init__(self, engine: Engine, limits: Limits, log: Callable[[str], None]):
        self._engine, self._limits, self._log = engine, limits, log
        self._group, self._stop_signals, self._term_sent = None, 0, math.inf
        self._restarts, self._preemptions, self._quick_failures = 0, 0, 0

    def run(self, running: Group | None = None) -> Result:
        """Returns when the group is done or is not restarted; then none of its processes is left.

        Args:
          running: a group that was started before, supervised as the first one.
        """
        began = time.monotonic()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # nohup ignores SIGHUP
        for number in handled:
            signal.signal(number, self._signalled)
        try:
            again = True
            while again:
                code, cause, seconds = self._once(running)
                running = None
                again = not self._stop_signals and self._restart_allowed(code, seconds)
        finally:
            for number in handled:
                signal.signal(number, before[number])
        return Result(code, cause, self._restarts, self._preemptions, time.monotonic() - began)

    def _signalled(self, number, frame):
        """Acts inside the handler: the main thread may be blocked in a write to a pipe that no process reads."""
        self._stop_signals += 1
        if self._engine.detached:
            if self._group is None:
                raise KeyboardInterrupt
        elif self._group is not None:
            self._terminate() if self._stop_signals == 1 else self._group.signal(signal.SIGKILL)

    def _terminate(self) -> None:
        """Sends SIGTERM, once per group: to many programs a second one means 'exit without saving'."""
        if self._term_sent == math.inf:
            self._term_sent = time.monotonic()
            self._group.signal(signal.SIGTERM)

    def _once(self, running: Group | None) -> tuple[int, str, float]:
        """Returns (exit class, cause, seconds) of one group, from its start until nothing is left of it."""
        began, self._term_sent = time.monotonic(), math.inf
        self._group = group = running or self._engine.start()
        try:
            ends = self._wait_for_all(group)
        finally:
            self._group = None
            group.close()
        if self._engine.restarts:
            self._restarts, self._preemptions = getattr(group, 'again', (0, 0))
        if self._engine.detached and self._stop_signals and group.running:
            return outcome.DETACHED, '', time.monotonic() - began
        end = outcome.cause(ends, self._term_sent)
        if end is None:
            return outcome.DONE, '', time.monotonic() - began
        code, cause = outcome.kind(end.code), str(end)
        if self._stop_signals and end.when > self._term_sent:
            cause = f'stopped by a signal to the launcher; {cause}'
        if group.stopped:
            self._stop_signals += 1
            cause = f'stopped by another command; {cause}'
        self._log(cause)
        if code != outcome.PREEMPTED:
            tail = group.tail(end.process)
            self._log('its last lines:' if tail else 'it wrote nothing')
            for line in tail:
                self._log(f'  {line}')
        return code, cause, time.monotonic() - began

    def _wait_for_all(self, group) -> list[outcome.End]:
        """Waits for every process; once one has ended badly, or the launcher was interrupted, stops the others."""
        ends, due = [], math.inf
        while group.running and not (self._engine.detached and self._stop_signals):
            new = group.wait(POLL_S)
            ends += new
            for end in new:
                if end.code != outcome.DONE and not self._limits.alone:
                    due = min(due, end.when + (JOINT_EXIT_S if end.code in outcome.TOGETHER else 0.0))
            now = time.monotonic()
            if (self._stop_signals and not self._engine.detached) or now >= due:
                self._terminate()
            if (self._stop_signals > 1 and not self._engine.detached) or now >= self._term_sent + self._limits.kill:
                group.signal(signal.SIGKILL)
        return ends

    def _restart_allowed(self, code: int, seconds: float) -> bool:
        """Whether the group is to be started again; waits out the pause before a restart."""
        if code == outcome.PREEMPTED and not self._engine.restarts:
            self._quick_failures = 0
            if self._preemptions >= self._limits.preemptions:
                self._log(f'--max_preemptions={self._limits.preemptions} is used up; run the same command again to resume')
                return False
            self._preemptions += 1
            self._log(f'restarts: preemption {self._preemptions} of {self._limits.preemptions}')
            return True
        if code != outcome.FAILED or self._engine.restarts:
            return False
        self._quick_failures = self._quick_failures + 1 if seconds < QUICK_FAILURE_S else 0
        if self._restarts >= self._limits.restarts:
            if self._limits.restarts:
                self._log(f'--max_restarts={self._limits.restarts} is used up')
            return False
        if self._quick_failures >= MAX_QUICK_FAILURES:
            self._log(f'failed within {QUICK_FAILURE_S:.0f} s, {self._quick_failures} times in a row; '
                      'not restarted')
            return False
        pause = min(MAX_PAUSE_S, 2.0 ** self._restarts)
        self._log(f'restarts in {pause:.0f} s: restart {self._restarts + 1} of {self._limits.restarts}')
        until = time.monotonic() + pause
        while time.monotonic() < until and not self._stop_signals:
            time.sleep(max(0.0, min(POLL_S, until - time.monotonic())))
        self._restarts += not self._stop_signals
        return not self._stop_signals
