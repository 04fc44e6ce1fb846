"""ConvNeXt (Liu et al. 2022).

Glossary: B batch · H, W height, width · C channels · D width of a stage · K classes.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.drop_path import drop_path, drop_rates
from bigjax.nn.norm import LayerNorm

# Section 3, with 1,000 classes: 28,589,128, 50,223,688, 88,591,464 and 197,767,336 parameters.
VARIANTS = {
    'tiny': {'blocks': (3, 3, 9, 3), 'widths': (96, 192, 384, 768)},
    'small': {'blocks': (3, 3, 27, 3), 'widths': (96, 192, 384, 768)},
    'base': {'blocks': (3, 3, 27, 3), 'widths': (128, 256, 512, 1024)},
    'large': {'blocks': (3, 3, 27, 3), 'widths': (192, 384, 768, 1536)},
}
INIT = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """x + layer_scale * down(gelu(up(norm(depthwise(x))))), [B, H, W, D]: a 7x7 convolution of each channel, then two 1x1."""

    layer_scale: float
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        D = x.shape[-1]
        y = Conv(D, (7, 7), padding=3, feature_group_count=D, kernel_init=INIT, dtype=self.dtype, name='depthwise')(x)
        y = LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm')(y)
        y = nn.gelu(Dense(4 * D, kernel_init=INIT, dtype=self.dtype, name='up')(y), approximate=False)
        y = Dense(D, kernel_init=INIT, dtype=self.dtype, name='down')(y)
        if self.layer_scale:
            y = y * self.param('layer_scale', nn.initializers.constant(self.layer_scale), (D,), jnp.float32).astype(y.dtype)
        return x + drop_path(y, self.drop_rate, train)


class ConvNeXt(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'stem', 'stem_norm', 'stage_0_block_0', …, mean over pixels, 'final_norm', 'head'.

    Every stage after the first begins with 'stage_i_down_norm' and 'stage_i_down', which halves height and width.

    Attributes:
      num_classes: K.
      blocks, widths: how many in each stage, and their channels D.
      layer_scale: what the scale of each block's channels begins with; 0 for none.
      drop_path: the rate of stochastic depth at the last block, from zero at the first.
      dtype: of the computation; parameters stay float32.

    Raises:
      UserError: an image smaller than 32 pixels, of which a stage would see nothing; 'model/image-size'.
    """

    num_classes: int = 1000
    blocks: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if len(self.blocks) != len(self.widths):
            raise UserError(f'ConvNeXt: got {len(self.blocks)} blocks and {len(self.widths)} widths, expected equally many; '
                            'fix: give one per stage', code='model/lengths')
        least = 2 ** (len(self.blocks) + 1)
        if min(x.shape[1:3]) < least:
            raise UserError(f'ConvNeXt: got an image of {x.shape[1]} x {x.shape[2]}, expected at least {least} x {least}; fix: '
                            'choose a larger config.image_size', code='model/image-size')
        down = lambda width, size, name: Conv(width, (size, size), size, 'VALID', kernel_init=INIT, dtype=self.dtype, name=name)
        norm = lambda name: LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)
        rates = iter(drop_rates(self.drop_path, sum(self.blocks)))
        x = norm('stem_norm')(down(self.widths[0], 4, 'stem')(x.astype(self.dtype)))
        for i, (number, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            if i > 0:
                x = down(width, 2, f'stage_{i}_down')(norm(f'stage_{i}_down_norm')(x))
            for j in range(number):
                x = Block(self.layer_scale, next(rates), self.dtype, name=f'stage_{i}_block_{j}')(x, train=train)
        x = norm('final_norm')(x.mean(axis=(1, 2)))
        return Dense(self.num_classes, kernel_init=INIT, dtype=self.dtype, name='head')(x)
