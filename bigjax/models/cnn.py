"""Plain convolutional networks over images and series: convolutions, pooling, dense layers.

Glossary: B batch · H, W height, width · T time · C channels · K classes.
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.activations import activation
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.pool import avg_pool, max_pool

VARIANTS = {
    # Greydanus & Kobak 2024, MNIST-1D: 40 samples of one channel, 5,210 parameters.
    'mnist1d': {'channels': (25, 25, 25), 'kernels': (5, 3, 3), 'strides': 2, 'padding': 1, 'pool': '', 'dense': ()},
    # LeCun et al. 1998 as usually taught: full connections, 28x28 images padded to 32x32, 61,706 parameters.
    'lenet5': {'channels': (6, 16), 'kernels': (5, 5), 'padding': (2, 0), 'pool': 'avg', 'dense': (120, 84),
               'activation': 'tanh'},
    # The wide LeNet of framework tutorials, 3,274,634 parameters on 28x28 images of one channel.
    'lenet_wide': {'channels': (32, 64), 'kernels': (5, 5), 'pool': 'max', 'dense': (1024,)},
    # The judge of generated 28x28 images (bigjax/metrics/generated.py), 60,874 parameters.
    'judge': {'channels': (16, 32, 64), 'kernels': (3, 3, 3), 'pool': 'max', 'dense': (64,), 'dropout': 0.2},
    # The small network of CIFAR-10 tutorials, 545,098 parameters on 32x32 images of three channels.
    'cifar': {'channels': (32, 64), 'kernels': (3, 3), 'pool': 'max', 'dense': (128,)},
}


class CNN(nn.Module):
    """[B, H, W, C], [B, T, C] or [B, T] -> [B, K]: 'conv_0', …, each with its activation and pooling, then 'dense_0',
    …, and 'head' on the flattened features.

    Attributes:
      channels, kernels: width and kernel size of each convolution.
      strides: of every convolution.
      padding: of every convolution, 'SAME', 'VALID' or an int; or a tuple of those, one a convolution.
      pool: 'max', 'avg' or '' for none, after every convolution, with window and stride `pool_size`.
      dense: widths of the hidden dense layers.
      activation: its name, after every convolution and hidden dense layer.
      dropout: before every dense layer, the head included.
      dtype: of the computation; parameters stay float32.
    """

    channels: Sequence[int] = (32, 64)
    kernels: Sequence[int] = (3, 3)
    strides: int = 1
    padding: Any = 'SAME'
    pool: str = 'max'
    pool_size: int = 2
    dense: Sequence[int] = (128,)
    num_classes: int = 10
    activation: str = 'relu'
    dropout: float = 0.0
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if len(self.channels) != len(self.kernels):
            raise UserError(f'CNN: got {len(self.channels)} channels and {len(self.kernels)} kernels, expected equally many; '
                            'fix: give one per layer', code='model/lengths')
        if self.pool not in ('', 'max', 'avg'):
            raise UserError(f"CNN: got pool {self.pool!r}, expected 'max', 'avg' or '' for none; fix: choose one of them",
                            code='model/unknown-option')
        act = activation(self.activation)
        x = (x[..., None] if x.ndim == 2 else x).astype(self.dtype)
        axes = x.ndim - 2
        window = (self.pool_size,) * axes
        for i, (width, size) in enumerate(zip(self.channels, self.kernels, strict=True)):
            padding = self.padding if isinstance(self.padding, str | int) else self.padding[i]
            x = act(Conv(width, (size,) * axes, strides=self.strides, padding=padding, kernel_init=self.kernel_init,
                         dtype=self.dtype, name=f'conv_{i}')(x))
            if self.pool:
                x = (max_pool if self.pool == 'max' else avg_pool)(x, window, strides=window)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.dense):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = act(Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=f'dense_{i}')(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name='head')(x)
