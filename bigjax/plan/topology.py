"""Names of accelerator slices -> chips, shapes, and the numbers of the hardware.

    v5e:4x4   v5p:4x8x8   tpu7x:4x4x4     by the shape of the slice, in chips
    v5e-16    v5p-512     v4-32           by the product's name; v4, v5p and tpu7x count cores (two a chip), v5e and v6e chips
    v5e:16x16*2   v5e-256*2               several slices, joined by the data centre's network
    h100:64   h200:8                      GPUs, eight a host
    cpu:8                                 fake devices of this machine
"""
import dataclasses
import math
import re

from bigjax.distributed.hardware import HARDWARE, Hardware
from bigjax.errors import UserError

EXAMPLE = "write for example 'v5e-16', 'v5p:4x8x8', 'v5e:16x16*2', 'h100:64' or 'cpu:8'"


ALIASES = {'v5': 'v5p', 'v5litepod': 'v5e', 'v5lite': 'v5e', 'v6': 'v6e', 'v7x': 'tpu7x', 'ironwood': 'tpu7x',
           'trillium': 'v6e'}
SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))  # v5e and v6e
SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))  # under one cube of 4x4x4
LARGEST = {'v4': 4096, 'v5p': 6144, 'tpu7x': 9216}  # chips of one slice
GPUS, GPUS_A_HOST = ('h100', 'h200'), 8


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or several.

    Attributes:
      text: as the user wrote it.
      platform: 'tpu', 'gpu' or 'cpu'.
      generation: 'v5e', 'h100', 'cpu', …
      shape: of one slice in chips; (hosts, GPUs a host) of GPUs.
      slices: how many.
    """

    text: str
    platform: str
    generation: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """The number of chips of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """The number of JAX devices."""
        return self.chips * (2 if self.generation == 'tpu7x' else 1)

    @property
    def hardware(self) -> Hardware | None:
        """The numbers of one device; None for a CPU."""
        return HARDWARE.get(self.generation)

    @property
    def name(self) -> str:
        """The compiler's name of one slice."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        if self.platform != 'tpu':
            return f'{self.chips} x {self.hardware.kind if self.hardware else "fake CPU device"}'
        shape = 'x'.join(map(str, self.shape))
        return f"TPU {self.generation} {shape}{f' x {self.slices} slices' if self.slices > 1 else ''} = {self.chips} chips"


def parse(text: str) -> Topology:
    """The topology that a name means.

    Raises:
      UserError: it is not a name, or no such slice can be bought; the nearest that can is named.
    """
    whole, _, slices = text.strip().lower().partition('*')
    match = re.fullmatch(r'([a-z0-9]+?)\s*([:-])\s*(\d+(?:x\d+)*)', whole)
    if not match or (slices and (not slices.isdigit() or int(slices) < 1)):
        raise UserError(f"--topology: got '{text}', expected the name of a slice; fix: {EXAMPLE}", code='plan/no-slice')
    generation, mark, size = match.groups()
    generation, shape = ALIASES.get(generation, generation), tuple(int(n) for n in size.split('x'))
    count = int(slices or 1)
    if generation == 'cpu':
        return Topology(text, 'cpu', 'cpu', _one_number(text, shape, count))
    if generation in GPUS:
        return Topology(text, 'gpu', generation, _hosts(text, generation, _one_number(text, shape, count)[0]))
    if generation not in HARDWARE:
        raise UserError(f"--topology: got '{text}', expected one of {', '.join([*HARDWARE, 'cpu'])}; fix: {EXAMPLE}",
                        code='plan/no-slice')
    if mark == '-' or len(shape) == 1:
        return Topology(text, 'tpu', generation, _product(text, generation, shape), count)
    if tuple(sorted(shape)) not in {tuple(sorted(s)) for s in shapes(generation)}:
        raise UserError(f"--topology: got '{text}', expected a slice that can be bought; fix: the nearest is "
                        f'{_written(generation, nearest(generation, math.prod(shape)), count)}', code='plan/not-sold')
    return Topology(text, 'tpu', generation, shape, count)


def shapes(generation: str) -> list[tuple[int, ...]]:
    """The slices of a TPU generation that can be bought, smallest first (Cloud TPU documentation)."""
    if generation in ('v5e', 'v6e'):
        return list(SQUARES)
    multiples = range(4, 25, 4)  # from one cube on every side is a multiple of four
    cubes = [(a, b, c) for a in multiples for b in multiples for c in multiples
             if a <= b <= c and a * b * c <= LARGEST[generation]]
    return [*SMALL_CUBES, *sorted(cubes, key=lambda s: (math.prod(s), s[2]))]


def nearest(generation: str, chips: int) -> tuple[int, ...]:
    """The slice whose number of chips is nearest, by ratio; of equals the most compact."""
    return min(shapes(generation), key=lambda s: (abs(math.log(math.prod(s) / max(1, chips))), max(s)))


def _product(text: str, generation: str, shape: tuple) -> tuple[int, ...]:
    """The shape of 'v5p-512'."""
    (number,) = _one_number(text, shape, 1)
    cores = 1 if generation in ('v5e', 'v6e') else 2
    fitting = nearest(generation, max(1, number // cores))
    if math.prod(fitting) * cores != number:
        raise UserError(f"--topology: got '{text}', expected a slice that can be bought; fix: the nearest is "
                        f'{generation}-{math.prod(fitting) * cores} ({_written(generation, fitting, 1)}, '
                        f'{math.prod(fitting)} chips)', code='plan/not-sold')
    return fitting


def _one_number(text, shape, slices) -> tuple[int]:
    if len(shape) != 1 or slices != 1 or shape[0] < 1:
        raise UserError(f"--topology: got '{text}', expected one number of devices; fix: {EXAMPLE}", code='plan/no-slice')
    return shape


def _hosts(text, generation, gpus) -> tuple[int, int]:
    """(hosts, GPUs of each)."""
    if gpus > GPUS_A_HOST and gpus % GPUS_A_HOST:
        raise UserError(f"--topology: got '{text}', expected a multiple of {GPUS_A_HOST}, the GPUs of a host; fix: the "
                        f'nearest is {generation}:{max(1, round(gpus / GPUS_A_HOST)) * GPUS_A_HOST}', code='plan/not-sold')
    return (1, gpus) if gpus <= GPUS_A_HOST else (gpus // GPUS_A_HOST, GPUS_A_HOST)


def _written(generation, shape, slices) -> str:
    return f"{generation}:{'x'.join(map(str, shape))}{f'*{slices}' if slices > 1 else ''}"
