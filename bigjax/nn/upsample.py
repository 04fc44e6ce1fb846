"""The transposed convolution as one ordinary convolution (Shi et al. 2016, "Is the deconvolution layer the same as a
convolutional layer?").

Glossary: B batch · H, W height, width · C input channels · F features · s stride · k kernel size.
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.nn.conv import conv


def phases(size: int, stride: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Which tap of a 'SAME' transposed convolution each output phase uses, along one axis.

    Output s i + p is the sum over d of input i + d times tap index[d, p].

    Returns:
      (index [D, s], (low, high)): the padding that the ordinary convolution needs; where there is no tap, index is k.
    """
    before = size - 1 if stride > size - 1 else -(-(size + stride - 2) // 2)
    low, high = before // stride, (size - 1 - before + stride - 1) // stride
    taps = stride * np.arange(-low, high + 1)[:, None] + before - np.arange(stride)
    return np.where((taps >= 0) & (taps < size), taps, size), (low, high)


class ConvTranspose(nn.Module):
    """A transposed convolution of images, 'SAME': [B, H, W, C] -> [B, s H, s W, F], as `flax.linen.ConvTranspose`.

    The s x s pixels that come of one input pixel are channels of one ordinary convolution with smaller kernels, which
    multiplies no zeros and whose gradients are ordinary convolutions, too.

    Parameters: 'kernel' [k, k, C, F], 'bias' [F].

    Attributes:
      features: F.
      kernel_size, strides: one entry a spatial axis.
      dtype: of the computation; None takes the common type of input and parameters.
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int]
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, H, W, C = x.shape
        F, (s, t) = self.features, self.strides
        kernel = self.param('kernel', self.kernel_init, (*self.kernel_size, C, F), self.param_dtype)
        bias = self.param('bias', self.bias_init, (F,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        (rows, pad_rows), (columns, pad_columns) = map(phases, self.kernel_size, self.strides)
        padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # the tap that is none
        small_DxsxExtxCxF = padded[rows][:, :, columns]
        small = small_DxsxExtxCxF.transpose(0, 2, 4, 1, 3, 5).reshape(len(rows), len(columns), C, s * t * F)
        y = conv(x, small, strides=(1, 1), padding=(pad_rows, pad_columns), dilation=(1, 1))
        y = y.reshape(B, H, W, s, t, F).transpose(0, 1, 3, 2, 4, 5).reshape(B, s * H, t * W, F)
        return y if bias is None else y + bias
