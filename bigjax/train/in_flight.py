"""Bounds the number of dispatched calls that the device has not finished.

JAX returns from a call before it is computed. Without a bound the host may be hundreds of slow steps ahead, and all of them
have to end before a state can be saved: after SIGTERM the save would come too late.
"""
import collections

import jax

from bigjax.io.stopwatch import Stopwatch

LEAST_CALLS, MOST_CALLS = 2, 64
WORK_S = 0.5


class InFlight:
    """Waits for old calls, so that the device has at most `WORK_S` seconds of work queued, but `LEAST_CALLS` of any length."""

    def __init__(self):
        self._results, self._limit = collections.deque(), LEAST_CALLS
        self._watch, self._calls = Stopwatch(), 0

    def add(self, result: jax.Array) -> None:
        """Records the result of a call that was dispatched; returns when few enough calls are in flight."""
        self._results.append(result)
        self._calls += 1
        if len(self._results) <= self._limit:
            return
        for _ in range(len(self._results) - self._limit // 2):  # one wait for many calls: each wait wakes this thread up
            oldest = self._results.popleft()
        jax.block_until_ready(oldest)
        seconds, self._calls = self._limit * self._watch.lap() / self._calls, 0
        if seconds > WORK_S:
            self._limit = max(LEAST_CALLS, self._limit // 2)
        elif 2 * seconds <= WORK_S:
            self._limit = min(MOST_CALLS, 2 * self._limit)
