"""EfficientNet (Tan & Le 2019), and its Lite form without squeezes.

Glossary: B batch · H, W height, width · C channels · K classes.
"""
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.activations import activation
from bigjax.nn.dense import Dense
from bigjax.nn.inverted_residual import Conventions, Row, divisible, stages

B0 = (  # table 1: kernel, stride, expansion, channels, repeats, squeeze
    (3, 1, 1, 16, 1, 0.25), (3, 2, 6, 24, 2, 0.25), (5, 2, 6, 40, 2, 0.25), (3, 2, 6, 80, 3, 0.25), (5, 1, 6, 112, 3, 0.25),
    (5, 2, 6, 192, 4, 0.25), (3, 1, 6, 320, 1, 0.25))
SCALES = {  # width, depth, pixels of a side, dropout: of the published code
    'b0': (1.0, 1.0, 224, 0.2), 'b1': (1.0, 1.1, 240, 0.2), 'b2': (1.1, 1.2, 260, 0.3), 'b3': (1.2, 1.4, 300, 0.3),
    'b4': (1.4, 1.8, 380, 0.4), 'b5': (1.6, 2.2, 456, 0.4), 'b6': (1.8, 2.6, 528, 0.5), 'b7': (2.0, 3.1, 600, 0.5)}
# With 1,000 classes b0 has 5,288,548 parameters, b1 7,794,184, b2 9,109,994, b3 12,233,232, b4 19,341,616, b5 30,389,784,
# b6 43,040,704, b7 66,347,960 and lite0 4,652,008.
VARIANTS = {
    **{name: {'width_factor': width, 'depth_factor': depth, 'dropout': dropout}
       for name, (width, depth, _, dropout) in SCALES.items()},
    'lite0': {'width_factor': 1.0, 'depth_factor': 1.0, 'lite': True},
}


class EfficientNet(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'stem', 'stage_0_block_0', …, 'last', mean over pixels, 'head'.

    Attributes:
      num_classes: K.
      width_factor, depth_factor: of the channels and of the repeats of B0 (section 3.3).
      lite: no squeezes, ReLU6 in the place of the SiLU.
      dropout: before the head.
      drop_path: the rate of stochastic depth at the last block.
      padding: 'same' as published, or 'symmetric' as torch's.
      epsilon: of batch how; 1e-3 as published.
      dtype: of the computation; parameters and statistics stay float32.
    """

    num_classes: int = 1000
    width_factor: float = 1.0
    depth_factor: float = 1.0
    lite: bool = False
    dropout: float = 0.2
    drop_path: float = 0.0
    padding: str = 'same'
    epsilon: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        how = Conventions(self.padding, self.epsilon, 0.99, self.dtype)
        hidden = 'relu6' if self.lite else 'silu'
        act, wide = activation(hidden), lambda channels: divisible(channels * self.width_factor)
        table = [[Row(kernel, stride, expand, wide(features), math.ceil(repeats * self.depth_factor),
                      0.0 if self.lite else squeeze, hidden)] for kernel, stride, expand, features, repeats, squeeze in B0]
        x = act(how.norm('stem_norm', train)(how.conv(wide(32), 3, 2, 'stem')(x.astype(self.dtype))))
        x = stages(x, table, train=train, how=how, drop_path=self.drop_path,
                   reduced=lambda row, channels, middle: max(1, int(channels * row.squeeze)) if row.squeeze else 0)
        x = act(how.norm('last_norm', train)(how.conv(wide(1280), 1, 1, 'last')(x))).mean(axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')  # U(-r, r), r = 1 / sqrt(K)
        return Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name='head')(x)
