"""Loss spikes: values far above those before them."""
import bisect
import collections
import math
from collections.abc import Sequence

SHARE = 0.5  # of the typical value, that a spike is above it at least
DEVIATIONS = 6  # above the typical value, likewise
LOG_DEVIATIONS = 5  # likewise, in the logarithm


def spikes(steps: Sequence[int], values: Sequence[float | None], window: int = 40,
           least: int = 10) -> list[tuple[int, float, float | None]]:
    """Where a loss jumps: [(step, value, what was typical before it), …].

    A value is compared with the finite ones before it, at most `window` of them and at least `least`. Typical is their
    median, and their deviation 1.4826 times the median absolute deviation from it (the standard deviation, were they
    normal). A spike is more than 6 deviations above the median, and more than half the median's size. Where all of them
    are positive it also has to be more than 5 deviations above in the logarithm: small losses scatter by factors, not by
    differences. A value that is not finite (None among them) is always a spike. Neighbouring spikes are one, reported by
    the highest of them.
    """
    found, before, ranked, inside = [], collections.deque(), [], False
    for step, value in zip(steps, values, strict=True):
        value = math.nan if value is None else value
        typical = _middle(ranked) if ranked else None
        spike = not math.isfinite(value) or (len(ranked) >= least and _jumps(value, typical, ranked))
        if spike and not (inside and _height(found[-1][1]) >= _height(value)):
            found[len(found) - inside:] = [(step, value, found[-1][2] if inside else typical)]  # typical before the first
        inside = spike
        if math.isfinite(value):
            before.append(value)
            bisect.insort(ranked, value)
            if len(before) > window:
                ranked.pop(bisect.bisect_left(ranked, before.popleft()))
    return found


def _jumps(value, typical, ranked) -> bool:
    """Whether a finite value is far above those before it, by the rule of `spikes`."""
    above = value - typical
    if above <= SHARE * abs(typical) or above <= DEVIATIONS * _deviation(ranked):
        return False
    if ranked[0] <= 0:
        return True
    logs = [math.log(v) for v in ranked]
    return math.log(value) - _middle(logs) > LOG_DEVIATIONS * _deviation(logs)


def _middle(ranked: Sequence[float]) -> float:
    """The median of sorted values."""
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def _deviation(ranked: Sequence[float]) -> float:
    middle = _middle(ranked)
    return 1.4826 * _middle(sorted(abs(v - middle) for v in ranked))


def _height(value: float) -> float:
    return value if math.isfinite(value) else math.inf
