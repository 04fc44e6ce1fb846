"""The measurement of elapsed time, by a clock that never goes back."""
import time


class Stopwatch:
    """Counts the seconds since it was made, or since the last `lap`."""

    def __init__(self):
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """The seconds so far."""
        return time.perf_counter() - self._began

    def lap(self) -> float:
        """The seconds so far; the count starts again."""
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        return seconds
