"""Convolutions over channels-last images and series, with the parameters and results of flax.linen's.

Glossary: B batch · H, W height, width · T time · C input channels · F features (output channels).
"""
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax import UserError
from bigjax.nn.cpu import add_bias, on_cpu, stored

Padding = str | int | Sequence[int | tuple[int, int]]
ConvTranspose = nn.ConvTranspose


def explicit_padding(padding: Padding, size, kernel, strides, dilation) -> tuple[tuple[int, int], ...]:
    """((low, high), …), one pair a spatial axis, of 'SAME', 'VALID', 'CAUSAL' (1-D), an int, or ints and pairs."""
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        if padding == 'CAUSAL' and len(kernel) == 1:
            return ((extent[0] - 1, 0),)
        if padding in ('SAME', 'VALID'):
            return tuple(lax.padtype_to_pads(size, extent, strides, padding))
        raise UserError(f"Conv: padding {padding!r} is not known for {len(kernel)}-D: 'SAME', 'VALID', an int or pairs")
    if isinstance(padding, int):
        padding = (padding,) * len(kernel)
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)


def conv(x: jax.Array, kernel: jax.Array, *, strides, padding, dilation, groups: int = 1) -> jax.Array:
    """[B, *spatial, C] with [*kernel_size, C/groups, F] -> [B, *spatial', F]; all options explicit tuples."""
    geometry = Geometry(strides, padding, dilation, groups)
    return _conv_cpu(x, kernel, geometry) if on_cpu() else _conv(x, kernel, geometry)


class Geometry(NamedTuple):
    """What a convolution is beside its operands."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def _numbers(g: Geometry) -> tuple[str, str, str]:
    spatial = 'HW'[2 - len(g.strides):]
    return f'N{spatial}C', f'{spatial}IO', f'N{spatial}C'


def _conv(x, kernel, g: Geometry):
    return lax.conv_general_dilated(x, kernel, g.strides, g.padding, rhs_dilation=g.dilation,
                                    dimension_numbers=_numbers(g), feature_group_count=g.groups)


_conv_cpu = jax.custom_vjp(_conv, nondiff_argnums=(2,))


def _forward(x, kernel, g):
    return _conv(x, kernel, g), (x, kernel)


def _backward(g, residuals, dy):
    x, kernel = residuals
    if g.groups > 1:
        return jax.vjp(lambda x, kernel: _conv(x, kernel, g), x, kernel)[1](dy)
    return _input_gradient(dy, kernel, g, x.shape), stored(partial(_kernel_gradient, g=g, shape=kernel.shape))(x, dy)


def _input_gradient(dy, kernel, g: Geometry, shape):
    """A convolution of dy, its values `strides` apart, with the kernel turned round."""
    axes = range(len(g.strides))
    reach = [(kernel.shape[a] - 1) * g.dilation[a] for a in axes]
    low = [reach[a] - g.padding[a][0] for a in axes]
    high = [shape[1 + a] + reach[a] - (dy.shape[1 + a] - 1) * g.strides[a] - 1 - low[a] for a in axes]
    turned = kernel[(slice(None, None, -1),) * len(axes)].swapaxes(-1, -2)
    return lax.conv_general_dilated(dy, turned, (1,) * len(axes), tuple(zip(low, high, strict=True)),
                                    lhs_dilation=g.strides, rhs_dilation=g.dilation, dimension_numbers=_numbers(g))


def _kernel_gradient(x, dy, *, g: Geometry, shape):
    """A convolution of x with dy as its kernel, channels in the place of the batch and the batch in that of channels.

    The axes are transposed here, not named to the convolution: only in this order is it fast (see `bigjax.nn.cpu`).
    """
    axes = range(len(g.strides))
    low = [g.padding[a][0] for a in axes]
    high = [(shape[a] - 1) * g.dilation[a] + (dy.shape[1 + a] - 1) * g.strides[a] + 1 - x.shape[1 + a] - low[a]
            for a in axes]
    dkernel = lax.conv_general_dilated(
        jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2), g.dilation,
        tuple(zip(low, high, strict=True)), rhs_dilation=g.strides, dimension_numbers=_numbers(g))
    return jnp.moveaxis(dkernel, 0, -2)


_conv_cpu.defvjp(_forward, _backward)


class Conv(nn.Module):
    """A convolution over one or two spatial axes, as `flax.linen.Conv`.

    Parameters: 'kernel' [*kernel_size, C / feature_group_count, features], 'bias' [features].

    Attributes:
      features: output channels.
      kernel_size: one entry a spatial axis.
      strides, kernel_dilation: an int, or one a spatial axis.
      padding: 'SAME', 'VALID', 'CAUSAL' (1-D), an int, or one int or (low, high) pair a spatial axis.
      dtype: of the computation; None takes the common type of input and parameters.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = 'SAME'
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_size = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        axes = len(kernel_size)
        strides = (self.strides,) * axes if isinstance(self.strides, int) else tuple(self.strides)
        dilation = self.kernel_dilation
        dilation = (dilation,) * axes if isinstance(dilation, int) else tuple(dilation)
        channels, groups = x.shape[-1], self.feature_group_count
        if channels % groups or self.features % groups:
            raise UserError(f'Conv: feature_group_count={groups} does not divide {channels} input channels and '
                            f'{self.features} features')
        kernel = self.param('kernel', self.kernel_init, (*kernel_size, channels // groups, self.features),
                            self.param_dtype)
        bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        batch_shape, size = x.shape[:-axes - 1], x.shape[-axes - 1:-1]
        padding = explicit_padding(self.padding, size, kernel_size, strides, dilation)
        x = x.reshape(-1, *size, channels)
        y = conv(x, kernel, strides=strides, padding=padding, dilation=dilation, groups=groups)
        if bias is not None:
            y = add_bias(y, bias)
        return y.reshape(*batch_shape, *y.shape[1:])
