"""Residual networks (He et al. 2016), for small images (section 4.2) and for ImageNet (table 1).

Glossary: B batch · H, W height, width · C channels · K classes.
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm
from bigjax.nn.pool import max_pool

# He et al. 2015, eq. 10, as the published code reads it: variance 2 / (k k C_out).
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
ONES = nn.initializers.ones_init()
STEMS = ('3x3', '7x7')
SHORTCUTS = ('pad', 'conv')
EXPANSION = {'basic': 1, 'bottleneck': 4}


def cifar(depth: int) -> dict:
    """He et al. 2016, table 6: 6n + 2 layers, shortcuts without parameters (option A).

    269,722 parameters at depth 20, 853,018 at 56 and 1,727,962 at 110, on three channels and ten classes.
    """
    return {'blocks': ((depth - 2) // 6,) * 3, 'shortcut': 'pad'}


def random_erasing(depth: int) -> dict:
    """Zhong et al. 2020: projected shortcuts, and from depth 44 on three-layer blocks in the places of two-layer ones.

    272,186 parameters at depth 20 on one channel and ten classes.
    """
    return {'blocks': ((depth - 2) // 6,) * 3, 'shortcut': 'conv', 'block': 'bottleneck' if depth >= 44 else 'basic'}


def imagenet(blocks: Sequence[int], block: str = 'bottleneck') -> dict:
    """He et al. 2016, table 1, with the stride in the 3x3 layer of a three-layer block (Goyal et al. 2017, section 5.1).

    11,689,512 parameters at depth 18, 25,557,032 at 50, 44,549,160 at 101 and 60,192,808 at 152, on 1,000 classes.
    """
    return {'blocks': blocks, 'widths': (64, 128, 256, 512), 'block': block, 'shortcut': 'conv', 'stem': '7x7'}


VARIANTS = {
    'resnet18': imagenet((2, 2, 2, 2), 'basic'), 'resnet50': imagenet((3, 4, 6, 3)),
    'resnet101': imagenet((3, 4, 23, 3)), 'resnet152': imagenet((3, 8, 36, 3)),
    **{f'resnet{depth}': cifar(depth) for depth in (20, 32, 44, 56, 110)},
    **{f'random_erasing{depth}': random_erasing(depth) for depth in (20, 32, 44, 56, 110)},
}


class Residual(nn.Module):
    """relu(shortcut(x) + f(x)), [B, H, W, C] -> [B, H/stride, W/stride, EXPANSION * width].

    f is 'conv_0', 'norm_0', … : two 3x3 convolutions, the first with the stride, or ('bottleneck') 1x1, 3x3 with the
    stride, 1x1. Where the shape changes, the shortcut is 'shortcut' and 'shortcut_norm', or takes every stride-th
    pixel and pads the channels with zeros on both sides. `last_scale_init` is of f's last norm.
    """

    width: int
    stride: int
    block: str
    shortcut: str
    kernel_init: Callable
    last_scale_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, width, size, stride, name, norm, scale_init=ONES):
            pad = size // 2  # on both sides, as published, where 'SAME' would pad a strided layer on one
            x = Conv(width, (size, size), strides=stride, padding=pad, use_bias=False, kernel_init=self.kernel_init,
                     dtype=self.dtype, name=name)(x)
            return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, scale_init=scale_init,
                             dtype=self.dtype, name=norm)(x)

        features = EXPANSION[self.block] * self.width
        layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.block == 'bottleneck':
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (features, 1, 1)]
        y = x
        for i, (width, size, stride) in enumerate(layers):
            y = nn.relu(y) if i > 0 else y
            last = {'scale_init': self.last_scale_init} if i == len(layers) - 1 else {}
            y = conv(y, width, size, stride, f'conv_{i}', f'norm_{i}', **last)
        if x.shape != y.shape:
            if self.shortcut == 'conv':
                x = conv(x, features, 1, self.stride, 'shortcut', 'shortcut_norm')
            else:
                more = features - x.shape[-1]
                x = jnp.pad(x[:, ::self.stride, ::self.stride], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'stem', 'stem_norm', 'stage_0_block_0', …, mean over pixels, 'head'.

    Attributes:
      blocks: how many in each stage; every stage after the first halves height and width.
      widths: of the stages; the stem has that of the first.
      block: 'basic' or 'bottleneck'.
      shortcut: where a block changes the shape: 'pad' (option A) or 'conv' (option B).
      stem: '3x3', or '7x7' with a stride of two and a pooling of two.
      zero_last: blocks start as the identity: the scale of their last norm is zero (Goyal et al. 2017, section 5.1).
      num_classes: K.
      kernel_init, head_init: of the convolutions and of the last layer.
      dtype: of the computation; parameters and statistics stay float32.
    """

    blocks: Sequence[int] = (3, 3, 3)
    widths: Sequence[int] = (16, 32, 64)
    block: str = 'basic'
    shortcut: str = 'pad'
    stem: str = '3x3'
    zero_last: bool = False
    num_classes: int = 10
    kernel_init: Callable = he_normal
    head_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if len(self.blocks) != len(self.widths):
            raise UserError(f'ResNet: got {len(self.blocks)} blocks and {len(self.widths)} widths, expected equally many; '
                            'fix: give one per stage', code='model/lengths')
        if self.block not in EXPANSION or self.shortcut not in SHORTCUTS:
            raise UserError(f'ResNet: got block {self.block!r}, shortcut {self.shortcut!r}, expected block among '
                            f'{", ".join(EXPANSION)} and shortcut among {", ".join(SHORTCUTS)}; fix: choose among them',
                            code='model/unknown-option')
        if self.stem not in STEMS:
            raise UserError(f'ResNet: got stem {self.stem!r}, expected one of {", ".join(STEMS)}; fix: choose one of them',
                            code='model/unknown-option')
        large = self.stem == '7x7'
        size, stride = (7, 2) if large else (3, 1)
        x = Conv(self.widths[0], (size, size), strides=stride, padding=size // 2, use_bias=False,
                 kernel_init=self.kernel_init, dtype=self.dtype, name='stem')(x.astype(self.dtype))
        x = nn.relu(BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype,
                              name='stem_norm')(x))
        if large:
            x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        last = nn.initializers.zeros_init() if self.zero_last else ONES
        for i, (number, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for j in range(number):
                stride = 2 if i > 0 and j == 0 else 1
                x = Residual(width, stride, self.block, self.shortcut, self.kernel_init, last, self.dtype,
                             name=f'stage_{i}_block_{j}')(x, train=train)
        return Dense(self.num_classes, kernel_init=self.head_init, dtype=self.dtype, name='head')(x.mean(axis=(1, 2)))
