"""Two sides timed in turn."""
import time
from collections.abc import Callable

import numpy as np

from bigjax.bench import load


def paired(runs: dict[str, Callable], pairs: int, seconds: float = 0.3) -> dict[str, list[float]]:
    """Milliseconds of one call of each `run(n)`, in turn, `pairs` times; n is chosen to last about `seconds`."""
    counts = {}
    for name, run in runs.items():
        run(1)
        started = time.perf_counter()
        run(2)
        counts[name] = max(1, min(1000, round(seconds / max((time.perf_counter() - started) / 2, 1e-6))))
    found = {name: [] for name in runs}
    for _ in range(pairs):
        for name, run in runs.items():
            started = time.perf_counter()
            run(counts[name])
            found[name].append((time.perf_counter() - started) / counts[name] * 1e3)
    return found


def compare(run: Callable, peer: Callable | None, pairs: int, target: float | None, steps_per_call: int = 1) -> dict:
    """The figures of `run(n)` beside those of `peer(n)`, per step; `target` is the ratio at which ours is within its target."""
    used = lambda: load.counters(getattr(peer, 'used_s', 0.0))
    if peer:
        peer(1)
    load.forget_peak()
    before = used()
    times = paired({'ours': run, **({'peer': peer} if peer else {})}, pairs)
    others = load.share_of_others(before, used())
    apart = peer is None or hasattr(peer, 'peak_bytes')  # otherwise one process holds the memory of both
    ours = [time / steps_per_call for time in times['ours']]
    ratios = [a / b for a, b in zip(ours, times.get('peer', ()), strict=False)]
    return {'ours_ms': float(np.median(ours)), 'peer_ms': float(np.median(times['peer'])) if peer else None,
            'ratio': float(np.median(ratios)) if ratios else None, 'target': target,
            'judged': others is None or others < load.BUSY_SHARE, 'others_share': others,
            'ratio_min': min(ratios, default=None), 'ratio_max': max(ratios, default=None), 'pairs': pairs,
            'spread_ms': [min(ours), max(ours)], 'ours_peak_bytes': load.peak_bytes() if apart else None,
            'peer_peak_bytes': getattr(peer, 'peak_bytes', None)}
