"""Sources of examples: `len(source)` and `source[i] -> {name: array}`, Grain's random-access protocol.

A source that fits in memory also has `arrays`, {name: [N, …]}, and `take(arrays, indices) -> batch`. `take` is pure and
works on NumPy arrays and on traced ones alike: a training loop puts `arrays` on the device once and gathers there. The
number of examples is always `len(source)`, never the length of an array: a stream of tokens holds many more windows
than it would fit as windows.
"""
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.errors import UserError

SAMPLES = 32  # examples that `sample` reads


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set, ready to train on.

    Attributes:
      train: the training source.
      evals: split name ('val', 'test') -> source.
      info: JSON facts: 'name', 'source' (where it was found), 'records' {split: N}, and 'classes' where there are any.
    """

    train: Any
    evals: Mapping[str, Any]
    info: Mapping[str, Any]


class ArraySource:
    """Examples that are rows of arrays.

    Args:
      arrays: name -> [N, …], all of the same N.

    Raises:
      UserError: no arrays, or unequal lengths.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) if array.ndim else -1 for name, array in self.arrays.items()}
        if not lengths or -1 in lengths.values() or len(set(lengths.values())) > 1:
            raise UserError(f'the arrays of a source need one common length, not {lengths or "no array at all"}: '
                            'give every name as many records')
        self._len = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def __repr__(self) -> str:
        shapes = ', '.join(f'{name}: {a.dtype}{list(a.shape)}' for name, a in self.arrays.items())
        return f'ArraySource({shapes})'

    @staticmethod
    def take(arrays: Mapping[str, Any], indices) -> dict[str, Any]:
        """Rows `indices` [B] of every array: {name: [B, …]}."""
        return {name: array[indices] for name, array in arrays.items()}


class WindowSource:
    """Windows of T tokens over one stream, and the same windows one token later, for next-token prediction.

    Example i is tokens[i*stride : i*stride + T] with targets one further; `stride` 1 gives n - T overlapping windows
    (train), `stride` T gives windows in which every target stands exactly once (evaluation).

    Args:
      tokens: [n] integers of any width (uint16 keeps a long stream small); batches are int32.
      length: T.
      stride: distance between the starts of two windows.

    Raises:
      UserError: the stream is not one row of integers, or too short for one window.
    """

    def __init__(self, tokens: np.ndarray, length: int, stride: int = 1):
        self._file = _mapped(tokens)
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or tokens.dtype.kind not in 'iu':
            raise UserError(f'a token stream is one row of integers, not {tokens.dtype}{list(tokens.shape)}: '
                            'encode the text first')
        if length < 1 or stride < 1 or len(tokens) <= length:
            raise UserError(f'{len(tokens)} tokens are too few for a window of {length} and its next token '
                            f'(stride {stride}): use a shorter window or a longer text')
        self.arrays = {'stream': tokens}
        self.length, self.stride = length, stride

    def __len__(self) -> int:
        return (len(self.arrays['stream']) - self.length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = range(len(self))[index]  # negative and out-of-range numbers mean what they mean for a list
        window = self.arrays['stream'][index * self.stride:][:self.length + 1].astype(np.int32)
        return {'tokens': window[:-1], 'targets': window[1:]}

    def __getstate__(self) -> dict:
        """For another process, which maps a mapped file itself instead of being sent it."""
        return {**self.__dict__, **({'arrays': {}} if self._file else {})}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._file:
            self.arrays = {'stream': np.asarray(np.memmap(*self._file))}

    def __repr__(self) -> str:
        return f'WindowSource({len(self.arrays["stream"])} tokens, length={self.length}, stride={self.stride})'

    def take(self, arrays: Mapping[str, Any], indices) -> dict[str, Any]:
        """Windows `indices` [B]: {'tokens': int32 [B, T], 'targets': int32 [B, T]}."""
        at_BxT1 = indices[:, None] * self.stride + np.arange(self.length + 1, dtype=np.int32)
        windows_BxT1 = arrays['stream'][at_BxT1].astype('int32')
        return {'tokens': windows_BxT1[:, :-1], 'targets': windows_BxT1[:, 1:]}


def _mapped(tokens: np.ndarray) -> tuple | None:
    """The arguments of `np.memmap` that give the same numbers, for a mapped file or a part of one in a row; else None."""
    if not isinstance(tokens, np.memmap) or tokens.filename is None or not tokens.flags.c_contiguous:
        return None
    whole = tokens
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    start = whole.offset + tokens.__array_interface__['data'][0] - whole.__array_interface__['data'][0]
    return str(tokens.filename), tokens.dtype, 'r', start, tokens.shape


class Subset:
    """Some examples of a source, in the given order; not kept in memory. See also `subset`."""

    def __init__(self, source: Any, indices: Sequence[int]):
        self.source, self.indices = source, np.asarray(indices, np.int64)
        bad = self.indices[(self.indices < 0) | (self.indices >= len(source))]
        if bad.size:
            raise UserError(f'record {bad[0]} is not in {source!r}: choose from 0 to {len(source) - 1}')

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]

    def __repr__(self) -> str:
        return f'Subset({self.source!r}, {len(self)} records)'


def subset(source: Any, indices: Sequence[int]) -> Any:
    """Some examples of a source: rows of arrays stay rows of arrays, so that they can still live on the device."""
    chosen = Subset(source, indices)
    return ArraySource(source.take(source.arrays, chosen.indices)) if isinstance(source, ArraySource) else chosen


class Map:
    """`fn(example) -> example` over every example of a source, at the moment of reading."""

    def __init__(self, source: Any, fn: Callable[[dict], dict]):
        self.source, self.fn = source, fn

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.fn(self.source[index])

    def __repr__(self) -> str:
        return f'Map({self.source!r}, {getattr(self.fn, "__name__", self.fn)!s})'


def labels(source: Any) -> np.ndarray | None:
    """The labels [N] of a source where it knows them without reading every example, or None."""
    if isinstance(source, Subset):
        whole = labels(source.source)
        return None if whole is None else whole[source.indices]
    if isinstance(source, Map):
        return labels(source.source)
    found = getattr(source, 'labels', None)
    return getattr(source, 'arrays', {}).get('label') if found is None else found


def check_labels(source: Any, num_classes: int, where: str) -> None:
    """Checks that labels are whole numbers in 0 … num_classes - 1.

    Args:
      source: labels [N], or a source (one that does not hold its labels in memory is read through).
      num_classes: K.
      where: the file or data set, for the message.

    Raises:
      UserError: names the place, the record, the label and K.
    """
    if isinstance(source, np.ndarray | list | tuple):
        values = np.asarray(source)
    else:
        values = labels(source)
        if values is None:
            values = np.asarray([source[i]['label'] for i in range(len(source))])
    if values.dtype.kind not in 'iu':
        raise UserError(f'{where}: labels are {values.dtype}, and need to be whole numbers from 0 to {num_classes - 1}')
    bad = np.flatnonzero((values < 0) | (values >= num_classes))
    if bad.size:
        raise UserError(f'{where}: record {bad[0]} has label {values[bad[0]]}, outside the {num_classes} classes '
                        f'0 to {num_classes - 1}: mend the record or the number of classes')


def held_out(count: int, fraction: float, seed: int, label: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Splits records 0 … count-1 into (kept, held out), both sorted; a function of its arguments alone.

    With labels every class gives its own fraction, rounded, at least one record where it has two or more. Without,
    the whole does the same.

    Raises:
      UserError: the fraction is not between 0 and 1, or nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise UserError(f'the held-out fraction is {fraction}: choose a number between 0 and 1, such as 0.1')
    rng = np.random.default_rng([seed, count])
    groups = [np.arange(count)] if label is None else [np.flatnonzero(label == k) for k in np.unique(label)]
    out = []
    for group in groups:
        n = min(max(round(len(group) * fraction), 1), len(group) - 1)
        out.append(rng.permutation(group)[:n])
    held = np.sort(np.concatenate(out)) if out else np.zeros(0, np.int64)
    if not held.size:
        raise UserError(f'{count} records are too few to hold some out: give two or more of a class, or your own split')
    return np.setdiff1d(np.arange(count), held), held


def sample(source: Any) -> str:
    """Twelve digits that stand for a source: its length, and some of its examples at even distances."""
    digest, length = hashlib.sha256(str(len(source)).encode()), len(source)
    for i in sorted({length * k // SAMPLES for k in range(SAMPLES)} if length else ()):
        example: Mapping = source[i]
        for name in sorted(example):
            value = np.asarray(example[name])
            digest.update(f'{name} {value.dtype} {value.shape} '.encode() + (
                str(value.tolist()).encode() if value.dtype.kind in 'OUS' else value.tobytes()))
    return digest.hexdigest()[:12]
