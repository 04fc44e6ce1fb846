"""DenseNet (Huang et al. 2017), with bottlenecks and compression (DenseNet-BC), for ImageNet.

Glossary: B batch · H, W height, width · C channels · K classes.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm
from bigjax.nn.pool import avg_pool, max_pool

# Table 1, with 1,000 classes: 7,978,856, 14,149,480, 20,013,928 and 28,681,000 parameters.
VARIANTS = {
    '121': {'blocks': (6, 12, 24, 16)}, '169': {'blocks': (6, 12, 32, 32)}, '201': {'blocks': (6, 12, 48, 32)},
    '161': {'blocks': (6, 12, 36, 24), 'growth': 48, 'stem_width': 96},
}
he_normal = nn.initializers.he_normal()


class DenseNet(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'stem', 'dense_1_layer_1', …, 'final_norm', mean over pixels, 'head'.

    Every layer adds `growth` channels to those that it sees: 'norm_0', ReLU, 'conv_0' (1x1), 'norm_1', ReLU, 'conv_1' (3x3).
    Between blocks, which are counted from 1 as in table 1, 'transition_1' keeps half of the channels and of the pixels of a
    side.

    Attributes:
      num_classes: K.
      blocks: layers of each.
      growth: channels of a layer.
      stem_width: channels of the first convolution.
      bottleneck: channels between the two convolutions of a layer, in multiples of the growth.
      dtype: of the computation; parameters and statistics stay float32.
    """

    num_classes: int = 1000
    blocks: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    stem_width: int = 64
    bottleneck: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _conv(self, self.stem_width, 7, 2, 'stem')(x.astype(self.dtype))
        x = max_pool(_norm_relu(self, 'stem_norm', x, train), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, layers in enumerate(self.blocks, 1):
            for j in range(1, layers + 1):
                y = Layer(self.growth, self.bottleneck, self.dtype, name=f'dense_{i}_layer_{j}')(x, train=train)
                x = jnp.concatenate([x, y], axis=-1)
            if i < len(self.blocks):
                x = _norm_relu(self, f'transition_{i}_norm', x, train)
                x = avg_pool(_conv(self, x.shape[-1] // 2, 1, 1, f'transition_{i}')(x), (2, 2), (2, 2))
        x = _norm_relu(self, 'final_norm', x, train).mean(axis=(1, 2))
        return Dense(self.num_classes, dtype=self.dtype, name='head')(x)


class Layer(nn.Module):
    """[B, H, W, C] -> [B, H, W, growth]."""

    growth: int
    bottleneck: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _conv(self, self.bottleneck * self.growth, 1, 1, 'conv_0')(_norm_relu(self, 'norm_0', x, train))
        return _conv(self, self.growth, 3, 1, 'conv_1')(_norm_relu(self, 'norm_1', x, train))


def _conv(module, features, size, stride, name) -> Conv:
    return Conv(features, (size, size), stride, size // 2, use_bias=False, kernel_init=he_normal, dtype=module.dtype, name=name)


def _norm_relu(module, name, x, train):
    return nn.relu(BatchNorm(not train, 0.9, 1e-5, dtype=module.dtype, name=name)(x))
