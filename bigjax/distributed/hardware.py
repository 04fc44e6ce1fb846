"""Peak rates and memory of devices, for plans and for the utilisation in every log line.

Sources of the numbers: peaks, HBM and interconnect of TPUs from the pages "TPU v4", "v5e", "v5p", "v6e" and "TPU7x" of the
Cloud TPU documentation (a published bidirectional bandwidth is halved); usable HBM from the text of libtpu's own refusals
(0.0.42); H100 and H200 from NVIDIA's data sheets (dense bf16) with eight GPUs per host and one 400 Gb/s NIC per GPU, and usable
HBM as the three quarters that JAX allocates by default (XLA_PYTHON_CLIENT_MEM_FRACTION). The network between TPU slices is
50 Gb/s per chip on v5p and about that on the others.
A100 and L4: NVIDIA's data sheets. The peak of a CPU is measured: its fastest product in float32.
"""
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import re
import time
from collections.abc import Sequence

import jax
import numpy as np

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One device as JAX sees it: a chip, or one of the two cores of a TPU7x.

    Attributes:
      kind: its name in JAX.
      flops: bf16 FLOP/s.
      hbm: bytes that a program may use; None without a limit.
      hbm_bandwidth: bytes/s.
      near: bytes/s that a device receives over all links of the fast network (ICI, NVLink).
      near_axis: bytes/s over the two links of one axis of the torus; on GPUs as `near`.
      far: bytes/s of the slow network (between slices or hosts).
    """

    kind: str
    flops: float
    hbm: float | None
    hbm_bandwidth: float
    near: float
    near_axis: float
    far: float


HARDWARE = {
    'v4': Hardware('TPU v4', 275e12, 30.75 * GIB, 1228e9, 300e9, 100e9, 6.25e9),
    'v5e': Hardware('TPU v5 lite', 197e12, 15.75 * GIB, 819e9, 200e9, 100e9, 3.125e9),
    'v5p': Hardware('TPU v5', 459e12, 95.74 * GIB, 2765e9, 600e9, 200e9, 6.25e9),
    'v6e': Hardware('TPU v6 lite', 918e12, 31.25 * GIB, 1638e9, 400e9, 200e9, 6.25e9),
    'tpu7x': Hardware('TPU7x', 1153.5e12, 94.75 * GIB, 3690e9, 300e9, 100e9, 6.25e9),
    'h100': Hardware('NVIDIA H100 80GB HBM3', 989e12, 0.75 * 84942979072, 3352e9, 450e9, 450e9, 50e9),
    'h200': Hardware('NVIDIA H200', 989e12, 0.75 * 151397597184, 4800e9, 450e9, 450e9, 50e9),
}
OTHER_PEAKS = {'NVIDIA A100-SXM4-80GB': 312e12, 'NVIDIA A100-SXM4-40GB': 312e12, 'NVIDIA L4': 121e12}  # no plans for these
MEASURED = 'peaks.json'  # in the folder of compiled programs: {machine: FLOP/s}


def peak(devices: Sequence) -> float | None:
    """FLOP/s of devices together: bf16 by their data sheets, or all cores of a CPU in float32 as measured; None: unknown."""
    if devices[0].platform == 'cpu':  # fake devices share the cores
        return cpu_peak(jax.config.jax_compilation_cache_dir) * len({d.process_index for d in devices})
    known = {**{h.kind: h.flops for h in HARDWARE.values()}, **OTHER_PEAKS}.get(devices[0].device_kind)
    return known and known * len(devices)


def cpu_peak(folder: str | None) -> float:
    """FLOP/s of the fastest product measured on this machine: a short measurement now, and the best one kept in `folder`."""
    machine = f'{processor("model name")} x {os.cpu_count()} jax {jax.__version__}'
    path = pathlib.Path(folder, MEASURED) if folder else None
    known = _read(path) if path else {}
    now = _measure(0.1 if machine in known else 0.5)
    if path and now > known.get(machine, 0.0):
        with contextlib.suppress(OSError):  # measured again next time
            path.write_text(json.dumps({**known, machine: now}))
    return max(now, known.get(machine, 0.0))


def _read(path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # none yet, or half written by a process that was killed


def processor(*fields: str) -> str:
    """A field ('model name', 'flags') of this machine's first processor from /proc/cpuinfo, or Python's name for it."""
    info = pathlib.Path('/proc/cpuinfo')
    text = info.read_text() if info.is_file() else ''
    found = re.search(rf"^(?:{'|'.join(fields)})\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _measure(seconds: float, size: int = 1024) -> float:
    """The best of many products of size^3 multiplications."""
    x = jax.device_put(np.ones((size, size), np.float32), jax.local_devices(backend='cpu')[0])
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(x, x).block_until_ready()
    best, until = float('inf'), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
