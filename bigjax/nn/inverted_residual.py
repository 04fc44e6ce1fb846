"""The inverted residual block of mobile networks (Sandler et al. 2018, figure 3), with squeeze and excitation.

Glossary: B batch · H, W height, width · C channels · M channels between · R channels of the squeeze.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.activations import activation
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.drop_path import drop_path as without
from bigjax.nn.norm import BatchNorm

PADDINGS = ('symmetric', 'same')
# Of a depthwise kernel [k, k, 1, C] the fan out of a channel is its k k weights, which its shape has as the fan in.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
he_normal_depthwise = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class Conventions(NamedTuple):
    """The conventions of one network, the same in all of its layers.

    Attributes:
      padding: of convolutions, 'symmetric' as torch's, or 'same' as TensorFlow's, which pads a strided one on the far side.
      epsilon, momentum: of batch norms.
      dtype: of the computation.
    """

    padding: str = 'symmetric'
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Any = jnp.float32

    def conv(self, features: int, kernel: int, stride: int, name: str, depthwise: bool = False, bias: bool = False) -> Conv:
        """A convolution of these conventions."""
        if self.padding not in PADDINGS:
            raise UserError(f'padding: got {self.padding!r}, expected one of {", ".join(PADDINGS)}; fix: choose one of them',
                            code='model/unknown-option')
        return Conv(features, (kernel, kernel), stride, 'SAME' if self.padding == 'same' else (kernel - 1) // 2,
                    feature_group_count=features if depthwise else 1, use_bias=bias,
                    kernel_init=he_normal_depthwise if depthwise else he_normal, dtype=self.dtype, name=name)

    def norm(self, name: str, train: bool) -> BatchNorm:
        """A batch norm of these conventions."""
        return BatchNorm(not train, self.momentum, self.epsilon, dtype=self.dtype, name=name)


class SqueezeExcite(nn.Module):
    """x times a gate of each channel (Hu et al. 2018), [B, H, W, C] -> the same: mean over pixels, 'reduce' to R, 'expand',
    `gate`."""

    reduced: int
    hidden: Callable
    gate: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        squeezed = self.hidden(Dense(self.reduced, dtype=self.dtype, name='reduce')(x.mean(axis=(1, 2))))
        return x * self.gate(Dense(x.shape[-1], dtype=self.dtype, name='expand')(squeezed))[:, None, None]


class Row(NamedTuple):
    """Blocks of one shape, one line of a paper's table of a network.

    Attributes:
      kernel: k of the depthwise convolution. stride: of the first block.
      expand: M / C. features: output channels. repeats: how many blocks.
      squeeze: the ratio that R is computed from; 0 for no squeeze.
      hidden: the name of the activation.
    """

    kernel: int
    stride: int
    expand: float
    features: int
    repeats: int
    squeeze: float = 0.0
    hidden: str = 'relu6'


class InvertedResidual(nn.Module):
    """[B, H, W, C] -> [B, H/stride, W/stride, features] through M channels, of which each is convolved alone.

    'expand' (1x1, left out where M = C), 'depthwise' with the stride, 'se' where R > 0, 'project' (1x1, no activation after
    it); each convolution has its '…_norm'. The block adds its input where the shape allows it.

    Attributes:
      middle: M. reduced: R.
      hidden: the name of the activation; gate, squeeze: of the squeeze's gate, and of its R channels.
      drop_rate: of stochastic depth.
    """

    features: int
    kernel: int
    stride: int
    middle: int
    reduced: int = 0
    hidden: str = 'relu6'
    gate: str = 'sigmoid'
    squeeze: str = 'silu'
    drop_rate: float = 0.0
    how: Conventions = Conventions()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        how, act, y = self.how, activation(self.hidden), x
        if self.middle != x.shape[-1]:
            y = act(how.norm('expand_norm', train)(how.conv(self.middle, 1, 1, 'expand')(y)))
        y = how.conv(self.middle, self.kernel, self.stride, 'depthwise', depthwise=True)(y)
        y = act(how.norm('depthwise_norm', train)(y))
        if self.reduced:
            y = SqueezeExcite(self.reduced, activation(self.squeeze), activation(self.gate), how.dtype, name='se')(y)
        y = how.norm('project_norm', train)(how.conv(self.features, 1, 1, 'project')(y))
        return x + without(y, self.drop_rate, train) if x.shape == y.shape else y


def stages(x: jax.Array, table: Sequence[Sequence[Row | tuple]], *, train: bool, how: Conventions, reduced: Callable[..., int],
           drop_path: float = 0.0, **options) -> jax.Array:
    """The blocks 'stage_0_block_0', … of a network, in the compact scope of its module.

    Args:
      table: rows of each stage.
      reduced: function of a row, C and M to R.
      drop_path: the rate of the last block; the k-th of n has k / n of it, as in EfficientNet's code.
      options: of every block.
    """
    table = [[Row(*row) for row in rows] for rows in table]
    total, done = sum(row.repeats for rows in table for row in rows), 0
    for i, rows in enumerate(table):
        shapes = [(row, row.stride if k == 0 else 1) for row in rows for k in range(row.repeats)]
        for j, (row, stride) in enumerate(shapes):
            channels = x.shape[-1]
            middle = channels if row.expand == 1 else divisible(channels * row.expand)
            x = InvertedResidual(row.features, row.kernel, stride, middle, reduced(row, channels, middle), row.hidden,
                                 drop_rate=drop_path * done / total, how=how, name=f'stage_{i}_block_{j}', **options)(
                                     x, train=train)
            done += 1
    return x


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by` that is at least `by` and no tenth below the given number (Sandler et al.'s code)."""
    found = max(by, int(channels + by / 2) // by * by)
    return found + by if found < 0.9 * channels else found
