"""TPU slices by their product's name: what gcloud calls them, on how many machines they are, which engine can have them.

    v5e-16 -> v5litepod-16, 16 chips on 4 machines, v2-alpha-tpuv5-lite

The one table of it (Cloud TPU documentation, 2026). What it says of a generation can be changed for a job: --on=…,runtime=…
"""
import dataclasses
import re

from bigjax.errors import UserError
from launch.target import nearest

UBUNTU = 'tpu-ubuntu2204-base'
SQUARE = (1, 4, 8, 16, 32, 64, 128, 256)  # chips of the slices of v5e and v6e
CUBE = 64  # chips: from here on every side of a v4 or v5p slice is a multiple of four
GPUS = ('a100', 'b200', 'gb200', 'h100', 'h200', 'l4', 't4', 'v100')


@dataclasses.dataclass(frozen=True)
class Generation:
    """A kind of TPU.

    Attributes:
      type: what stands before the hyphen of gcloud's accelerator type; '' where there are no TPU VMs of it.
      cores: what the number in the name counts of each chip: 2 for TensorCores, 1 for chips.
      largest: chips of one slice.
      runtime: the version of the software on a TPU VM.
      also: other names that people use.
      engines: which can have it, beside 'sky', that can have what its clouds have.
    """

    type: str
    cores: int
    largest: int
    runtime: str
    also: tuple[str, ...] = ()
    engines: tuple[str, ...] = ('tpu_vm', 'jobset')


GENERATIONS = {
    'v2': Generation('v2', 2, 256, UBUNTU, engines=('tpu_vm',)),
    'v3': Generation('v3', 2, 1024, UBUNTU, engines=('tpu_vm',)),
    'v4': Generation('v4', 2, 4096, UBUNTU),
    'v5e': Generation('v5litepod', 1, 256, 'v2-alpha-tpuv5-lite', ('v5lite', 'v5litepod')),
    'v5p': Generation('v5p', 2, 6144, 'v2-alpha-tpuv5', ('v5',)),
    'v6e': Generation('v6e', 1, 256, 'v2-alpha-tpuv6e', ('v6', 'trillium')),
    'tpu7x': Generation('', 2, 9216, '', ('v7x', 'ironwood'), ('jobset',)),
}
NAMES = {name: key for key, generation in GENERATIONS.items() for name in (key, *generation.also)}


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
      name: the product's, 'v5e-16'.
      generation: 'v5e'.
      chips: of it.
      workers: machines, each with one process; the cloud has the last word.
      type: gcloud's accelerator type.
      runtime: the version of the software on its machines.
    """

    name: str
    generation: str
    chips: int
    workers: int
    type: str
    runtime: str


def parse(text: str, engine: str) -> Slice:
    """The slice of a product's name, as an engine can have it.

    Raises:
      UserError: there is none of that name or size, or the engine cannot have it; the one that can is named.
    """
    where = f'--on={engine}:{text}'
    match = re.fullmatch(r'([a-z0-9]+)-(\d{1,6})', text.lower())
    word = match[1] if match else re.split('[-:]', text.lower())[0]
    if word in GPUS:
        raise UserError(f'{where}: {word} is a GPU, and {engine} has none; use --on=slurm:…, --on=ssh:… or --on=jobset:…',
                        code='launch/other-engine')
    if word not in NAMES or not match:
        near = nearest(word, NAMES) if word not in NAMES else ''
        near = re.sub(r'\S+$', lambda alias: NAMES[alias[0]], near)
        raise UserError(f'{where}: not the name of a TPU slice{near}; write for example v5e-16, v5p-8, v4-32 or v6e-8',
                        code='launch/unknown-machine')
    name, number = NAMES[word], int(match[2])
    found = GENERATIONS[name]
    if engine not in found.engines:
        raise UserError(f"{where}: {name} is not to be had as {engine}; use --on={found.engines[0]}:…",
                        code='launch/other-engine')
    chips = sorted(sizes(name), key=lambda size: abs(size * found.cores - number))[0]
    if chips * found.cores != number:
        counts = 'chips' if found.cores == 1 else 'TensorCores, two a chip'
        raise UserError(f'{where}: there is no slice of {number} ({counts}); the nearest is {name}-{chips * found.cores}',
                        code='launch/no-such-size')
    return Slice(f'{name}-{number}', name, chips, workers(name, chips), f'{found.type}-{number}' if found.type else '',
                 found.runtime)


def sizes(name: str) -> list[int]:
    """The chips of the slices of a generation, the smallest first."""
    if name in ('v5e', 'v6e'):
        return list(SQUARE)
    largest = GENERATIONS[name].largest
    if name in ('v2', 'v3'):
        return [chips for chips in (4, 16, 32, 64, 128, 256, 512, 1024) if chips <= largest and (name, chips) != ('v2', 32)]
    return [4, 8, 16, 32, *range(CUBE, largest + 1, CUBE)]


def workers(name: str, chips: int) -> int:
    """Machines of a slice: of v5e and v6e one has up to eight chips where it is alone, and four where there are several."""
    return 1 if name in ('v5e', 'v6e') and chips <= 8 else max(1, chips // 4)
