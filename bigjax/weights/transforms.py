"""How an array of another library becomes arrays of ours, and the way back: named functions, which a family's rows refer to.

A transform takes one array of theirs to one or several of ours. `shape` gives the shape that theirs must have for given
shapes of ours, so that a file is checked before it is read.
"""
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """A pair of inverse functions, and the shape of their array for the shapes of ours, None for any of as many numbers."""

    shape: Callable[[Sequence[Shape]], Shape | None]
    ours: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]
    theirs: Callable[[Sequence[np.ndarray]], np.ndarray]


def _split(array, shapes, axis):
    return np.split(array, np.cumsum([shape[axis] for shape in shapes])[:-1].tolist(), axis)


def _joined(shapes) -> Shape:
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def _blocks(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """The equal blocks of the last axis in another order."""
    parts = np.split(array, len(order), -1)
    return np.concatenate([parts[i] for i in order], -1)


def _patch_shape(rows: int, features: int) -> Shape:
    """[F, C, P, P] for a matrix [P P C, F] of square patches of three channels, or of one."""
    for channels in (3, 1):
        side = math.isqrt(rows // channels)
        if side * side * channels == rows:
            return features, channels, side, side
    return features, rows, 1, 1


RESET_FIRST = (1, 0, 2)  # a GRU's gates: update, reset, new <-> reset, update, new; its own inverse

TRANSFORMS = {
    'same': Transform(lambda s: s[0], lambda x, s: [x], lambda y: y[0]),
    # a matrix [out, in], as torch has them
    'transpose': Transform(lambda s: s[0][::-1], lambda x, s: [x.T], lambda y: y[0].T),
    # a kernel [F, C, height, width] or [F, C, time], as torch has them, also where each channel is convolved alone
    'conv': Transform(lambda s: (s[0][-1], s[0][-2], *s[0][:-2]), lambda x, s: [np.moveaxis(x, (0, 1), (-1, -2))],
                      lambda y: np.moveaxis(y[0], (-1, -2), (0, 1))),
    # a kernel [F, C, 1, 1] that is a matrix [C, F] here
    'pointwise': Transform(lambda s: (*s[0][::-1], 1, 1), lambda x, s: [x[:, :, 0, 0].T], lambda y: y[0].T[:, :, None, None]),
    # a kernel [F, C, P, P] of patches side by side, which is a matrix [P P C, F] here
    'patch': Transform(lambda s: _patch_shape(*s[0]), lambda x, s: [x.transpose(2, 3, 1, 0).reshape(s[0])],
                       lambda y: y[0].reshape(*(_patch_shape(*y[0].shape)[i] for i in (2, 3, 1, 0))).transpose(3, 2, 0, 1)),
    # an array of more axes, whose numbers are ours in the same order: kernels of heads, or of the pixels of a patch
    'folded': Transform(lambda s: None, lambda x, s: [x.reshape(s[0])], lambda y: y[0]),
    # several matrices [in, out] or vectors side by side in the last axis
    'split': Transform(_joined, lambda x, s: _split(x, s, -1), lambda y: np.concatenate(y, -1)),
    # the same, transposed: [out, in] one below the other
    'split_transpose': Transform(lambda s: _joined(s)[::-1], lambda x, s: _split(x.T, s, -1),
                                 lambda y: np.concatenate(y, -1).T),
    # a GRU whose gates are in the order update, reset, new
    'gru': Transform(lambda s: s[0], lambda x, s: [_blocks(x, RESET_FIRST)], lambda y: _blocks(y[0], RESET_FIRST)),
    # the same as two biases, of the input and of the state, [2, 3 H]
    'gru_biases': Transform(lambda s: (2, *s[0]), lambda x, s: [_blocks(row, RESET_FIRST) for row in x],
                            lambda y: np.stack([_blocks(row, RESET_FIRST) for row in y])),
    # an LSTM has one bias there, and one for the input and one for the state here, of which only the sum counts
    'sum': Transform(lambda s: s[0], lambda x, s: [x, np.zeros_like(x)], lambda y: y[0] + y[1]),
}
