"""Convolutional classifiers of time series: FCN and ResNet of Wang, Yan & Oates 2017.

Glossary: B batch · T time · C channels · K classes. Convolutions keep T. Initializers and batch normalisation are those
of the published code (Keras): Glorot uniform kernels, momentum 0.99, epsilon 1e-3.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm

glorot = nn.initializers.glorot_uniform()

# Parameters at one channel and two classes; a further class costs 129.
VARIANTS = {
    'fcn': {'channels': (128, 256, 128), 'kernels': (8, 5, 3)},  # section II-B: 264,962
    'resnet': {'channels': (64, 128, 128), 'kernels': (8, 5, 3)},  # section II-C: 504,258
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
