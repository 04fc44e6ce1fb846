"""How far other processes disturb a timing, and how much memory a side takes, from the kernel's counters.

A busy machine flatters whichever side waits less at barriers, so a ratio that was measured on one is not judged.
"""
import os
import resource
import sys
import time
from typing import NamedTuple

BUSY_SHARE = 0.08  # of all cores, used by other processes: from here on a ratio is not judged
STAT = '/proc/stat'
STATUS, CLEAR_REFS = '/proc/self/status', '/proc/self/clear_refs'
FORGET_PEAK = '5'  # proc(5): the peak becomes what is resident now


class Counters(NamedTuple):
    """The kernel's counters at one moment.

    Attributes:
      wall_s: a monotonic clock, seconds.
      busy_s: seconds of all cores that were not idle, for any process; None where the system does not count them.
      own_s: seconds of all cores that this process and the peer's have used.
    """

    wall_s: float
    busy_s: float | None
    own_s: float


def _busy(text: str) -> float:
    """Seconds that the cores were not idle, from the text of /proc/stat (proc(5): user, nice, system, idle, iowait, …)."""
    ticks = [int(word) for word in text.split('\n', 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf('SC_CLK_TCK')


def counters(peer_s: float = 0.0) -> Counters:
    """The counters now; `peer_s`: seconds of all cores that the peer's own process has used."""
    try:
        with open(STAT) as file:
            busy = _busy(file.read())
    except (OSError, ValueError, IndexError):
        busy = None
    return Counters(time.perf_counter(), busy, time.process_time() + peer_s)


def share_of_others(before: Counters, after: Counters) -> float | None:
    """The share of all cores that other processes used in between, 0 to 1; None where it is not known."""
    if before.busy_s is None or after.busy_s is None or after.wall_s <= before.wall_s:
        return None
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, others / ((after.wall_s - before.wall_s) * (os.cpu_count() or 1))))


def forget_peak() -> None:
    """Makes `peak_bytes` count from here on, where the system can."""
    try:
        with open(CLEAR_REFS, 'w') as file:
            file.write(FORGET_PEAK)
    except OSError:
        pass


def peak_bytes() -> int:
    """The most memory that this process has had resident since `forget_peak`, or since its beginning.

    On an accelerator, it is the most that PyTorch, or JAX where there is no PyTorch, has allocated there since the beginning.
    """
    torch, jax = sys.modules.get('torch'), sys.modules.get('jax')
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if torch is None and jax is not None and (stats := jax.local_devices()[0].memory_stats()):  # PyTorch uses no JAX
        return int(stats['peak_bytes_in_use'])
    try:
        with open(STATUS) as file:
            line = next(line for line in file if line.startswith('VmHWM'))
        return int(line.split()[1]) << 10
    except (OSError, StopIteration, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def minor_faults() -> int:
    """Pages that this process has had to map so far without reading a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
