"""MobileNetV2 (Sandler et al. 2018) and MobileNetV3 (Howard et al. 2019).

Glossary: B batch · H, W height, width · C channels · K classes.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.activations import activation
from bigjax.nn.dense import Dense
from bigjax.nn.inverted_residual import Conventions, divisible, stages

# Rows (kernel, stride, expansion, channels, repeats, squeeze, activation): V2, table 2; V3, tables 1 and 2.
V2 = (((3, 1, 1, 16, 1),), ((3, 2, 6, 24, 2),), ((3, 2, 6, 32, 3),), ((3, 2, 6, 64, 4),), ((3, 1, 6, 96, 3),),
      ((3, 2, 6, 160, 3),), ((3, 1, 6, 320, 1),))
V3_LARGE = (
    ((3, 1, 1, 16, 1, 0.0, 'relu'),), ((3, 2, 4, 24, 1, 0.0, 'relu'), (3, 1, 3, 24, 1, 0.0, 'relu')),
    ((5, 2, 3, 40, 3, 0.25, 'relu'),),
    ((3, 2, 6, 80, 1, 0.0, 'hard_swish'), (3, 1, 2.5, 80, 1, 0.0, 'hard_swish'), (3, 1, 2.3, 80, 2, 0.0, 'hard_swish')),
    ((3, 1, 6, 112, 2, 0.25, 'hard_swish'),), ((5, 2, 6, 160, 3, 0.25, 'hard_swish'),))
V3_SMALL = (
    ((3, 2, 1, 16, 1, 0.25, 'relu'),), ((3, 2, 4.5, 24, 1, 0.0, 'relu'), (3, 1, 3.67, 24, 1, 0.0, 'relu')),
    ((5, 2, 4, 40, 1, 0.25, 'hard_swish'), (5, 1, 6, 40, 2, 0.25, 'hard_swish')), ((5, 1, 3, 48, 2, 0.25, 'hard_swish'),),
    ((5, 2, 6, 96, 3, 0.25, 'hard_swish'),))
V3 = {'stem_width': 16, 'hidden': 'hard_swish'}
VARIANTS = {  # 3,504,872, 5,483,032 and 2,542,856 parameters with 1,000 classes
    'v2': {'stages': V2, 'stem_width': 32, 'last_width': 1280, 'hidden': 'relu6'},
    'v3_large': {'stages': V3_LARGE, 'last_width': 960, 'pre_logits': 1280, **V3},
    'v3_small': {'stages': V3_SMALL, 'last_width': 576, 'pre_logits': 1024, **V3},
}


class MobileNet(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'stem', 'stage_0_block_0', …, 'last', mean over pixels, 'pre_logits', 'head'.

    Attributes:
      num_classes: K.
      stages: rows (kernel, stride, expansion, channels, repeats, squeeze, activation) of each, see
        `bigjax.nn.inverted_residual.Row`.
      stem_width: channels of the first convolution, of stride two.
      last_width: channels of the last one, 1x1.
      pre_logits: units of a layer between the mean and the head; 0 for none.
      hidden: the activation outside the blocks.
      dropout: before the head.
      drop_path: the rate of stochastic depth at the last block.
      padding: 'symmetric' as torch's, or 'same' as TensorFlow's.
      epsilon: of batch norms.
      dtype: of the computation; parameters and statistics stay float32.
    """

    num_classes: int = 1000
    stages: Sequence = V2
    stem_width: int = 32
    last_width: int = 1280
    pre_logits: int = 0
    hidden: str = 'relu6'
    dropout: float = 0.2
    drop_path: float = 0.0
    padding: str = 'symmetric'
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        how, act = Conventions(self.padding, self.epsilon, dtype=self.dtype), activation(self.hidden)
        x = act(how.norm('stem_norm', train)(how.conv(self.stem_width, 3, 2, 'stem')(x.astype(self.dtype))))
        x = stages(x, self.stages, train=train, how=how, drop_path=self.drop_path, gate='hard_sigmoid', squeeze='relu',
                   reduced=lambda row, channels, middle: divisible(middle * row.squeeze) if row.squeeze else 0)
        x = act(how.norm('last_norm', train)(how.conv(self.last_width, 1, 1, 'last')(x))).mean(axis=(1, 2))
        if self.pre_logits:
            x = act(Dense(self.pre_logits, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name='pre_logits')(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name='head')(x)
