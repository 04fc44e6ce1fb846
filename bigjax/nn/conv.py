"""Convolutions over channels-last images and series, with the parameters and results of flax.linen's.

Glossary: B batch · H, W height, width · T time · C input channels · F features (output channels).
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.errors import UserError
from bigjax.nn.cpu import conv as conv_cpu
from bigjax.nn.cpu import kernels

Padding = str | int | Sequence[int | tuple[int, int]]
ConvTranspose = nn.ConvTranspose


def explicit_padding(padding: Padding, size, kernel, strides, dilation) -> tuple[tuple[int, int], ...]:
    """((low, high), …), one pair per spatial axis, for 'SAME', 'VALID', 'CAUSAL' (1-D), an int, or ints and pairs."""
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        if padding == 'CAUSAL' and len(kernel) == 1:
            return ((extent[0] - 1, 0),)
        if padding in ('SAME', 'VALID'):
            return tuple(lax.padtype_to_pads(size, extent, strides, padding))
        raise UserError(f"Conv: got padding {padding!r} in {len(kernel)}-D, expected 'SAME', 'VALID', an int or pairs; fix: "
                        'use one of these', code='model/unknown-option')
    if isinstance(padding, int):
        padding = (padding,) * len(kernel)
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)


def conv(x: jax.Array, kernel: jax.Array, *, strides, padding, dilation, groups: int = 1) -> jax.Array:
    """[B, *spatial, C] with [*kernel_size, C/groups, F] -> [B, *spatial', F]; all options explicit tuples."""
    if kernels('conv'):
        return conv_cpu.conv(x, kernel, conv_cpu.Geometry(strides, padding, dilation, groups))
    spatial = 'HW'[2 - len(strides):]
    return lax.conv_general_dilated(
        x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=(f'N{spatial}C', f'{spatial}IO', f'N{spatial}C'))


class Conv(nn.Module):
    """A convolution over one or two spatial axes, as `flax.linen.Conv`.

    Parameters: 'kernel' [*kernel_size, C / feature_group_count, features], 'bias' [features].

    Attributes:
      features: output channels.
      kernel_size: one entry per spatial axis.
      strides, kernel_dilation: an int, or one per spatial axis.
      padding: 'SAME', 'VALID', 'CAUSAL' (1-D), an int, or one int or (low, high) pair per spatial axis.
      standardize: each feature's kernel has mean zero and variance one over its inputs, this is added to the variance (Qiao et
        al. 2019, weight standardisation); None leaves kernels as they are.
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
    standardize: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_size = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        axes = len(kernel_size)
        strides = (self.strides,) * axes if isinstance(self.strides, int) else tuple(self.strides)
        dilation = self.kernel_dilation
        dilation = (dilation,) * axes if isinstance(dilation, int) else tuple(dilation)
        channels, groups = x.shape[-1], self.feature_group_count
        if channels % groups or self.features % groups:
            raise UserError(f'Conv: got feature_group_count={groups}, expected a divisor of {channels} input channels and '
                            f'{self.features} features; fix: choose one', code='model/not-divisible')
        kernel = self.param('kernel', self.kernel_init, (*kernel_size, channels // groups, self.features),
                            self.param_dtype)
        bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        if self.standardize is not None:
            inputs = tuple(range(axes + 1))
            kernel = kernel - kernel.mean(inputs, keepdims=True)
            kernel = kernel * lax.rsqrt(jnp.square(kernel).mean(inputs, keepdims=True) + self.standardize)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        batch_shape, size = x.shape[:-axes - 1], x.shape[-axes - 1:-1]
        padding = explicit_padding(self.padding, size, kernel_size, strides, dilation)
        x = x.reshape(-1, *size, channels)
        y = conv(x, kernel, strides=strides, padding=padding, dilation=dilation, groups=groups)
        y = y if bias is None else y + bias
        return y.reshape(*batch_shape, *y.shape[1:])
