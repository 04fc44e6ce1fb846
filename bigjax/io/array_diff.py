"""The arrays in which two sets of named arrays differ, bit for bit, in words."""
from collections.abc import Mapping

import numpy as np

SHOWN = 50  # differing arrays


def lines(ours: Mapping, theirs: Mapping, first: str, second: str) -> list[str]:
    """A line for each array that differs: where it is missing, its shapes and dtypes, or how many numbers differ by how much.

    Args:
      first, second: the names of the two sets.
    """
    found = [f'{name}: only in {first if name in ours else second}' for name in sorted(set(ours) ^ set(theirs))]
    for name in sorted(set(ours) & set(theirs)):
        a, b = np.asarray(ours[name]), np.asarray(theirs[name])
        if a.shape != b.shape or a.dtype != b.dtype:
            found.append(f'{name}: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}')
        elif a.tobytes() != b.tobytes():
            found.append(f'{name}: {_gap(a, b)}')
    return found


def shown(differences: list[str], arrays: int) -> str:
    """The first differences and how many more there are, or that all of `arrays` arrays are equal."""
    more = [f'… and {len(differences) - SHOWN} more'] if len(differences) > SHOWN else []
    return '\n'.join([*differences[:SHOWN], *more]) or f'equal, {arrays} arrays bit for bit'


def _gap(a: np.ndarray, b: np.ndarray) -> str:
    """How many numbers of two arrays differ in their bits, and by how much at most where both are finite."""
    bits = lambda x: np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8).reshape(x.size, -1)
    differ = (bits(a) != bits(b)).any(1)
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    gaps = np.abs(a.ravel()[differ].astype(wide) - b.ravel()[differ].astype(wide))
    finite = gaps[np.isfinite(gaps)]
    most = f', by {finite.max():.3g} at most' if finite.size else ''
    odd = f', {gaps.size - finite.size:,} of them not finite' if gaps.size > finite.size else ''
    return f'{int(differ.sum()):,} of {a.size:,} numbers differ{most}{odd}'
