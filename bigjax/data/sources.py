"""Sources of examples: `len(source)` and `source[i] -> {name: array}`, Grain's random-access protocol.

A source that fits in memory also has `arrays`, {name: [N, …]}, and `take(arrays, indices) -> batch`. `take` is pure and
works on NumPy arrays and on traced ones alike: a training loop puts `arrays` on the device once and gathers there. The
number of examples is always `len(source)`, never the length of an array: a stream of tokens holds many more windows
than it would fit as windows.
"""
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigjax.data.lazy import LazySource
from bigjax.errors import UserError

SAMPLES = 32  # examples that `sample` reads of a source that is not hashed whole
WHOLE_BYTES = 256 << 20  # arrays up to this size are hashed whole, in well under a second
FILES = 100_000  # files whose names and sizes `sample` takes in
SHOWN = 5  # classes that a message names
FIRST = 16  # records of which one is readable, or none is taken to be
SKIP = '--config.damaged=skip'
DAMAGED = ('data/image', 'data/audio', 'data/audio-cut', 'data/audio-empty')  # codes of a file that is cut short, or none


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

    @property
    def judged(self) -> str:
        """The split that results are measured on: 'test', or 'val' where there is none, as of data of one file."""
        return 'test' if 'test' in self.evals else 'val'


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
            raise UserError(f'arrays of a source: got {f"lengths {lengths}" if lengths else "no array"}, expected one common '
                            'length; fix: as many records under every name', code='data/unequal-lengths')
        self._len = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def __repr__(self) -> str:
        shapes = ', '.join(f'{name}: {a.dtype}{list(a.shape)}' for name, a in self.arrays.items())
        return f'ArraySource({shapes})'

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of one example."""
        return {name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for name, array in self.arrays.items()}

    @staticmethod
    def take(arrays: Mapping[str, Any], indices) -> dict[str, Any]:
        """Rows `indices` [B] of every array: {name: [B, …]}."""
        return {name: array[indices] for name, array in arrays.items()}


class Subset:
    """Some examples of a source, in the given order; not kept in memory. See also `subset`."""

    def __init__(self, source: Any, indices: Sequence[int]):
        self.source, self.indices = source, np.asarray(indices, np.int64)
        bad = self.indices[(self.indices < 0) | (self.indices >= len(source))]
        if bad.size:
            raise UserError(f'a subset of {source!r}: got record {bad[0]}, expected 0 to {len(source) - 1}; fix: the indices',
                            code='data/no-record')

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Shapes of one example, where the whole source has them."""
        return shapes(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]

    def __repr__(self) -> str:
        return f'Subset({self.source!r}, {len(self)} records)'


def subset(source: Any, indices: Sequence[int]) -> Any:
    """Some examples of a source: rows of arrays stay rows of arrays, so that they can still live on the device."""
    source = source.source if isinstance(source, LazySource) else source
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


def first(source: Any) -> Any:
    """The first example that can be read, whose shapes stand for all.

    Raises:
      UserError: the first `FIRST` are damaged; names record 0.
    """
    found = readable(source, 1)
    return found[0] if found else source[0]


def readable(source: Any, count: int) -> list:
    """The first `count` examples that can be read, of `count` + `FIRST` at most.

    Raises:
      UserError: all of them are damaged; names record 0.
    """
    found, error = [], None
    for index in range(min(len(source), count + FIRST)):
        if len(found) == count:
            break
        try:
            example = source[index]
            for value in example.values() if isinstance(example, Mapping) else ():
                np.asarray(value)  # an image that is still encoded is found damaged when it is decoded
            found.append(example)
        except UserError as wrong:
            if wrong.code not in DAMAGED:
                raise
            error = error or wrong
    if error is not None and not found:
        raise error
    return found


def check_opened(source: Any) -> None:
    """Raises the UserError of a damaged record that was met when the source was opened, if there was one."""
    while source is not None:
        if getattr(source, 'damaged', None) is not None:
            raise skippable(source.damaged)
        source = None if isinstance(source, LazySource) else getattr(source, 'source', None)


def skippable(error: UserError) -> UserError:
    """The error of a damaged record in training, with the flag that skips it among its fixes."""
    return error if SKIP in str(error) else UserError(f'{error}, or skip what is damaged: {SKIP}', code=error.code)


def labels(source: Any) -> np.ndarray | None:
    """The labels [N] of a source where it has them without reading every example, or None."""
    if isinstance(source, Subset):
        whole = labels(source.source)
        return None if whole is None else whole[source.indices]
    if isinstance(source, Map):
        return labels(source.source)
    found = getattr(source, 'labels', None)
    return getattr(source, 'arrays', {}).get('label') if found is None else found


def derived(splits: Splits, fn: Callable[[dict[str, dict]], dict[str, dict]]) -> Splits:
    """Splits of arrays that are computed from those of other splits.

    Args:
      splits: sources with arrays. Where one opens late, so do the results, which then have the shapes that `fn` makes of zeros.
      fn: `fn({split: arrays}) -> {split: arrays}`, with 'train' and any other splits.
    """
    given = {'train': splits.train, **splits.evals}
    if any(isinstance(source, LazySource) for source in given.values()):
        zeros = fn({name: dict(source.stand_in.arrays) for name, source in given.items()})
        computed = functools.cache(lambda: fn({name: source.arrays for name, source in given.items()}))
        out = {name: LazySource(ArraySource(zeros[name]), lambda name=name: ArraySource(computed()[name])) for name in zeros}
    else:
        out = {name: ArraySource(arrays) for name, arrays in fn({name: s.arrays for name, s in given.items()}).items()}
    return Splits(out.pop('train'), out, splits.info)


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
        raise UserError(f'{where}: got labels of {values.dtype}, expected whole numbers from 0 to {num_classes - 1}; fix: the '
                        'label column', code='data/label-type')
    bad = np.flatnonzero((values < 0) | (values >= num_classes))
    if bad.size:
        raise UserError(f'{where}: record {bad[0]}: got label {values[bad[0]]}, expected 0 to {num_classes - 1}; fix: the '
                        'record or the number of classes', code='data/label-range')


def held_out(count: int, fraction: float, seed: int, label: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Splits records 0 … count-1 into (kept, held out), both sorted; a function of its arguments alone.

    With labels every class gives its own fraction, rounded, at least one record where it has two or more. Without,
    the whole does the same.

    Raises:
      UserError: the fraction is not between 0 and 1, or nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise UserError(f'held-out fraction: got {fraction}, expected a number between 0 and 1; fix: such as 0.1',
                        code='data/held-out')
    rng = np.random.default_rng([seed, count])
    groups = [np.arange(count)] if label is None else [np.flatnonzero(label == k) for k in np.unique(label)]
    out = []
    for group in groups:
        n = min(max(round(len(group) * fraction), 1), len(group) - 1)
        out.append(rng.permutation(group)[:n])
    held = np.sort(np.concatenate(out)) if out else np.zeros(0, np.int64)
    if not held.size:
        raise UserError(f'held-out part: got {count} records, expected two or more of a class; fix: more records, or a val '
                        'split of your own', code='data/held-out')
    return np.setdiff1d(np.arange(count), held), held


def shapes(source: Any) -> dict[str, jax.ShapeDtypeStruct] | None:
    """Shapes of one example {name: shape and dtype} where the source has a `spec`, else None; nothing is read."""
    return getattr(source, 'spec', None)


def array_shapes(source: Any) -> dict[str, jax.ShapeDtypeStruct] | None:
    """Shapes of the arrays that `take` gathers from, or None where a source has to be read example by example.

    A `LazySource` stays closed: its stand-in has the shapes.
    """
    source = source.stand_in if isinstance(source, LazySource) else source
    if not hasattr(source, 'arrays') or not hasattr(source, 'take'):
        return None
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in source.arrays.items()}


def sample(source: Any) -> str:
    """Twelve hexadecimal digits that identify a source: its length, labels, file names and sizes, and its examples.

    Arrays of up to WHOLE_BYTES are hashed whole; of anything else SAMPLES examples at even distances are read. Paths count
    below the source's own folder only, so that a copy of the data elsewhere is the same data.
    """
    length = len(source)
    digest = hashlib.sha256(str(length).encode())
    arrays = getattr(source, 'arrays', {})
    if arrays and sum(array.nbytes for array in arrays.values()) <= WHOLE_BYTES:
        _update(digest, arrays)
    else:
        label = labels(source)
        _update(digest, {} if label is None else {'label': label})
        for i in sorted({length * k // SAMPLES for k in range(SAMPLES)} if length else ()):
            try:
                _update(digest, source[i])
            except UserError as error:  # a run may skip it
                if error.code not in DAMAGED:
                    raise
                digest.update(b'damaged')
    for path in getattr(source, 'files', ())[:FILES]:
        path = pathlib.Path(path)
        digest.update(f'{path.parent.name}/{path.name} {path.stat().st_size} '.encode(errors='surrogateescape'))
    return digest.hexdigest()[:12]


def _update(digest, values: Mapping[str, Any]) -> None:
    for name in sorted(values):
        value = np.asarray(values[name])
        digest.update(f'{name} {value.dtype} {value.shape} '.encode())
        digest.update(str(value.tolist()).encode() if value.dtype.kind in 'OUS' else np.ascontiguousarray(value).data)


def identity(data: Any) -> dict[str, Any]:
    """JSON facts that identify the data of an experiment, to be stored with a run and compared when it is resumed.

    Args:
      data: `bigjax.experiment.Data`, or anything with its `train`, `evals` and `info`.

    Returns:
      {'splits': {'train': {'records': N, 'sample': twelve digits}, …}, 'classes': [...] where there are any}.
    """
    splits = {name: {'records': len(split), 'sample': sample(split)}
              for name, split in {'train': data.train, **data.evals}.items()}
    classes = data.info.get('classes')
    return {'splits': splits} if classes is None else {'splits': splits, 'classes': list(classes)}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference of two `identity`s in a few words, '' where the data is the same.

    A held-out part is a function of the seed and the number of records, and batch t of the order of the records: with
    other data under the same path, a resumed run would train on what it validates with.
    """
    if before.get('classes') != now.get('classes'):
        return f'classes: got {_shown(now.get("classes"))}, expected {_shown(before.get("classes"))}'
    for name in dict.fromkeys([*before['splits'], *now['splits']]):
        old, new = before['splits'].get(name), now['splits'].get(name)
        if old is None or new is None:
            return f"split '{name}': {'new' if old is None else 'missing'}"
        if old['records'] != new['records']:
            return f"split '{name}': got {new['records']:,} records, expected {old['records']:,}"
        if old['sample'] != new['sample']:
            return f"split '{name}': other contents or another order of its {new['records']:,} records"
    return ''


def _shown(classes: Sequence[str] | None) -> str:
    if classes is None:
        return 'none'
    return f'{len(classes)} ({", ".join(map(str, classes[:SHOWN]))}{", …" if len(classes) > SHOWN else ""})'
