"""The rows of a family laid over a file and a model: which array becomes which, with every name on both sides accounted for."""
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bigjax.errors import UserError
from bigjax.weights.family import Family, Row
from bigjax.weights.tensors import Tensors, listed, settled
from bigjax.weights.transforms import TRANSFORMS

NUMBER = re.compile(r'{([ij])}')
MAX_TOKENS = 16  # tokens with positions that are in no grid of patches: a class token and registers


class Pair(NamedTuple):
    """One array of theirs (`key`, without a prefix) and the paths of ours that it becomes."""

    ours: tuple[str, ...]
    key: str
    row: Row
    head: bool

    @property
    def transform(self):
        """The pair of functions that the row names."""
        return TRANSFORMS[self.row.transform]


class Plan(NamedTuple):
    """A file laid over a model: the arrays to read, and the rest of both.

    Attributes:
      pairs: with the full key of the file.
      fresh: {path of ours: why} of what is initialised anew.
      unused: keys of the file that have no place here.
      cut: paths of ours of which the file has more rows.
      resized: {path of ours: (side of the grid in the file, side here)} of positions that are resampled.
    """

    pairs: list[Pair]
    fresh: dict[str, str]
    unused: list[str]
    cut: list[str]
    resized: dict[str, tuple[int, int]]


def pairs(family: Family, paths: Iterable[str], heads: Iterable[Row] | None = None) -> list[Pair]:
    """The rows that a model with parameters of these paths has, once for each of their numbers.

    Args:
      heads: the rows of heads, of which the first with a path counts; None for those of every architecture.

    Raises:
      UserError: a path that no row has: the other library's models have no such parameter; 'weights/no-family'.
    """
    paths, found, taken = list(paths), [], set()
    known = set(paths)
    heads = family.heads if heads is None else heads
    for row, head in [*((row, False) for row in family.rows), *((row, True) for row in heads)]:
        ours = (row.ours,) if isinstance(row.ours, str) else row.ours
        pattern = _pattern(ours[0])
        for path in paths:
            if match := pattern.fullmatch(path):
                numbered = lambda text, match=match: NUMBER.sub(lambda name: match[name[1]], text)
                pair = Pair(tuple(map(numbered, ours)), numbered(row.theirs), row, head)
                if taken.isdisjoint(pair.ours) and (not row.beside or numbered(row.beside) in known):
                    found.append(pair)
                    taken.update(pair.ours)
    if left := [path for path in paths if path not in taken] + sorted(taken - set(paths)):
        raise UserError(f'weights: got a model with {listed(left)}, for which the family of {family.model} has no name; fix: '
                        'choose the fields of a model that it has', code='weights/no-family')
    return found


@functools.cache
def _pattern(path: str) -> re.Pattern:
    """The paths of a row, with a group for each of its numbers; one that is repeated is the same number."""
    parts, seen = NUMBER.split(path), set()  # text, letter, text, …
    for at in range(1, len(parts), 2):
        letter = parts[at]
        parts[at] = rf'(?P={letter})' if letter in seen else rf'(?P<{letter}>\d+)'
        seen.add(letter)
    return re.compile(''.join(part if at % 2 else re.escape(part) for at, part in enumerate(parts)))


def plan(family: Family, tensors: Tensors, shapes: Mapping[str, tuple], where: Any, resample: bool = False) -> Plan:
    """The place of every array of a file and of every parameter of a model.

    Args:
      shapes: {path of ours: shape}. where: the file, for messages. resample: positions of another grid are taken.

    Raises:
      UserError: arrays that the trunk lacks, or arrays of the file without a place ('weights/keys'); another shape
        ('weights/shape'), or positions of another grid ('weights/resolution'); a head that is not tied in the file and is
        here ('weights/untied').
    """
    names = {short(family, key): key for key in tensors}
    if twice := sorted(set(tensors) - set(names.values())):
        raise UserError(f'{where}: got {listed(twice)} a second time with another prefix, expected each array once; fix: '
                        'remove one of them', code='weights/keys')
    kept, fresh, absent, wrong, resized = [], {}, [], [], {}
    heads = sorted(family.heads, key=lambda row: row.theirs not in names)  # the names that the file has
    for pair in pairs(family, shapes, heads):
        key = names.pop(pair.key, None)
        if key is None:
            missing = dict.fromkeys(pair.ours, 'not in the file')
            if pair.head or pair.row.optional:
                fresh |= missing
            else:
                absent.append(pair.key)
            continue
        there, ours = tensors[key].shape, [shapes[path] for path in pair.ours]
        wanted = pair.transform.shape(ours)
        if _same(there, wanted, ours) or (pair.row.cut and there[1:] == wanted[1:] and there[0] > wanted[0]):
            kept.append(pair._replace(key=key))
        elif pair.row.grid and (sides := grids(there, wanted)):
            if not resample:
                raise _resolution(where, pair.key, *sides)
            kept.append(pair._replace(key=key))
            resized[pair.ours[0]] = sides[1:]
        elif pair.head:
            fresh |= dict.fromkeys(pair.ours, f'{list(there)} in the file, {list(wanted)} here')
        else:
            wrong.append(f'{key} is {list(there)}, and {pair.ours[0]} takes {list(wanted)}')
    unused = [key for name, key in names.items() if not _harmless(family, name, tensors, where)]
    dropped = [key for key in unused if _spare(family, short(family, key))]
    unknown = [key for key in unused if key not in dropped]
    if absent or unknown:
        parts = [f'lacks {listed(absent)}'] * bool(absent) + [f'has {listed(unknown)}, which have no place'] * bool(unknown)
        raise UserError(f'{where}: got arrays of another model than the one described: it {" and ".join(parts)}; fix: '
                        'name the file of the model that is described', code='weights/keys')
    if wrong:
        raise UserError(f'{where}: got arrays of another size: {listed(wrong)}; fix: give the model the sizes of the file',
                        code='weights/shape')
    cut = [pair.ours[0] for pair in kept if pair.row.cut and tensors[pair.key].shape != shapes[pair.ours[0]]]
    return Plan(kept, fresh, dropped, cut, resized)


def _same(there: tuple, wanted: tuple | None, ours: list[tuple]) -> bool:
    """Whether an array has the wanted shape; None: as many numbers as ours."""
    return math.prod(there) == math.prod(ours[0]) if wanted is None else there == wanted


def grids(there: tuple, here: tuple) -> tuple[int, int, int] | None:
    """(tokens that are in no grid, side of the grid there, side here) of two shapes of positions [1, tokens, width]."""
    if len(there) != 3 or len(here) != 3 or there[::2] != here[::2]:
        return None
    for tokens in range(min(there[1], here[1], MAX_TOKENS + 1)):
        sides = [math.isqrt(shape[1] - tokens) for shape in (there, here)]
        if all(side * side == shape[1] - tokens for side, shape in zip(sides, (there, here), strict=True)):
            return tokens, *sides
    return None


def _resolution(where, key: str, tokens: int, there: int, here: int) -> UserError:
    return UserError(f'{where}: got positions ({key}) of {there} x {there} patches, expected {here} x {here}; fix: '
                     f'--config.model.resample_positions=True resamples them, or images with sides {there / here:g} times as '
                     'long', code='weights/resolution')


def resampled(positions: np.ndarray, here: tuple) -> np.ndarray:
    """Positions [1, tokens, width] of a square grid on another one, bicubic and without aliasing; other tokens as they are."""
    tokens, old, new = grids(positions.shape, here)
    grid = positions[:, tokens:].reshape(1, old, old, -1).astype(np.float32)
    grid = np.asarray(jax.image.resize(grid, (1, new, new, grid.shape[-1]), 'bicubic')).reshape(1, new * new, -1)
    return np.concatenate([positions[:, :tokens], grid.astype(positions.dtype)], axis=1)


def short(family: Family, key: str) -> str:
    """A key without the prefix of its architecture, and in the newest spelling."""
    for pattern, replacement in family.renamed:
        key = re.sub(pattern, replacement, key)
    if any(row.theirs == key for row in family.heads):
        return key
    for prefix in family.prefixes:
        if prefix and key.startswith(prefix):
            return key.removeprefix(prefix)
    return key


def _harmless(family: Family, name: str, tensors: Tensors, where) -> bool:
    """Whether an array that has no place is of no consequence: a stored mask, or a head that repeats the embedding."""
    if name in family.tied:
        full = {short(family, key): key for key in tensors}
        other = full.get(family.tied[name])
        if other is None or not np.array_equal(tensors[full[name]].read(), tensors[other].read()):
            raise UserError(f'{where}: got {full[name]}, which is not {other}, expected a tied head; fix: load it with '
                            'tie_head=False', code='weights/untied')
        return True
    return any(re.fullmatch(pattern, name) for pattern in family.ignored)


def _spare(family: Family, name: str) -> bool:
    """Whether a name is that of a head or of an optional array, which a model may do without."""
    rows = [*family.heads, *(row for row in family.rows if row.optional)]
    return any(row.theirs == name for row in rows) or any(re.fullmatch(pattern, name) for pattern in family.spare)


def read(found: Plan, tensors: Tensors, wanted: Mapping[str, Any], put: Callable[[str, np.ndarray], Any]) -> dict[str, Any]:
    """{path of ours: what `put(path, array)` made of it}.

    The largest arrays are read first: while one is transposed there are two of it, and few others yet.

    Args:
      wanted: {path: shape and dtype}.
    """
    values = {}
    for pair in sorted(found.pairs, key=lambda pair: -tensors[pair.key].size):
        array, shapes = tensors[pair.key].read(), [wanted[path].shape for path in pair.ours]
        if pair.row.cut:
            array = array[:pair.transform.shape(shapes)[0]]
        if pair.ours[0] in found.resized:
            array = resampled(array, shapes[0])
        for path, part in zip(pair.ours, pair.transform.ours(array, shapes), strict=True):
            values[path] = put(path, settled(part, wanted[path].dtype))
        del array, part  # otherwise the last array would live beside the next one
    return values


def entries(family: Family, prefix: str, arrays: Mapping[str, Any], heads: Iterable[Row] | None = None) -> list[tuple]:
    """(key, shape, dtype, function that returns the array) of every array as the other library has it, in the rows' order.

    Args:
      arrays: {path of ours: array}.
    """
    def entry(pair):
        ours = [arrays[path] for path in pair.ours]
        shape = tuple(map(int, pair.transform.shape([x.shape for x in ours])))
        return ('' if pair.head else prefix) + pair.key, shape, np.dtype(ours[0].dtype), lambda: pair.transform.theirs(
            [np.asarray(x) for x in ours])

    return [entry(pair) for pair in pairs(family, arrays, heads)]
