"""The restart loop, the same for every engine: start the group, wait, find the cause, start it again where that makes sense.

Engines and groups are those of `launch.engines.base`. Where one process has ended badly the others get SIGTERM, and a while
after the grace SIGKILL; of an array, where each works on its own, they go on.
"""
import dataclasses
import math
import signal
import time
from collections.abc import Callable

from launch import outcome
from launch.engines.base import Engine, Group

TICK = 0.1  # seconds between two looks at the clock
COURTESY = 5.0  # seconds for the others to reach an exit that all reach together, before SIGTERM
QUICK, QUICK_IN_A_ROW = 10.0, 3  # a group that fails in so many seconds, so many times, fails always
LONGEST_PAUSE = 60.0  # seconds
LATER = 10.0  # seconds, at most a third of the grace: who needs all of it still ends by itself, with its own exit code
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How often a group is started again after a failure and after a preemption; seconds after SIGTERM that a process may use;
    whether each process works on its own."""

    restarts: int = 0
    preemptions: int = 100
    grace: float = 30.0
    alone: bool = False

    @property
    def kill(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return self.grace + min(LATER, self.grace / 3)


@dataclasses.dataclass(frozen=True)
class Result:
    """How it all ended: the exit class, its cause in words ('' where all is well), how many restarts, seconds in all."""

    code: int
    cause: str
    restarts: int
    preemptions: int
    seconds: float


class Supervisor:
    """Runs an engine's groups, one after the other.

    The first SIGINT, SIGTERM or SIGHUP that it gets is passed to the group as SIGTERM, and nothing is started any more; the
    second kills the group at once. Where the engine is detached, the first one leaves the group alone and ends the loop; before
    the group has started it is a KeyboardInterrupt.

    Args:
      say: told what happens, line by line.
    """

    def __init__(self, engine: Engine, limits: Limits, say: Callable[[str], None]):
        self._engine, self._limits, self._say = engine, limits, say
        self._group, self._stops, self._told = None, 0, math.inf
        self._restarts, self._preemptions, self._quick = 0, 0, 0

    def run(self, running: Group | None = None) -> Result:
        """Returns when the group is done, or is not started again; then none of its processes is left.

        Args:
          running: the first group, where it has been started before.
        """
        began = time.monotonic()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # nohup, or in the background
        for number in heard:
            signal.signal(number, self._signalled)
        try:
            again = True
            while again:
                code, cause, seconds = self._once(running)
                running = None
                again = not self._stops and self._start_again(code, seconds)
        finally:
            for number in heard:
                signal.signal(number, before[number])
        return Result(code, cause, self._restarts, self._preemptions, time.monotonic() - began)

    def _signalled(self, number, frame):
        """At once, whatever the launcher is doing: it may be waiting for somebody to read its output."""
        self._stops += 1
        if self._engine.detached:
            if self._group is None:
                raise KeyboardInterrupt
        elif self._group is not None:
            self._terminate() if self._stops == 1 else self._group.signal(signal.SIGKILL)

    def _terminate(self) -> None:
        """SIGTERM, once in the life of a group: a second one means 'without saving' to many programs."""
        if self._told == math.inf:
            self._told = time.monotonic()
            self._group.signal(signal.SIGTERM)

    def _once(self, running: Group | None) -> tuple[int, str, float]:
        """(exit class, cause, seconds) of one group, from its start until nothing is left of it."""
        began, self._told = time.monotonic(), math.inf
        self._group = group = running or self._engine.start()
        try:
            ends = self._attend(group)
        finally:
            self._group = None
            group.close()
        if self._engine.restarts:
            self._restarts, self._preemptions = getattr(group, 'again', (0, 0))
        if self._engine.detached and self._stops and group.running:
            return outcome.DETACHED, '', time.monotonic() - began
        end = outcome.cause(ends, self._told)
        if end is None:
            return outcome.DONE, '', time.monotonic() - began
        code, cause = outcome.kind(end.code), str(end)
        if self._stops and end.when > self._told:
            cause = f'stopped by a signal to the launcher; {cause}'
        if group.stopped:
            self._stops += 1
            cause = f'stopped by somebody; {cause}'
        self._say(cause)
        if code != outcome.PREEMPTED:
            tail = group.tail(end.process)
            self._say('its last lines:' if tail else 'it wrote nothing')
            for line in tail:
                self._say(f'  {line}')
        return code, cause, time.monotonic() - began

    def _attend(self, group) -> list[outcome.End]:
        """Waits for all; once one has ended badly, or the launcher is to stop, sees to the end of the others."""
        ends, due = [], math.inf
        while group.running and not (self._engine.detached and self._stops):
            new = group.wait(TICK)
            ends += new
            for end in new:
                if end.code != outcome.DONE and not self._limits.alone:
                    due = min(due, end.when + (COURTESY if end.code in outcome.TOGETHER else 0.0))
            now = time.monotonic()
            if (self._stops and not self._engine.detached) or now >= due:
                self._terminate()
            if (self._stops > 1 and not self._engine.detached) or now >= self._told + self._limits.kill:
                group.signal(signal.SIGKILL)
        return ends

    def _start_again(self, code: int, seconds: float) -> bool:
        """Whether to, having waited as long as is right."""
        if code == outcome.PREEMPTED and not self._engine.restarts:
            self._quick = 0
            if self._preemptions >= self._limits.preemptions:
                self._say(f'--max_preemptions={self._limits.preemptions} are used up; run the same command again')
                return False
            self._preemptions += 1
            self._say(f'starts again: preemption {self._preemptions} of {self._limits.preemptions}')
            return True
        if code != outcome.FAILED or self._engine.restarts:
            return False
        self._quick = self._quick + 1 if seconds < QUICK else 0
        if self._restarts >= self._limits.restarts:
            if self._limits.restarts:
                self._say(f'--max_restarts={self._limits.restarts} are used up')
            return False
        if self._quick >= QUICK_IN_A_ROW:
            self._say(f'failed within {QUICK:.0f} s, {self._quick} times in a row; gives up, as starting again does not help')
            return False
        pause = min(LONGEST_PAUSE, 2.0 ** self._restarts)
        self._say(f'starts again in {pause:.0f} s: restart {self._restarts + 1} of {self._limits.restarts}')
        until = time.monotonic() + pause
        while time.monotonic() < until and not self._stops:
            time.sleep(max(0.0, min(TICK, until - time.monotonic())))
        self._restarts += not self._stops
        return not self._stops
