"""MLP-Mixer (Tolstikhin et al. 2021): patches mixed across places, then across channels, by two fully connected layers each.

Glossary: B batch · H, W height and width · C channels · P side of a patch · T patches · D width · K classes.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.cost_hints import CostHints
from bigjax.nn.dense import Dense
from bigjax.nn.drop_path import drop_path, drop_rates
from bigjax.nn.norm import LayerNorm
from bigjax.nn.patches import patches

# Table 1. With images of 224 pixels and 1,000 classes S/16 has 18,528,264 parameters, B/16 59,880,472 and L/16 208,196,168.
VARIANTS = {
    's32': {'patch': 32, 'width': 512, 'num_layers': 8, 'token_width': 256, 'channel_width': 2048},
    's16': {'patch': 16, 'width': 512, 'num_layers': 8, 'token_width': 256, 'channel_width': 2048},
    'b32': {'patch': 32, 'width': 768, 'num_layers': 12, 'token_width': 384, 'channel_width': 3072},
    'b16': {'patch': 16, 'width': 768, 'num_layers': 12, 'token_width': 384, 'channel_width': 3072},
    'l16': {'patch': 16, 'width': 1024, 'num_layers': 24, 'token_width': 512, 'channel_width': 4096},
}
PARTITION_RULES = (
    ('patch_embed/kernel', (None, 'embed')), ('patch_embed/bias', ('embed',)),
    (r'block_\d+/token_mlp/up/kernel', (None, 'mlp')), (r'block_\d+/token_mlp/down/kernel', ('mlp', None)),
    (r'block_\d+/channel_mlp/up/kernel', ('embed', 'mlp')), (r'block_\d+/channel_mlp/down/kernel', ('mlp', 'embed')),
    (r'block_\d+/(token|channel)_mlp/up/bias', ('mlp',)), (r'block_\d+/channel_mlp/down/bias', ('embed',)),
    (r'block_\d+/token_mlp/down/bias', (None,)),
    (r'(block_\d+/(token|channel)|final)_norm/(scale|bias)', ('embed',)),
    ('head/kernel', ('embed', 'vocab?')), ('head/bias', ('vocab?',)))


class MLP(nn.Module):
    """[…, N] -> […, N] through `width` units: 'up', GELU, 'down'."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Dense(self.width, dtype=self.dtype, name='up')(x)
        return Dense(x.shape[-1], dtype=self.dtype, name='down')(nn.gelu(h, approximate=False))


class Block(nn.Module):
    """x + token_mlp(token_norm(x)), whose product is over patches, then x + channel_mlp(channel_norm(x)); [B, T, D]."""

    token_width: int
    channel_width: int
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = lambda name: LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)
        y = MLP(self.token_width, self.dtype, name='token_mlp')(norm('token_norm')(x).swapaxes(1, 2)).swapaxes(1, 2)
        x = x + drop_path(y, self.drop_rate, train)
        return x + drop_path(MLP(self.channel_width, self.dtype, name='channel_mlp')(norm('channel_norm')(x)), self.drop_rate,
                             train)


class Mixer(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'patch_embed', 'block_0', …, 'final_norm', mean over patches, 'head'.

    Attributes:
      num_classes: K.
      image_size: H and W, which the mixing of patches fixes.
      patch: P, which divides them.
      width, num_layers: D, and how many blocks.
      token_width, channel_width: the hidden layers of the two mixings.
      drop_path: the share of examples for which a residual branch of the last block is left out, in earlier ones linearly
        less (stochastic depth).
      dtype: of the computation; parameters stay float32.

    Raises:
      UserError: an image of another size ('model/image-size'), or a patch that does not divide it ('model/not-divisible').
    """

    num_classes: int = 1000
    image_size: int = 224
    patch: int = 16
    width: int = 768
    num_layers: int = 12
    token_width: int = 384
    channel_width: int = 3072
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_BxHxWxC: jax.Array, *, train: bool) -> jax.Array:
        size = image_BxHxWxC.shape[1:3]
        if size != (self.image_size, self.image_size):
            raise UserError(f'Mixer: got an image of {size[0]} x {size[1]}, expected {self.image_size} x {self.image_size}: '
                            f'its matrices have a row per patch; fix: --config.model.image_size={size[0]}',
                            code='model/image-size')
        x = patches(image_BxHxWxC, self.patch, 'Mixer').astype(self.dtype)
        x = Dense(self.width, dtype=self.dtype, name='patch_embed')(x)
        for i, rate in enumerate(drop_rates(self.drop_path, self.num_layers)):
            x = Block(self.token_width, self.channel_width, rate, self.dtype, name=f'block_{i}')(x, train=train)
        x = LayerNorm(epsilon=1e-6, dtype=self.dtype, name='final_norm')(x).mean(axis=1)
        return Dense(self.num_classes, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name='head')(x)

    def cost_hints(self, image_BxHxWxC) -> CostHints:
        """The sizes that plans need."""
        return CostHints((self.image_size // self.patch) ** 2, self.num_layers, self.width, 1, 1)
