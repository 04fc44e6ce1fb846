"""Conformer: convolution and attention together, for speech (Gulati et al. 2020).

Positions are rotary in the place of Transformer-XL's, and the convolution module is normalised per frame in the place of per
batch, so that neither padding nor the other examples of a batch change an example's output.

Glossary: B batch · T frames · T' = ceil(T / 4) · M mel bands · C channels · W width · K classes.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn import masks
from bigjax.nn.attention_layer import Attention
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import LayerNorm
from bigjax.nn.posemb import Rope
from bigjax.nn.transformer_spec import BlockInputs, Spec
from bigjax.sharding import logical

STRIDE = 4
VARIANTS = {
    # Gulati et al. 2020, table 1: the encoders of Conformer S, M and L.
    's': {'num_layers': 16, 'width': 144, 'num_heads': 4, 'kernel': 32},
    'm': {'num_layers': 16, 'width': 256, 'num_heads': 4, 'kernel': 32},
    'l': {'num_layers': 17, 'width': 512, 'num_heads': 8, 'kernel': 32},
    # For digits: 4.5 s of speech in a few minutes of a CPU.
    'digits': {'num_layers': 2, 'width': 64, 'num_heads': 4, 'kernel': 15, 'subsample_width': 16},
}
PARTITION_RULES = (  # 'mlp' are the channels inside a module; those between modules are whole
    ('subsample/conv_0/kernel', (None, None, None, 'mlp?')), ('subsample/conv_0/bias', ('mlp?',)),
    ('subsample/conv_1/kernel', (None, None, 'mlp?', None)), ('subsample/conv_1/bias', (None,)),
    ('subsample/out/kernel', ('mlp?', 'embed')), ('subsample/out/bias', ('embed',)),
    (r'block_\d+/mlp_[01]/up/kernel', ('embed', 'mlp')), (r'block_\d+/mlp_[01]/up/bias', ('mlp',)),
    (r'block_\d+/mlp_[01]/down/kernel', ('mlp', 'embed')),
    (r'block_\d+/attn/(query|key|value)/kernel', ('embed', 'heads')), (r'block_\d+/attn/(query|key|value)/bias', ('heads',)),
    (r'block_\d+/attn/out/kernel', ('heads', 'embed')),
    (r'block_\d+/conv/up/kernel', ('embed', 'mlp')), (r'block_\d+/conv/up/bias', ('mlp',)),
    (r'block_\d+/conv/depthwise/kernel', (None, None, 'mlp')),
    (r'block_\d+/conv/(depthwise|inner_norm)/(scale|bias)', ('mlp',)),
    (r'block_\d+/conv/down/kernel', ('mlp', 'embed')),
    (r'block_\d+/.*/(scale|bias)', ('embed',)), ('head/kernel', ('embed', 'vocab?')), ('head/bias', ('vocab?',)))


def _kept(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x with zeros in frames that do not count, so that no convolution brings padding into those that do."""
    return x if mask is None else jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, 0)


class Subsample(nn.Module):
    """[B, T, M] -> [B, T', width] and the mask of T': 'conv_0', 'conv_1' of stride 2 in both axes, 'out'."""

    width: int
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        y = _kept(x, mask)[..., None].astype(self.dtype)
        for i in range(2):
            y = nn.relu(Conv(self.channels, (3, 3), strides=2, padding=1, dtype=self.dtype, name=f'conv_{i}')(y))
            mask = None if mask is None else mask[:, ::2]
            y = _kept(y, mask)
        return Dense(self.width, dtype=self.dtype, name='out')(y.reshape(*y.shape[:2], -1)), mask


class HalfStep(nn.Module):
    """The feed-forward module: 'norm', 'up' to four times the width, swish, 'down'."""

    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        h = Dense(4 * x.shape[-1], dtype=self.dtype, name='up')(LayerNorm(dtype=self.dtype, name='norm')(x))
        h = logical.constrain(nn.silu(h), 'batch', 'seq', 'mlp')
        return drop(Dense(x.shape[-1], dtype=self.dtype, name='down')(drop(h)))


class Convolution(nn.Module):
    """The convolution module: 'norm', 'up' with a gate, 'depthwise' over time, 'inner_norm', swish, 'down'."""

    kernel: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        W = x.shape[-1]
        h, gate = jnp.split(Dense(2 * W, dtype=self.dtype, name='up')(LayerNorm(dtype=self.dtype, name='norm')(x)), 2, axis=-1)
        h = logical.constrain(_kept(h * nn.sigmoid(gate), mask), 'batch', 'seq', 'mlp')
        sides = ((self.kernel - 1) // 2, self.kernel // 2)
        h = Conv(W, (self.kernel,), padding=(sides,), feature_group_count=W, dtype=self.dtype, name='depthwise')(h)
        h = nn.silu(LayerNorm(dtype=self.dtype, name='inner_norm')(h))
        return nn.Dropout(self.dropout, deterministic=not train)(Dense(W, dtype=self.dtype, name='down')(h))


class Block(nn.Module):
    """x + half of 'mlp_0', + 'attn' of 'attn_norm', + 'conv', + half of 'mlp_1', then 'final_norm' (section 2.4, eq. 1)."""

    spec: Spec
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        s = self.spec
        norm = lambda name: LayerNorm(dtype=s.dtype, name=name)
        x = x + 0.5 * HalfStep(s.dropout, s.dtype, name='mlp_0')(x, train=train)
        y, _ = Attention(s, name='attn')(norm('attn_norm')(x), BlockInputs(masks.visible(x.shape[1], mask)), train=train)
        x = x + nn.Dropout(s.dropout, deterministic=not train)(y)
        x = x + Convolution(self.kernel, s.dropout, s.dtype, name='conv')(x, mask, train=train)
        x = norm('final_norm')(x + 0.5 * HalfStep(s.dropout, s.dtype, name='mlp_1')(x, train=train))
        return logical.constrain(x, 'batch', 'seq', 'embed')


class Conformer(nn.Module):
    """Log-mel features [B, T, M] -> logits [B, T', K]: 'subsample', 'block_0', …, 'head'.

    Attributes:
      num_layers, width, num_heads: of the blocks; heads divide width.
      kernel: frames that the convolution module sees.
      subsample_width: channels of the two convolutions that subsample; 0 for `width`.
      num_classes: K.
      dropout: on what each module writes to the residual.
      dtype: of the computation; parameters and normalisation statistics stay float32.
    """

    num_layers: int = 16
    width: int = 144
    num_heads: int = 4
    kernel: int = 32
    subsample_width: int = 0
    num_classes: int = 29
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """`mask` bool [B, T], true in front for the frames that count."""
        x, mask = Subsample(self.width, self.subsample_width or self.width, self.dtype, name='subsample')(x, mask)
        spec = Spec(self.num_heads, causal=False, rope=Rope(), dropout=self.dropout, dtype=self.dtype,
                    init=nn.initializers.lecun_normal(), out_init=nn.initializers.lecun_normal())
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(self.num_layers):
            x = Block(spec, self.kernel, name=f'block_{i}')(x, mask, train=train)
        return Dense(self.num_classes, dtype=self.dtype, name='head')(x)
