"""How far the loop runs ahead of the device: far enough that it never stands still, and no further.

JAX returns from a call before it is computed. A loop that never waits may be hundreds of slow steps ahead, and all of them have
to end before a state can be saved: after a signal the save would come too late.
"""
import collections
import time

import jax

LEAST, MOST = 2, 64  # calls
SECONDS = 0.5  # of work


class Ahead:
    """Waits for old calls, so that the device has at most `SECONDS` of work before it, but two calls however long they are."""

    def __init__(self):
        self._flying, self._most = collections.deque(), LEAST
        self._since, self._calls = time.perf_counter(), 0

    def add(self, result: jax.Array) -> None:
        """A call is under way whose result this is; returns when few enough are."""
        self._flying.append(result)
        self._calls += 1
        if len(self._flying) <= self._most:
            return
        for _ in range(len(self._flying) - self._most // 2):  # one wait for many calls: each wakes this thread up
            oldest = self._flying.popleft()
        jax.block_until_ready(oldest)
        now = time.perf_counter()
        seconds = self._most * (now - self._since) / self._calls
        self._since, self._calls = now, 0
        if seconds > SECONDS:
            self._most = max(LEAST, self._most // 2)
        elif 2 * seconds <= SECONDS:
            self._most = min(MOST, 2 * self._most)
