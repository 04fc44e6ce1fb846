"""Convolutions in the forms that are fast on a CPU; `bigjax.nn.conv` alone uses it.

A convolution, the gradient of its input and the gradient of its kernel are three products of two arrays, and each
one's derivatives are the other two, so they are differentiable as often as one likes. Each chooses its form by shape:

* patches of x times the kernel, for short series: one product, which stays one under vmap over members;
* taps of x times a weight per channel, where each channel is convolved alone;
* rows of x times the kernel spread over a row (Toeplitz), where there are few channels;
* the library's convolution, its axes in the one order that is fast (see `bigjax.nn.cpu`).

Under vmap over members with a kernel each, the last would become a grouped convolution, which is slow: there members
are computed one by one.

Glossary: B batch · C input channels · F features · N members.
"""
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.compat import custom_vmap
from bigjax.nn.cpu import stored


class Geometry(NamedTuple):
    """The options of a convolution; one entry per spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def out(self, size, kernel_size) -> tuple[int, ...]:
        """The spatial shape of the result."""
        return tuple((n + low + high - (k - 1) * d - 1) // s + 1 for n, k, s, (low, high), d in zip(
            size, kernel_size, self.strides, self.padding, self.dilation, strict=True))


def conv(x, kernel, g: Geometry):
    """[B, *spatial, C] with [*kernel_size, C/groups, F] -> [B, *spatial', F]."""
    axes = len(g.strides)
    if g.groups > 1 and g.groups == kernel.shape[-1] == x.shape[-1]:
        return _depthwise(x, kernel, g)
    if g.groups > 1:
        return _library(x, kernel, g)
    patches = math.prod(g.out(x.shape[1:-1], kernel.shape[:-2])) * math.prod(kernel.shape[:-1]) * x.shape[0]
    if axes == 1 and isinstance(patches, int) and patches <= 2**18:  # a megabyte: in the cache
        return _by_patches(x, kernel, g)
    return _forward(g, x.shape[1:-1], kernel.shape[:-2], x, kernel)


def _library(x, kernel, g: Geometry, spread=None):
    """`spread`: zeros are put between the values of x, so many apart."""
    spatial = 'HW'[2 - len(g.strides):]
    return lax.conv_general_dilated(
        x, kernel, g.strides, g.padding, lhs_dilation=spread, rhs_dilation=g.dilation, feature_group_count=g.groups,
        dimension_numbers=(f'N{spatial}C', f'{spatial}IO', f'N{spatial}C'))


def _taps(x, axis: int, k: int, g: Geometry, out: int):
    """The `out` input values that each of the k taps along a spatial axis is multiplied with."""
    low, high = g.padding[axis]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) if a == axis + 1 else (0, 0, 0) for a in range(x.ndim)])
    stride, dilation = g.strides[axis], g.dilation[axis]
    return [lax.slice_in_dim(x, i * dilation, i * dilation + (out - 1) * stride + 1, stride, axis + 1) for i in range(k)]


def _by_patches(x, kernel, g: Geometry):
    k, channels, features = kernel.shape
    out, = g.out(x.shape[1:-1], (k,))
    patches = jnp.concatenate(_taps(x, 0, k, g, out), axis=-1)
    return (patches.reshape(-1, k * channels) @ kernel.reshape(-1, features)).reshape(-1, out, features)


def _depthwise(x, kernel, g: Geometry):
    """Each channel alone: the sum of its shifted values times a weight, which is one loop over x; 16 bits are summed in 32."""
    size, dtype = kernel.shape[:-2], x.dtype
    out, wide = g.out(x.shape[1:-1], size), jnp.promote_types(dtype, jnp.float32)
    x = lax.pad(x, jnp.zeros((), dtype), [(0, 0, 0), *((low, high, 0) for low, high in g.padding), (0, 0, 0)]).astype(wide)
    last = [(n - 1) * stride + 1 for n, stride in zip(out, g.strides, strict=True)]
    total = jnp.zeros((), wide)
    for place in np.ndindex(*size):
        start = [i * dilation for i, dilation in zip(place, g.dilation, strict=True)]
        stop = [a + n for a, n in zip(start, last, strict=True)]
        tap = lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *g.strides, 1))
        total = total + tap * kernel[(*place, 0)]
    return total.astype(dtype)


def _few_channels(x, kernel, g: Geometry) -> bool:
    """Whether `_by_rows`, with size / kernel size times the arithmetic, is still faster than the library."""
    return (len(g.strides) == 2 and min(kernel.shape[-2:]) < 16 and kernel.shape[-2] * kernel.shape[-1] <= 256
            and x.shape[2] <= 8 * kernel.shape[1])


def _by_rows(x, kernel, g: Geometry):
    (batch, _, width, channels), (k_h, k_w, _, features) = x.shape, kernel.shape
    out_h, out_w = g.out(x.shape[1:-1], (k_h, k_w))
    position = np.arange(out_w) * g.strides[1] + np.arange(k_w)[:, None, None] * g.dilation[1] - g.padding[1][0]
    sees = (np.arange(width)[:, None] == position).astype(x.dtype)  # [k_w, W, W']
    spread = jnp.einsum('ijcf,jwo->iwcof', kernel, sees).reshape(k_h * width * channels, out_w * features)
    rows = jnp.stack(_taps(x, 0, k_h, g, out_h), axis=2).reshape(batch * out_h, -1)
    return (rows @ spread).reshape(batch, out_h, out_w, features)


def _one_by_one(f):
    """`f` of two arrays, which under vmap computes its members one after the other."""
    f = custom_vmap(f)

    @f.def_vmap
    def members(size, batched, a, b):
        pick = lambda operand, has, i: operand[i] if has else operand
        parts = [f(pick(a, batched[0], i), pick(b, batched[1], i)) for i in range(size)]
        return jnp.stack(parts), True

    return f


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _forward(g: Geometry, size, kernel_size, x, kernel):
    """The convolution. `size`, `kernel_size`: the spatial shapes of x and kernel."""
    if _few_channels(x, kernel, g):
        return _by_rows(x, kernel, g)
    return _one_by_one(partial(_library, g=g))(x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _of_input(g: Geometry, size, kernel_size, dy, kernel):
    """The gradient of x: a convolution of dy, its values `strides` apart, with the kernel turned round."""
    axes = range(len(size))
    reach = [(kernel_size[a] - 1) * g.dilation[a] for a in axes]
    low = [reach[a] - g.padding[a][0] for a in axes]
    high = [size[a] + reach[a] - (dy.shape[1 + a] - 1) * g.strides[a] - 1 - low[a] for a in axes]
    turned = kernel[(slice(None, None, -1),) * len(size)].swapaxes(-1, -2)
    back = Geometry((1,) * len(size), tuple(zip(low, high, strict=True)), g.dilation)
    if set(g.strides) == {1} and _few_channels(dy, turned, back):
        return _by_rows(dy, turned, back)
    return _one_by_one(partial(_library, g=back, spread=g.strides))(dy, turned)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _of_kernel(g: Geometry, size, kernel_size, x, dy):
    """The gradient of the kernel: x convolved with dy, channels in the place of the batch and batch in that of channels.

    Stored, because the transpositions would drag what made x and dy along, in the worst order of memory.
    """
    axes = range(len(size))
    low = [g.padding[a][0] for a in axes]
    high = [(kernel_size[a] - 1) * g.dilation[a] + (dy.shape[1 + a] - 1) * g.strides[a] + 1 - size[a] - low[a]
            for a in axes]
    across = Geometry(g.dilation, tuple(zip(low, high, strict=True)), g.strides)

    @stored
    def product(x, dy):
        dkernel = _library(jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2), across)
        return jnp.moveaxis(dkernel, 0, -2)

    return _one_by_one(product)(x, dy)


def _derivative(f, of_first, of_second):
    """`f(*static, a, b)` with derivatives `of_first(static, a, b, d)` and `of_second(static, a, b, d)`."""
    f.defvjp(lambda *args: (f(*args), args[3:]),
             lambda *args: (of_first(args[:3], *args[3], args[4]), of_second(args[:3], *args[3], args[4])))


_derivative(_forward, lambda s, x, kernel, d: _of_input(*s, d, kernel), lambda s, x, kernel, d: _of_kernel(*s, x, d))
_derivative(_of_input, lambda s, dy, kernel, d: _forward(*s, d, kernel), lambda s, dy, kernel, d: _of_kernel(*s, d, dy))
_derivative(_of_kernel, lambda s, x, dy, d: _of_input(*s, dy, d), lambda s, x, dy, d: _forward(*s, x, d))
