"""Residual networks (He et al. 2016), for small images and for ImageNet, and the networks that vary their block.

Pre-activation (He et al. 2016b), wide (Zagoruyko & Komodakis 2016), ResNeXt (Xie et al. 2017) and BiT (Kolesnikov et al.
2020): group norms and standardised kernels.

Glossary: B batch · H, W height, width · C channels · K classes.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
STEMS = ('3x3', '7x7', 'bit')
SHORTCUTS = ('pad', 'conv')
NORMS = ('batch', 'group')
EXPANSION = {'basic': 1, 'bottleneck': 4}
NORM_GROUPS = 32  # groups of a group norm (Wu & He 2018), fewer where they do not divide the channels
KERNEL_EPSILON = 1e-8  # added to the variance of a standardised kernel, as in the code of BiT


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


def wide(depth: int, factor: int) -> dict:
    """Zagoruyko & Komodakis 2016, table 1: 6n + 4 layers. 36,479,194 parameters at 28-10 on three channels, ten classes."""
    return {'blocks': ((depth - 4) // 6,) * 3, 'widths': (16 * factor, 32 * factor, 64 * factor), 'stem_width': 16,
            'shortcut': 'conv', 'preact': True}


def imagenet(blocks: Sequence[int], block: str = 'bottleneck', **options) -> dict:
    """He et al. 2016, table 1, with the stride in the 3x3 layer of a three-layer block (Goyal et al. 2017, section 5.1).

    11,689,512 parameters at depth 18, 25,557,032 at 50, 44,549,160 at 101 and 60,192,808 at 152, on 1,000 classes.
    """
    return {'blocks': blocks, 'widths': (64, 128, 256, 512), 'block': block, 'shortcut': 'conv', 'stem': '7x7', **options}


def bit(blocks: Sequence[int], factor: int) -> dict:
    """Kolesnikov et al. 2020: 25,549,352 parameters at R50x1 and 217,319,080 at R50x3, on 1,000 classes."""
    return imagenet(blocks, widths=tuple(width * factor for width in (64, 128, 256, 512)), stem='bit', preact=True,
                    norm='group', standardize=True)


VARIANTS = {
    'resnet18': imagenet((2, 2, 2, 2), 'basic'), 'resnet34': imagenet((3, 4, 6, 3), 'basic'),
    'resnet50': imagenet((3, 4, 6, 3)), 'resnet101': imagenet((3, 4, 23, 3)), 'resnet152': imagenet((3, 8, 36, 3)),
    'resnet50_v1': imagenet((3, 4, 6, 3), stride_first=True), 'resnet50_v2': imagenet((3, 4, 6, 3), preact=True),
    'resnet50_gn': imagenet((3, 4, 6, 3), norm='group'),
    'resnext50_32x4d': imagenet((3, 4, 6, 3), groups=32, group_width=4),
    'resnext101_32x8d': imagenet((3, 4, 23, 3), groups=32, group_width=8),
    'wide_resnet50_2': imagenet((3, 4, 6, 3), group_width=128),
    'bit_r50x1': bit((3, 4, 6, 3), 1), 'bit_r101x1': bit((3, 4, 23, 3), 1), 'bit_r50x3': bit((3, 4, 6, 3), 3),
    'bit_r152x2': bit((3, 8, 36, 3), 2),
    'wrn10_2': wide(10, 2), 'wrn16_4': wide(16, 4), 'wrn28_10': wide(28, 10), 'wrn40_4': wide(40, 4),
    'resnext29_8x64d': {'blocks': (3, 3, 3), 'widths': (64, 128, 256), 'block': 'bottleneck', 'shortcut': 'conv', 'groups': 8},
    **{f'resnet{depth}': cifar(depth) for depth in (20, 32, 44, 56, 110)},
    **{f'random_erasing{depth}': random_erasing(depth) for depth in (20, 32, 44, 56, 110)},
}


class Form(NamedTuple):
    """The options that all blocks of a network share, which are fields of `ResNet`."""

    block: str
    shortcut: str
    preact: bool
    stride_first: bool
    groups: int
    group_width: int
    norm: str
    standardize: bool
    dropout: float
    zero_last: bool
    kernel_init: Callable
    dtype: Any

    def conv(self, x: jax.Array, width: int, size: int, stride: int, name: str, groups: int = 1, init=None) -> jax.Array:
        """A convolution that pads on both sides, as published, where 'SAME' would pad a strided layer on one."""
        more = {'standardize': KERNEL_EPSILON} if self.standardize else {}
        return Conv(width, (size, size), strides=stride, padding=size // 2, feature_group_count=groups, use_bias=False,
                    kernel_init=init or self.kernel_init, dtype=self.dtype, name=name, **more)(x)

    def normed(self, x: jax.Array, name: str, train: bool, scale_init: Callable = ONES) -> jax.Array:
        """A norm over examples, or over groups of channels within one."""
        if self.norm == 'group':
            return nn.GroupNorm(math.gcd(NORM_GROUPS, x.shape[-1]), epsilon=1e-5, use_fast_variance=False,
                                scale_init=scale_init, dtype=self.dtype, name=name)(x)
        return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, scale_init=scale_init, dtype=self.dtype,
                         name=name)(x)


class Residual(nn.Module):
    """relu(shortcut(x) + f(x)), [B, H, W, C] -> [B, H/stride, W/stride, EXPANSION * width]; no relu with `preact`.

    f is 'conv_0', 'norm_0', … : two 3x3 convolutions, the first with the stride, or ('bottleneck') 1x1, 3x3 with the
    stride, 1x1; with `preact` each norm and relu comes before its convolution. Where the shape changes, the shortcut is
    'shortcut' and 'shortcut_norm' (with `preact` the first alone, of relu('norm_0')), or takes every stride-th pixel and pads
    the channels with zeros on both sides.
    """

    width: int
    stride: int
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        form = self.form
        y, first = x, x
        layers = self._layers()
        for i, (width, size, stride, groups) in enumerate(layers):
            last = i == len(layers) - 1 and form.zero_last
            if form.preact:
                y = nn.relu(form.normed(y, f'norm_{i}', train))
                first = y if i == 0 else first
                if i == len(layers) - 1:
                    y = nn.Dropout(form.dropout, deterministic=not train)(y)
                y = form.conv(y, width, size, stride, f'conv_{i}', groups, nn.initializers.zeros_init() if last else None)
            else:
                y = form.conv(nn.relu(y) if i > 0 else y, width, size, stride, f'conv_{i}', groups)
                y = form.normed(y, f'norm_{i}', train, nn.initializers.zeros_init() if last else ONES)
        if x.shape != y.shape:
            features = y.shape[-1]
            if form.shortcut == 'conv':
                x = form.conv(first if form.preact else x, features, 1, self.stride, 'shortcut')
                x = x if form.preact else form.normed(x, 'shortcut_norm', train)
            else:
                more = features - x.shape[-1]
                x = jnp.pad(x[:, ::self.stride, ::self.stride], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return x + y if form.preact else nn.relu(x + y)

    def _layers(self) -> list[tuple[int, int, int, int]]:
        """(features, size, stride, groups) of the convolutions."""
        form, stride = self.form, self.stride
        if form.block == 'basic':
            return [(self.width, 3, stride, 1), (self.width, 3, 1, 1)]
        inner = self.width * form.group_width // 64 * form.groups
        first, second = (stride, 1) if form.stride_first else (1, stride)
        return [(inner, 1, first, 1), (inner, 3, second, form.groups), (EXPANSION['bottleneck'] * self.width, 1, 1, 1)]


class ResNet(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'stem', 'stem_norm', 'stage_0_block_0', …, mean over pixels, 'head'.

    With `preact` there is no 'stem_norm', and 'final_norm' and a relu stand before the mean.

    Attributes:
      blocks: how many in each stage; every stage after the first halves height and width.
      widths: of the stages; a three-layer block ends in four times as many channels.
      stem_width: channels of the stem; 0 for those of the first stage.
      block: 'basic' or 'bottleneck'.
      shortcut: where a block changes the shape: 'pad' (option A) or 'conv' (option B).
      stem: '3x3', or '7x7' with a stride of two and a pooling of two, or 'bit', which pools over zeros at the border.
      preact: norm and relu before each convolution, none after the sum (He et al. 2016b).
      stride_first: the stride of a three-layer block in its 1x1 layer (He et al. 2016), not in its 3x3 layer.
      groups: of the 3x3 layer of a three-layer block (Xie et al. 2017).
      group_width: channels of one group in a stage of width 64.
      norm: 'batch', or 'group' (Wu & He 2018).
      standardize: kernels have mean zero and variance one over their inputs (Qiao et al. 2019).
      dropout: before the last convolution of a block with `preact` (Zagoruyko & Komodakis 2016).
      zero_last: blocks start as the identity: the scale of their last norm is zero (Goyal et al. 2017, section 5.1), or with
        `preact` their last kernel.
      num_classes: K.
      kernel_init, head_init: of the convolutions and of the last layer.
      dtype: of the computation; parameters and statistics stay float32.

    Raises:
      UserError: an unknown option, lists of unequal lengths, or groups and dropout where the block has no place for them.
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
    stem_width: int = 0
    preact: bool = False
    stride_first: bool = False
    groups: int = 1
    group_width: int = 64
    norm: str = 'batch'
    standardize: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        self._check()
        form = Form(**{name: getattr(self, name) for name in Form._fields})
        size, stride = (3, 1) if self.stem == '3x3' else (7, 2)
        x = form.conv(x.astype(self.dtype), self.stem_width or self.widths[0], size, stride, 'stem')
        x = x if self.preact else nn.relu(form.normed(x, 'stem_norm', train))
        if self.stem == '7x7':
            x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        elif self.stem == 'bit':
            x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))
        for i, (number, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for j in range(number):
                stride = 2 if i > 0 and j == 0 else 1
                x = Residual(width, stride, form, name=f'stage_{i}_block_{j}')(x, train=train)
        x = nn.relu(form.normed(x, 'final_norm', train)) if self.preact else x
        return Dense(self.num_classes, kernel_init=self.head_init, dtype=self.dtype, name='head')(x.mean(axis=(1, 2)))

    def _check(self) -> None:
        if len(self.blocks) != len(self.widths):
            raise UserError(f'ResNet: got {len(self.blocks)} blocks and {len(self.widths)} widths, expected equally many; '
                            'fix: give one per stage', code='model/lengths')
        for name, choices in (('block', EXPANSION), ('shortcut', SHORTCUTS), ('stem', STEMS), ('norm', NORMS)):
            if getattr(self, name) not in choices:
                raise UserError(f'ResNet: got {name} {getattr(self, name)!r}, expected one of {", ".join(choices)}; fix: '
                                'choose one of them', code='model/unknown-option')
        if self.block == 'basic' and (self.groups != 1 or self.group_width != 64 or self.stride_first):
            raise UserError(f"ResNet: got block='basic' with groups={self.groups}, group_width={self.group_width}, "
                            f"stride_first={self.stride_first}, expected block='bottleneck', which has a 1x1 layer; fix: "
                            'choose it', code='model/unfit-options')
        if self.dropout and not self.preact:
            raise UserError(f'ResNet: got dropout={self.dropout} with preact=False, expected preact=True: other blocks have no '
                            'dropout; fix: choose one of the two', code='model/unfit-options')
