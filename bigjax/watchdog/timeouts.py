"""Phases that do not end: which process is to blame, and a last resort where no Python code can run.

A process that is blocked inside a collective waits for another one, so it must not be reported as stuck first. One that is over
its timeout inside a library queries its peers, and holds back while one of them reports work that is in time.
"""
import contextlib
import faulthandler
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

from bigjax.distributed.peers import PeerLinks
from bigjax.watchdog.phases import Clock

WAITER_GRACE_S = 5.0  # extra time for a process blocked in a collective, so that the culprit reports first
INQUIRY_EVERY_S = 1.0  # time between two questions to the peers, and between two settings of the last resort
ALIVE_REPLY_TTL_S = 3.0  # an answer excuses this process for so long
HARD_EXIT_S = 60.0  # beyond its timeout a phase ends the process even if no thread of Python runs
LIBRARIES = ('jax', 'jaxlib', 'orbax', 'grain', 'bigjax.sharding', 'bigjax.distributed')  # they may wait for other processes
# NumPy blocks on a device below frames of these modules and has no frame of its own.
DEVICE = tuple(f'bigjax.train.{name}' for name in (
    'loop', 'evaluate', 'evaluations', 'interval_log', 'diagnostics', 'best', 'in_flight', 'stuck_params'))
OWN_WORK = ('compile', 'data')  # phases in which a library works and does not wait for other processes


class PhaseTimeout(Exception):
    """A phase did not end within its time."""


class PhaseTimer:
    """Compares the phase of the main thread with its timeout.

    Args:
      timeouts: {phase: seconds}; other phases may last.
      peers: the links to the other processes, where there are any.
      clock: `clock()` returns the clock of the current run.

    Attributes:
      ending: the main thread waits for the other processes to end.
    """

    def __init__(self, timeouts: Mapping[str, float], peers: PeerLinks | None, clock: Callable[[], Clock]):
        self._timeouts, self._peers, self._clock = dict(timeouts), peers, clock
        self._inquired = self._excused = self._armed = -math.inf
        self.ending = False

    def overdue(self) -> str:
        """A description of the stuck phase, '' where none is stuck or another process is to blame."""
        now, at = self._clock().now, time.monotonic()
        timeout = self._timeouts.get(now.phase)
        if not timeout or at - now.since <= timeout or not self._to_blame(at - now.since - timeout):
            return ''
        return (f"stuck: step {now.step:,}, '{now.phase}' for {at - now.since:.0f} s, timeout {timeout:.0f} s "
                f'(--phase_timeouts={now.phase}:SECONDS)')

    def _to_blame(self, over: float) -> bool:
        """Whether this process is the one that hangs, `over` seconds beyond its timeout, and does not wait for another."""
        if self._peers is None or not self._in_library():
            return True
        at = time.monotonic()
        if at > self._inquired + INQUIRY_EVERY_S:
            self._inquired = at
            self._peers.send('where')
        return over > WAITER_GRACE_S and at > self._excused

    def handle(self, kind: str) -> None:
        """Takes a peer's question ('where') or its report of work in time ('at')."""
        if kind == 'at':
            self._excused = time.monotonic() + ALIVE_REPLY_TTL_S
            return
        self._inquired = time.monotonic()  # the answer goes to all, so this process need not send its own question
        now = self._clock().now
        timeout, lasts = self._timeouts.get(now.phase, math.inf), time.monotonic() - now.since
        if lasts < timeout and (now.phase in OWN_WORK or not self._in_library()):
            self._peers.send('at', json.dumps({'phase': now.phase, 'step': now.step, 'seconds': round(lasts)}))

    def _in_library(self) -> bool:
        """Whether the main thread is inside a library or reads a device, where it may be waiting for another process."""
        frame = sys._current_frames().get(threading.main_thread().ident)
        places = [os.path.join(folder, '') for name in LIBRARIES for folder in getattr(sys.modules.get(name), '__path__', ())]
        places += [sys.modules[name].__file__ for name in DEVICE if name in sys.modules]
        return self.ending or (frame is not None and frame.f_code.co_filename.startswith(tuple(places)))

    def arm(self) -> None:
        """Sets the last resort: where the main thread keeps Python's lock, only a thread of the system can end the process."""
        now, at = self._clock().now, time.monotonic()
        if at < self._armed + INQUIRY_EVERY_S:
            return
        self._armed, timeout = at, self._timeouts.get(now.phase)
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # there may be no stderr
            if timeout:
                left = max(0.0, now.since + timeout - at)
                faulthandler.dump_traceback_later(left + HARD_EXIT_S, exit=True, file=sys.__stderr__)
            else:
                faulthandler.cancel_dump_traceback_later()
