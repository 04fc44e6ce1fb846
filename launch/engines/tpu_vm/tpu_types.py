"""TPU slices by their product's name: gcloud's accelerator type, number of machines, and the engines that offer them.

    v5e-16 -> v5litepod-16, 16 chips on 4 machines, v2-alpha-tpuv5-lite

This is the only such table (Cloud TPU documentation, 2026). A job can override the runtime version: --on=…,runtime=…
"""
import dataclasses
import re

from bigjax.errors import UserError
from bigjax.io.text import nearest

UBUNTU = 'tpu-ubuntu2204-base'
SQUARE = (1, 4, 8, 16, 32, 64, 128, 256)  # chips of the slices of v5e and v6e
CUBE = 64  # chips; every side of a v4 or v5p slice of at least this size is a multiple of four
GPUS = ('a100', 'b200', 'gb200', 'h100', 'h200', 'l4', 't4', 'v100')


@dataclasses.dataclass(frozen=True)
class Generation:
    """A kind of TPU.

    Attributes:
      type: the prefix of gcloud's accelerator type; '' if there are no TPU VMs of it.
      cores: units per chip in a name's number: 2 if it counts TensorCores, 1 if it counts chips.
      largest: chips of the largest slice.
      runtime: the software version of a TPU VM.
      also: other names of it.
      engines: the engines that offer it, besides 'sky', which offers what its clouds do.
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
      chips: its number of chips.
      workers: its number of machines, one process each; the cloud's own number takes precedence.
      type: gcloud's accelerator type.
      runtime: the software version of its machines.
    """

    name: str
    generation: str
    chips: int
    workers: int
    type: str
    runtime: str


def parse(text: str, engine: str) -> Slice:
    """The slice of a product's name, if the engine offers it.

    Raises:
      UserError: there is none of that name or size, or only another engine, which is named, offers it.
    """
    where = f'--on={engine}:{text}'
    match = re.fullmatch(r'([a-z0-9]+)-(\d{1,6})', text.lower())
    word = match[1] if match else re.split('[-:]', text.lower())[0]
    if word in GPUS:
        raise UserError(f'{where}: {word} is a GPU, and {engine} has none; fix: use --on=slurm:…, --on=ssh:… or --on=jobset:…',
                        code='launch/other-engine')
    if word not in NAMES or not match:
        alias = '' if word in NAMES else nearest(word, NAMES)
        near = f'; the nearest is {NAMES[alias]}' if alias else ''
        raise UserError(f'{where}: not the name of a TPU slice{near}; fix: write for example v5e-16, v5p-8, v4-32 or v6e-8',
                        code='launch/unknown-machine')
    name, number = NAMES[word], int(match[2])
    found = GENERATIONS[name]
    if engine not in found.engines:
        raise UserError(f'{where}: {engine} does not offer {name}; fix: use --on={found.engines[0]}:…',
                        code='launch/other-engine')
    chips = sorted(sizes(name), key=lambda size: abs(size * found.cores - number))[0]
    if chips * found.cores != number:
        counts = 'chips' if found.cores == 1 else 'TensorCores, two a chip'
        raise UserError(f'{where}: no slice has {number} ({counts}); fix: write for example {name}-{chips * found.cores}',
                        code='launch/no-such-size')
    return Slice(f'{name}-{number}', name, chips, workers(name, chips), f'{found.type}-{number}' if found.type else '',
                 found.runtime)


def sizes(name: str) -> list[int]:
    """The sizes of a generation's slices in chips, smallest first."""
    if name in ('v5e', 'v6e'):
        return list(SQUARE)
    largest = GENERATIONS[name].largest
    if name in ('v2', 'v3'):
        return [chips for chips in (4, 16, 32, 64, 128, 256, 512, 1024) if chips <= largest and (name, chips) != ('v2', 32)]
    return [4, 8, 16, 32, *range(CUBE, largest + 1, CUBE)]


def workers(name: str, chips: int) -> int:
    """The number of machines of a slice: a single machine of v5e or v6e has up to eight chips, one of several has four."""
    return 1 if name in ('v5e', 'v6e') and chips <= 8 else max(1, chips // 4)
