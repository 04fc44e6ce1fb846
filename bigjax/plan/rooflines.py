"""A range of step times from FLOPs and bytes (Williams et al. 2009, rooflines), and the cost of a whole run.

low:  every engine works at its published peak, all at once: the longest of compute, HBM and network.
high: nothing overlaps, and each collective has one axis of the torus only: their sum.

A measured run on a chip, kept as {kind of chip: measured / low} in `experiments/results/plan/calibration.json`, moves the
range to measured numbers; until there is one, it is labelled as uncalibrated.
"""
import json
import pathlib

from bigjax.plan.topology import GPUS_A_HOST, Topology

CALIBRATION = pathlib.Path('experiments/results/plan/calibration.json')


def step(figures: dict, collectives, topology: Topology) -> dict | None:
    """Seconds of a step, utilisation, throughput and chip-hours, each (best, worst); None without numbers of the hardware."""
    hardware = topology.hardware
    if hardware is None:
        return None
    compute = figures['flops']['executed'] / topology.devices / hardware.flops
    memory = figures['hbm_bytes'] / hardware.hbm_bandwidth
    best, worst = (network(collectives, topology, fast) / figures['steps_per_call'] for fast in (True, False))
    low, high = max(compute, memory, best), compute + memory + worst
    ratio = calibration(hardware.kind)
    if ratio:
        low, high = low * ratio, min(high, low * ratio * 1.2)
    amount = figures['batch_size'] * figures['population'] * figures['unit']['per_example']
    bound = figures['flops']['model'] / (topology.devices * hardware.flops)
    chip_hours = lambda t: figures['steps'] * t * topology.chips / 3600
    return {'compute': compute, 'hbm': memory, 'network': [best, worst], 'step': [low, high],
            'mfu': [bound / low, bound / high], 'per_second': [amount / low, amount / high],
            'chip_hours': [chip_hours(low), chip_hours(high)],
            'calibrated': ratio}


def network(collectives, topology: Topology, fast: bool) -> float:
    """Seconds of all messages of one call."""
    hardware, total = topology.hardware, 0.0
    near = hardware.near if fast else hardware.near_axis
    for c in collectives:
        slow = c.kind == 'send between slices' or (topology.platform == 'gpu' and c.group > GPUS_A_HOST)
        total += c.times * c.wire / (hardware.far if slow else near)
    return total


def calibration(kind: str, path: pathlib.Path = CALIBRATION) -> float | None:
    """Measured over predicted time of a chip, where a real run was recorded."""
    if not path.is_file():
        return None
    return json.loads(path.read_text()).get(kind)
