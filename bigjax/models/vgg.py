"""VGG (Simonyan & Zisserman 2015).

Glossary: B batch · H, W height, width · C channels · K classes.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm
from bigjax.nn.pool import max_pool

# Table 1, A, B, D and E, with 1,000 classes: 132,863,336, 133,047,848, 138,357,544 and 143,667,240 parameters.
VARIANTS = {
    '11': {'layers': (1, 1, 2, 2, 2)}, '13': {'layers': (2, 2, 2, 2, 2)}, '16': {'layers': (2, 2, 3, 3, 3)},
    '19': {'layers': (2, 2, 4, 4, 4)},
}
GRID = 7  # pixels of a side that the first fully connected layer sees


class VGG(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'conv_0', …, a pooling after each group, 'fc_0', 'fc_1', 'head'.

    The fully connected layers see a window of 7 x 7 pixels; of a larger image every window is seen, and their results are
    averaged before the head (section 3.2).

    Attributes:
      num_classes: K.
      layers: 3x3 convolutions of each group.
      widths: their channels.
      hidden: units of the two fully connected layers.
      batch_norm: a batch norm after each convolution, 'norm_0' …, which the paper has not.
      dropout: after each fully connected layer.
      dtype: of the computation; parameters stay float32.

    Raises:
      UserError: an image that is smaller than the window, 224 pixels of a side with five groups; 'model/image-size'.
    """

    num_classes: int = 1000
    layers: Sequence[int] = (2, 2, 3, 3, 3)
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    batch_norm: bool = False
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if len(self.layers) != len(self.widths):
            raise UserError(f'VGG: got {len(self.layers)} groups and {len(self.widths)} widths, expected equally many; fix: '
                            'give one per group', code='model/lengths')
        least = GRID * 2 ** len(self.layers)
        if min(x.shape[1:3]) < least:
            raise UserError(f'VGG: got an image of {x.shape[1]} x {x.shape[2]}, expected at least {least} x {least}; fix: '
                            f'--config.image_size={least}', code='model/image-size')
        conv = lambda width, size, padding, name: Conv(width, (size, size), padding=padding, dtype=self.dtype, name=name,
                                                       kernel_init=nn.initializers.he_normal())
        x, number = x.astype(self.dtype), 0
        for layers, width in zip(self.layers, self.widths, strict=True):
            for _ in range(layers):
                x = conv(width, 3, 1, f'conv_{number}')(x)
                if self.batch_norm:
                    x = BatchNorm(not train, 0.9, 1e-5, dtype=self.dtype, name=f'norm_{number}')(x)
                x, number = nn.relu(x), number + 1
            x = max_pool(x, (2, 2), (2, 2))
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = drop(nn.relu(conv(self.hidden, GRID, 'VALID', 'fc_0')(x)))
        x = drop(nn.relu(Dense(self.hidden, dtype=self.dtype, name='fc_1')(x))).mean(axis=(1, 2))
        return Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name='head')(x)
