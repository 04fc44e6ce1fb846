"""A convolution whose kernel is divided by its largest singular value (Miyato et al. 2018, "Spectral Normalization for GANs").

Glossary: B batch · H, W height, width · C input channels · F features (output channels).
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.conv import Padding, conv, explicit_padding

LEAST_NORM = 1e-12  # a vector of zeros keeps its direction undefined instead of becoming NaN


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), LEAST_NORM)


class SpectralConv(nn.Module):
    """[B, H, W, C] -> [B, H', W', F]; a kernel as large as the image, padding 'VALID', is a dense layer.

    Parameters: 'kernel' [h, w, C, F], 'bias' [F]; 'u' [F] in the collection 'batch_stats' approaches the first right singular
    vector of the kernel as a matrix [h w C, F]: each call in training makes one power iteration (the paper's algorithm 1).
    The gradient passes through the singular value u, v held fixed.

    Attributes:
      features: F.
      kernel_size, strides: one entry per spatial axis.
      dtype: of the convolution; the singular value is computed in float32.
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] = (1, 1)
    padding: Padding = 'SAME'
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        stored = self.variable('batch_stats', 'u', lambda: _unit(jax.random.normal(self.make_rng('params'), (self.features,))))
        matrix = kernel.reshape(-1, self.features)
        v = _unit(jax.lax.stop_gradient(matrix) @ stored.value)
        u = _unit(jax.lax.stop_gradient(matrix).T @ v) if train else stored.value
        if train and not self.is_initializing():
            stored.value = u
        kernel = kernel / jnp.maximum(v @ matrix @ u, LEAST_NORM)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        ones = (1,) * len(self.kernel_size)
        padding = explicit_padding(self.padding, x.shape[1:-1], self.kernel_size, self.strides, ones)
        y = conv(x, kernel, strides=tuple(self.strides), padding=padding, dilation=ones)
        return y + self.param('bias', nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(y.dtype) \
            if self.use_bias else y
