"""Accelerators as Kubernetes schedules them: node labels, the name of the resource, and the count per machine.

    v6e-16 -> cloud.google.com/gke-tpu-accelerator: tpu-v6e-slice, gke-tpu-topology: 4x4, google.com/tpu: 4 on 4 machines
    h100:8 -> cloud.google.com/gke-accelerator: nvidia-h100-80gb, nvidia.com/gpu: 8

`launch.engines.tpu_vm.tpu_types` has the TPUs themselves; this adds the labels of Google Kubernetes Engine (its
documentation, 2026).
"""
import dataclasses
import math
import re

from bigjax.errors import UserError
from bigjax.io.text import hint
from launch.engines.tpu_vm import tpu_types

TPUS = {'v4': 'tpu-v4-podslice', 'v5e': 'tpu-v5-lite-podslice', 'v5p': 'tpu-v5p-slice', 'v6e': 'tpu-v6e-slice',
        'tpu7x': 'tpu7x'}
FLAT = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}  # v5e, v6e
SMALL = {4: '2x2x1', 8: '2x2x2', 16: '2x2x4', 32: '2x4x4'}  # the others, below one cube of 4x4x4
GPUS = {'a100': 'nvidia-tesla-a100', 'a100-80gb': 'nvidia-a100-80gb', 'b200': 'nvidia-b200', 'gb200': 'nvidia-gb200',
        'h100': 'nvidia-h100-80gb', 'h100-mega': 'nvidia-h100-mega-80gb', 'h200': 'nvidia-h200-141gb', 'l4': 'nvidia-l4',
        't4': 'nvidia-tesla-t4', 'v100': 'nvidia-tesla-v100'}
XPK = {'a100': 'a100-40gb', 'h100': 'h100-80gb', 'h100-mega': 'h100-mega-80gb', 'h200': 'h200-141gb'}


@dataclasses.dataclass(frozen=True)
class Machines:
    """The machine of one process, and the number of such machines in a slice.

    Attributes:
      name: the type as --on writes it.
      kind: 'tpu', 'gpu' or 'cpu'.
      labels: the node labels to select.
      resource, count: the resource of a machine that a pod requests.
      hosts: machines of a TPU slice; 1 for others.
      xpk: xpk's name of the type; '' if xpk does not support it.
    """

    name: str
    kind: str
    labels: dict[str, str]
    resource: str
    count: int
    hosts: int = 1
    xpk: str = ''


def parse(text: str, topology: str = '', chips: int = 0) -> Machines:
    """Parses 'v6e-16', 'h100:8', 'gpu:8' (of any kind) or 'cpu:4'.

    Args:
      text: a TPU product's name, or KIND:COUNT of each machine.
      topology: the topology of a TPU slice, '' for the usual one.
      chips: chips per machine, for slices that exist with several kinds of machines (v5e-8, v6e-8: 8, or 4).

    Raises:
      UserError: there is no machine of that name or size.
    """
    kind, colon, number = text.lower().partition(':')
    if not colon and kind not in ('gpu', 'cpu', *GPUS):
        return _tpu(text, topology, chips)
    if kind not in ('gpu', 'cpu', *GPUS):
        near = hint(kind, GPUS)
        raise UserError(f"--on=jobset:{text}: no '{kind}'{near}; fix: write one of {', '.join(GPUS)}, gpu (any) or cpu",
                        code='launch/unknown-machine')
    if not number.isdigit() or not int(number):
        raise UserError(f'--on=jobset:{text}: no count per machine; fix: write for example {kind}:8', code='launch/bad-value')
    if topology or chips:
        raise UserError(f'--on=jobset:{text}: only TPUs have topology and chips; fix: leave them out', code='launch/conflict')
    if kind == 'cpu':
        return Machines(text, 'cpu', {}, 'cpu', int(number))
    labels = {'cloud.google.com/gke-accelerator': GPUS[kind]} if kind in GPUS else {}
    return Machines(text, 'gpu', labels, 'nvidia.com/gpu', int(number), xpk=f'{XPK.get(kind, kind)}-{number}' if labels else '')


def _tpu(text: str, topology: str, chips: int) -> Machines:
    found = tpu_types.parse(text, 'jobset')
    topology = topology or usual(found.generation, found.chips)
    flat = found.generation in ('v5e', 'v6e')
    if not re.fullmatch(r'\d+x\d+' if flat else r'\d+x\d+x\d+', topology) or size(topology) != found.chips:
        raise UserError(f"--on=jobset:{text}: got topology={topology}, expected {found.chips} chips in {2 if flat else 3} "
                        f'dimensions; fix: write for example {usual(found.generation, found.chips)}',
                        code='launch/bad-topology')
    can = {1: (1,), 4: (4,), 8: (8, 4)}.get(found.chips, (4,)) if flat else (4,)
    if chips and chips not in can:
        raise UserError(f"--on=jobset:{text}: got chips={chips}, expected {' or '.join(map(str, can))} per machine",
                        code='launch/bad-value')
    count = chips or can[0]
    labels = {'cloud.google.com/gke-tpu-accelerator': TPUS[found.generation], 'cloud.google.com/gke-tpu-topology': topology}
    number = found.name.partition('-')[2]
    return Machines(found.name, 'tpu', labels, 'google.com/tpu', count, found.chips // count,
                    f"{'v5litepod' if found.generation == 'v5e' else found.generation}-{number}")


def usual(generation: str, chips: int) -> str:
    """The topology of a slice that is nearest to a square or a cube: 16 chips of v6e -> '4x4', 512 of v5p -> '8x8x8'."""
    if generation in ('v5e', 'v6e'):
        return FLAT[chips]
    if chips in SMALL:
        return SMALL[chips]
    cubes = chips // tpu_types.CUBE
    sides = [(a, b, cubes // a // b) for a in range(1, math.isqrt(cubes) + 1) if cubes % a == 0
             for b in range(a, math.isqrt(cubes // a) + 1) if cubes // a % b == 0]
    return 'x'.join(str(4 * side) for side in min(sides, key=sum))


def size(topology: str) -> int:
    """The number of chips: '4x4x8' -> 128."""
    return math.prod(map(int, topology.split('x')))
