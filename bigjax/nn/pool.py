"""Pooling over channels-last images and series, with the arguments and results of flax.linen's.

Where windows do not overlap, XLA's general pooling and above all its gradient (select-and-scatter) are slow on CPU:
there the windows are made axes of their own.

Glossary: B batch · C channels · n windows · k positions in a window.
"""
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.cpu import kernels


def max_pool(x: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding='VALID'):
    """The largest value of each window, [B, *spatial, C] -> [B, *spatial', C]; the gradient goes to the first of it."""
    if not _tiles(x, window_shape, strides, padding):
        return nn.max_pool(x, tuple(window_shape), strides=strides, padding=padding)
    return _max_tiles(_crop(x, window_shape), tuple(window_shape))


def avg_pool(x: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding='VALID',
             count_include_pad: bool = True):
    """The mean of each window, [B, *spatial, C] -> [B, *spatial', C]."""
    if not _tiles(x, window_shape, strides, padding):
        return nn.avg_pool(x, tuple(window_shape), strides=strides, padding=padding,
                           count_include_pad=count_include_pad)
    return _avg_tiles(_crop(x, window_shape), tuple(window_shape))


def _tiles(x, window, strides, padding) -> bool:
    """Whether windows stand side by side without padding."""
    strides = (1,) * len(window) if strides is None else tuple(strides)
    return kernels('pool') and padding == 'VALID' and strides == tuple(window) and x.ndim == len(window) + 2


def _crop(x, window):
    """Without the rest that fills no window."""
    index = tuple(slice(size // k * k) for size, k in zip(x.shape[1:-1], window, strict=True))
    return x[:, *index]


def _split(shape, window):
    """[B, n1 * k1, …, C] -> [B, n1, k1, …, C]."""
    pairs = [(size // k, k) for size, k in zip(shape[1:-1], window, strict=True)]
    return (shape[0], *(n for pair in pairs for n in pair), shape[-1])


def _positions(x, window):
    """The values at each of the k positions, as views [B, n1, n2, …, C], in row-major order."""
    split = x.reshape(_split(x.shape, window))
    for flat in range(math.prod(window)):
        index = []
        for k in reversed(window):
            flat, position = divmod(flat, k)
            index = [slice(None), position, *index]
        yield split[:, *index]


def _spread(values, window):
    """[B, n1, n2, …, C] -> the same with an axis of one after each n."""
    for axis in range(len(window)):
        values = jnp.expand_dims(values, 2 * axis + 2)
    return values


def _max_forward(x, window):
    largest, where = None, None
    for position, value in enumerate(_positions(x, window)):
        if position == 0:
            largest, where = value, jnp.zeros(value.shape, jnp.int32)
        else:
            better = (value > largest) | (value != value)
            where = jnp.where(better, position, where)
            largest = jnp.where(better, value, largest)
    return largest, where


def _max_backward(window, where, d):
    split = (d.shape[0], *(n for pair in zip(d.shape[1:-1], window, strict=True) for n in pair), d.shape[-1])
    position = jnp.zeros(split, jnp.int32)
    for axis, k in enumerate(window):
        position = position * k + jax.lax.broadcasted_iota(jnp.int32, split, 2 * axis + 2)
    full = jnp.where(position == _spread(where, window), _spread(d, window), 0)
    return (full.reshape(d.shape[0], *(n * k for n, k in zip(d.shape[1:-1], window, strict=True)), d.shape[-1]),)


_max_tiles = jax.custom_vjp(lambda x, window: _max_forward(x, window)[0], nondiff_argnums=(1,))
_max_tiles.defvjp(_max_forward, _max_backward)


def _avg_tiles(x, window):
    axes = tuple(2 * axis + 2 for axis in range(len(window)))
    return x.reshape(_split(x.shape, window)).mean(axes)
