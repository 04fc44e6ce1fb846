"""Convolutional classifiers of time series: FCN and ResNet of Wang, Yan & Oates 2017, TCN of Bai, Kolter & Koltun 2018.

Glossary: B batch · T time · C channels · K classes. Convolutions keep T. Initializers and batch normalisation of the first two
are those of their published code (Keras): Glorot uniform kernels, momentum 0.99, epsilon 1e-3.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv, conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm

glorot = nn.initializers.glorot_uniform()
fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # within 1 / sqrt(inputs), as in torch

# Parameters at one channel and two classes; a further class costs 129.
VARIANTS = {
    'fcn': {'channels': (128, 256, 128), 'kernels': (8, 5, 3)},  # section II-B: 264,962
    'resnet': {'channels': (64, 128, 128), 'kernels': (8, 5, 3)},  # section II-C: 504,258
    'tcn_mnist': {'channels': 25, 'levels': 8, 'kernel': 7, 'dropout': 0.0},  # Bai et al., table 2: 66,910 with ten classes
}


def _norm(module: nn.Module, train: bool, name: str) -> nn.Module:
    return BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, dtype=module.dtype, name=name)


def _series(x: jax.Array, dtype) -> jax.Array:
    """[B, T] or [B, T, C] -> [B, T, C]."""
    return (x[..., None] if x.ndim == 2 else x).astype(dtype)


class FCN(nn.Module):
    """Fully convolutional network: [B, T, C] or [B, T] -> logits [B, K] ('conv_0', 'norm_0', …, 'head').

    Three blocks of convolution, batch normalisation and ReLU, the mean over time, and a dense layer.

    Attributes:
      channels, kernels: of each block.
      num_classes: K.
      dtype: of the computation; parameters and statistics stay float32.
    """

    channels: Sequence[int] = (128, 256, 128)
    kernels: Sequence[int] = (8, 5, 3)
    num_classes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if len(self.channels) != len(self.kernels):
            raise UserError(f'FCN: got {len(self.channels)} channels and {len(self.kernels)} kernels, expected equally many; '
                            'fix: give one per block', code='model/lengths')
        x = _series(x, self.dtype)
        for i, (width, size) in enumerate(zip(self.channels, self.kernels, strict=True)):
            x = Conv(width, (size,), kernel_init=glorot, dtype=self.dtype, name=f'conv_{i}')(x)
            x = nn.relu(_norm(self, train, f'norm_{i}')(x))
        return Dense(self.num_classes, kernel_init=glorot, dtype=self.dtype, name='head')(x.mean(axis=1))


class ResidualBlock(nn.Module):
    """[B, T, C] -> [B, T, width]: convolutions 'conv_0', … with 'norm_0', …, and 'shortcut_norm' of the input, which
    'shortcut' projects first where the channels change."""

    width: int
    kernels: Sequence[int] = (8, 5, 3)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, size in enumerate(self.kernels):
            y = nn.relu(y) if i > 0 else y
            y = Conv(self.width, (size,), kernel_init=glorot, dtype=self.dtype, name=f'conv_{i}')(y)
            y = _norm(self, train, f'norm_{i}')(y)
        if x.shape[-1] != self.width:
            x = Conv(self.width, (1,), kernel_init=glorot, dtype=self.dtype, name='shortcut')(x)
        return nn.relu(_norm(self, train, 'shortcut_norm')(x) + y)


class ResNet1D(nn.Module):
    """Residual network: [B, T, C] or [B, T] -> logits [B, K] ('block_0', …, 'head'), after the mean over time.

    Attributes:
      channels: of each block.
      kernels: of the convolutions of every block.
      num_classes: K.
      dtype: of the computation; parameters and statistics stay float32.
    """

    channels: Sequence[int] = (64, 128, 128)
    kernels: Sequence[int] = (8, 5, 3)
    num_classes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _series(x, self.dtype)
        for i, width in enumerate(self.channels):
            x = ResidualBlock(width, self.kernels, self.dtype, name=f'block_{i}')(x, train=train)
        return Dense(self.num_classes, kernel_init=glorot, dtype=self.dtype, name='head')(x.mean(axis=1))


class CausalConv(nn.Module):
    """[B, T, C] -> [B, T, width]: output t is of the inputs t, t - dilation, …, so many as the kernel has.

    The kernel of an output channel is its 'scale' [width] times the direction of its 'kernel' [size, C, width] (weight
    normalisation, Salimans & Kingma 2016, eq. 2), plus 'bias' [width].
    """

    width: int
    size: int
    dilation: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', fan_in, (self.size, x.shape[-1], self.width), jnp.float32)
        length = jnp.sqrt(jnp.sum(kernel * kernel, axis=(0, 1)))
        scale = self.param('scale', lambda _: length)
        bias = self.param('bias', nn.initializers.zeros_init(), (self.width,), jnp.float32)
        kernel = (kernel * (scale / length)).astype(self.dtype)
        y = conv(x.astype(self.dtype), kernel, strides=(1,), padding=(((self.size - 1) * self.dilation, 0),),
                 dilation=(self.dilation,))
        return y + bias.astype(self.dtype)


class CausalBlock(nn.Module):
    """[B, T, C] -> [B, T, width]: ReLU of the input, which 'shortcut' projects where the channels change, plus 'conv_0' and
    'conv_1', each with ReLU and dropout."""

    width: int
    size: int
    dilation: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i in range(2):
            y = nn.relu(CausalConv(self.width, self.size, self.dilation, self.dtype, name=f'conv_{i}')(y))
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
        if x.shape[-1] != self.width:
            x = Dense(self.width, kernel_init=fan_in, dtype=self.dtype, name='shortcut')(x)
        return nn.relu(x + y)


class TCN(nn.Module):
    """Temporal convolutional network: [B, T, C] or [B, T] -> logits [B, K] from the last step ('block_0', …, 'head').

    Level i has convolutions of dilation 2^i (section 3), so that the last output sees 1 + 2 (kernel - 1) (2^levels - 1)
    steps.

    Attributes:
      channels: of every level.
      levels: how many.
      kernel: steps of each convolution.
      num_classes: K.
      dropout: after the ReLU of each convolution.
      dtype: of the computation; parameters stay float32.
    """

    channels: int = 25
    levels: int = 8
    kernel: int = 7
    num_classes: int = 10
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _series(x, self.dtype)
        for i in range(self.levels):
            x = CausalBlock(self.channels, self.kernel, 2 ** i, self.dropout, self.dtype, name=f'block_{i}')(x, train=train)
        return Dense(self.num_classes, kernel_init=fan_in, dtype=self.dtype, name='head')(x[:, -1])
