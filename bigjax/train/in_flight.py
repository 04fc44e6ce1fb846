"""How far the loop runs ahead of the device: far enough that the device is never idle, and no further.

JAX returns from a call before it is computed. A loop that never waits may be hundreds of slow steps ahead, and all of them have
to end before a state can be saved: after a signal the save would come too late.
"""
import collections
import time

import jax

MIN_CALLS, MAX_CALLS = 2, 64
MAX_WORK_S = 0.5  # of dispatched work that the device has not done


class InFlight:
    """Waits for old calls, so that at most `MAX_WORK_S` of work is dispatched, but two calls however long they are."""

    def __init__(self):
        self._in_flight, self._most = collections.deque(), MIN_CALLS
        self._since, self._calls = time.perf_counter(), 0

    def add(self, result: jax.Array) -> None:
        """A call with this result was dispatched; returns when few enough are in flight."""
        self._in_flight.append(result)
        self._calls += 1
        if len(self._in_flight) <= self._most:
            return
        for _ in range(len(self._in_flight) - self._most // 2):  # one wait for many calls: each wait wakes this thread up
            oldest = self._in_flight.popleft()
        jax.block_until_ready(oldest)
        now = time.perf_counter()
        seconds = self._most * (now - self._since) / self._calls
        self._since, self._calls = now, 0
        if seconds > MAX_WORK_S:
            self._most = max(MIN_CALLS, self._most // 2)
        elif 2 * seconds <= MAX_WORK_S:
            self._most = min(MAX_CALLS, 2 * self._most)
