"""The networks of diffusion and flow matching: a U-Net (Ho, Jain & Abbeel 2020) and a Transformer, DiT (Peebles & Xie 2023).

Both map a noisy image and its time, and a class where there are classes, to an array of the image's shape; what that array
means is the task's choice (`bigjax.tasks.diffusion`). Both begin at zero output.

Glossary: B batch · H, W height and width · C channels · F features · D width of a Transformer · K classes · P side of a patch.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.attention_layer import Attention
from bigjax.nn.conv import Conv
from bigjax.nn.cost_hints import CostHints
from bigjax.nn.dense import Dense
from bigjax.nn.norm import LayerNorm
from bigjax.nn.posemb import LONGEST_WAVE, sincos2d
from bigjax.nn.transformer import FeedForward
from bigjax.nn.transformer import partition_rules as block_rules
from bigjax.nn.transformer_spec import NOTHING, Spec
from bigjax.sharding import logical

VARIANTS = {
    # Ho et al. 2020, appendix B: CIFAR-10, 35,746,307 parameters.
    'ddpm_cifar10': {'width': 128, 'multipliers': (1, 2, 2, 2), 'blocks': 2, 'attention': (16,), 'dropout': 0.1},
    # Peebles & Xie 2023, table 1, latents of 32 x 32 x 4 in patches of 2.
    'dit_s2': {'patch': 2, 'width': 384, 'num_layers': 12, 'num_heads': 6},
    'dit_b2': {'patch': 2, 'width': 768, 'num_layers': 12, 'num_heads': 12},
    'dit_l2': {'patch': 2, 'width': 1024, 'num_layers': 24, 'num_heads': 16},
    'dit_xl2': {'patch': 2, 'width': 1152, 'num_layers': 28, 'num_heads': 16},
}
PARTITION_RULES = (  # of a DiT; a U-Net has none
    (r'block_\d+/modulation/kernel', ('embed', None)), (r'block_\d+/modulation/bias', (None,)), *block_rules(),
    ('patch_embed/kernel', (None, 'mlp')), ('patch_embed/bias', ('mlp',)), ('time_0/kernel', (None, 'mlp')),
    ('time_0/bias', ('mlp',)), ('time_1/kernel', ('mlp', 'embed')), ('time_1/bias', ('embed',)),
    ('label_embed/embedding', (None, 'embed')), ('(head|modulation)/kernel', ('embed', None)),
    ('(head|modulation)/bias', (None,)))
TIME_FEATURES = 256  # sines and cosines of a time in DiT
glorot = nn.initializers.glorot_uniform()
zeros = nn.initializers.zeros_init()


def time_embedding(time_B: jax.Array, features: int) -> jax.Array:
    """[B, features] sines, then cosines, of times that run from 0 to 1,000, features even (Ho et al. 2020, their code)."""
    half = features // 2
    angle = time_B.astype(jnp.float32)[:, None] * LONGEST_WAVE ** (-jnp.arange(half) / max(half - 1, 1))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def patches(image_BxHxWxC: jax.Array, side: int) -> jax.Array:
    """[B, H/P, W/P, P P C]: the pixels of each patch are the channels of one place."""
    B, H, W, C = image_BxHxWxC.shape
    x = image_BxHxWxC.reshape(B, H // side, side, W // side, side, C).swapaxes(2, 3)
    return x.reshape(B, H // side, W // side, side * side * C)


def unpatched(x_BxhxwxF: jax.Array, side: int) -> jax.Array:
    """The images [B, P h, P w, F / P²] of `patches`."""
    B, h, w, F = x_BxhxwxF.shape
    return x_BxhxwxF.reshape(B, h, w, side, side, -1).swapaxes(2, 3).reshape(B, h * side, w * side, F // side ** 2)


def _divided(image, by: int, why: str) -> None:
    if image.shape[1] % by or image.shape[2] % by:
        raise UserError(f'config.model: got images of {image.shape[1]} x {image.shape[2]}, expected multiples of {by}, {why}; '
                        'fix: choose another config.image_size or fewer levels', code='model/not-divisible')


def _group_norm(groups: int, dtype, name: str) -> nn.Module:
    return nn.GroupNorm(num_groups=groups, epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


def _condition(module, time, label, features: int, width: int):
    """[B, width] of the time and the class in the compact scope of `module`: 'time_0', 'time_1', 'label_embed'."""
    dense = lambda name: Dense(width, kernel_init=nn.initializers.normal(0.02), dtype=module.dtype, name=name)
    y = dense('time_1')(nn.silu(dense('time_0')(time_embedding(time, features).astype(module.dtype))))
    if not module.num_classes:
        return y
    table = nn.Embed(module.num_classes + 1, width, embedding_init=nn.initializers.normal(0.02), dtype=module.dtype,
                     name='label_embed')
    return y + table(jnp.full(time.shape, module.num_classes, jnp.int32) if label is None else label)


class ResBlock(nn.Module):
    """[B, H, W, C] -> [B, H, W, F] under a condition [B, E]: 'norm_0', 'conv_0', 'condition', 'norm_1', 'conv_1' and, where the
    width changes, 'shortcut'."""

    features: int
    groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, condition_BxE: jax.Array, train: bool) -> jax.Array:
        conv = lambda name, init: Conv(self.features, (3, 3), kernel_init=init, dtype=self.dtype, name=name)
        h = conv('conv_0', glorot)(nn.silu(_group_norm(self.groups, self.dtype, 'norm_0')(x)))
        h = h + Dense(self.features, kernel_init=glorot, dtype=self.dtype, name='condition')(condition_BxE)[:, None, None]
        h = nn.silu(_group_norm(self.groups, self.dtype, 'norm_1')(h))
        h = conv('conv_1', zeros)(nn.Dropout(self.dropout, deterministic=not train)(h))
        if x.shape[-1] != self.features:
            x = Dense(self.features, kernel_init=glorot, dtype=self.dtype, name='shortcut')(x)
        return x + h


class SelfAttention(nn.Module):
    """[B, H, W, C] -> the same: 'norm' and 'attn' over all places of an image, added to it."""

    heads: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        B, H, W, C = x.shape
        spec = Spec(self.heads, causal=False, init=glorot, out_init=zeros, dtype=self.dtype)
        h = _group_norm(self.groups, self.dtype, 'norm')(x).reshape(B, H * W, C)
        return x + Attention(spec, name='attn')(h, NOTHING, train=train)[0].reshape(x.shape)


class UNet(nn.Module):
    """Noisy images [B, H, W, C], times [B] and classes [B] -> [B, H, W, C], float32.

    'conv_in'; levels 'down_L_I' with 'down_L_pool' between them; 'middle_0', 'middle_attn', 'middle_1'; 'up_L_I' with
    'up_L_grow', each block with the output of one on the way down as well; 'norm_out', 'conv_out'. Blocks at a resolution of
    `attention` are followed by '…_attn'.

    Attributes:
      width: features of the first level.
      multipliers: of the width, one per level; a level has half the side of the one before.
      blocks: residual blocks per level on the way down; there is one more on the way up.
      attention: sides of the feature maps that attend to themselves, as are those in the middle always.
      heads: of attention.
      groups: of each group normalisation, which divide every width.
      dropout: inside the residual blocks.
      patch: side of the square of pixels that is one place of the first level; 1 for each pixel.
      num_classes: K, 0 without classes; class K is no class.
      dtype: of the computation; parameters stay float32.

    Raises:
      UserError: levels or patches that do not divide the image, or groups the widths.
    """

    width: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention: Sequence[int] = (16,)
    heads: int = 1
    groups: int = 32
    dropout: float = 0.0
    patch: int = 1
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_BxHxWxC: jax.Array, time_B: jax.Array, label_B: jax.Array | None = None, *,
                 train: bool) -> jax.Array:
        self._check(image_BxHxWxC)
        channels, last = image_BxHxWxC.shape[-1], len(self.multipliers) - 1
        condition = nn.silu(_condition(self, time_B, label_B, self.width, 4 * self.width))

        def block(x, name, multiplier, attends):
            x = ResBlock(multiplier * self.width, self.groups, self.dropout, self.dtype, name=name)(x, condition, train)
            return SelfAttention(self.heads, self.groups, self.dtype, name=f'{name}_attn')(x, train) if attends else x

        conv = lambda features, name, stride=1, init=glorot: Conv(features, (3, 3), stride, kernel_init=init, dtype=self.dtype,
                                                                  name=name)
        x = conv(self.width, 'conv_in')(patches(image_BxHxWxC, self.patch).astype(self.dtype))
        kept = [x]
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                x = block(x, f'down_{level}_{i}', multiplier, x.shape[1] in self.attention)
                kept.append(x)
            if level < last:
                x = conv(multiplier * self.width, f'down_{level}_pool', 2)(x)
                kept.append(x)
        x = block(x, 'middle_0', self.multipliers[-1], False)
        x = SelfAttention(self.heads, self.groups, self.dtype, name='middle_attn')(x, train)
        x = block(x, 'middle_1', self.multipliers[-1], False)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks + 1):
                x = block(jnp.concatenate([x, kept.pop()], axis=-1), f'up_{level}_{i}', multiplier,
                          x.shape[1] in self.attention)
            if level > 0:
                x = conv(multiplier * self.width, f'up_{level}_grow')(x.repeat(2, axis=1).repeat(2, axis=2))
        x = nn.silu(_group_norm(self.groups, self.dtype, 'norm_out')(x))
        x = conv(self.patch ** 2 * channels, 'conv_out', init=zeros)(x)
        return unpatched(x, self.patch).astype(jnp.float32)

    def _check(self, image):
        halvings = len(self.multipliers) - 1
        _divided(image, self.patch * 2 ** halvings, f'a patch of {self.patch} halved {halvings} times')
        if wrong := next((m for m in self.multipliers if m * self.width % self.groups), None):
            raise UserError(f'config.model.groups: got {self.groups}, expected a divisor of the width of each level, '
                            f'{wrong * self.width} among them; fix: choose one', code='model/not-divisible')


class DiTBlock(nn.Module):
    """[B, T, D] -> the same under a condition [B, D]: 'attn', 'mlp', and 'modulation', which gives each of the two a shift, a
    scale and a gate that is zero at first (Peebles & Xie 2023, adaLN-Zero)."""

    spec: Spec

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array, condition_BxD: jax.Array, train: bool) -> jax.Array:
        s, D = self.spec, x_BxTxD.shape[-1]
        changes = Dense(6 * D, kernel_init=zeros, dtype=s.dtype, name='modulation')(condition_BxD)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = jnp.split(changes[:, None], 6, axis=-1)
        h = modulated(x_BxTxD, shift, scale, s.dtype)
        x = x_BxTxD + gate * Attention(s, name='attn')(h, NOTHING, train=train)[0]
        x = logical.constrain(x, 'batch', 'seq', 'embed')
        x = x + gate_mlp * FeedForward(s, name='mlp')(modulated(x, shift_mlp, scale_mlp, s.dtype), train=train)
        return logical.constrain(x, 'batch', 'seq', 'embed')


def modulated(x: jax.Array, shift: jax.Array, scale: jax.Array, dtype) -> jax.Array:
    """x normalised over its last axis, times 1 + scale, plus shift."""
    return LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype, parent=None).apply({}, x) * (1 + scale) + shift


class DiT(nn.Module):
    """Noisy images [B, H, W, C], times [B] and classes [B] -> [B, H, W, C], float32.

    'patch_embed', 'time_0', 'time_1', 'label_embed', 'block_0', …, 'modulation', 'head'; positions are sines and cosines.

    Attributes:
      patch: P, which divides H and W.
      width, num_layers, num_heads: of the blocks; the hidden layer is 4 D.
      num_classes: K, 0 without classes; class K is no class.
      dropout: of what the attention and the hidden layers compute inside.
      dtype: of the computation; parameters stay float32.

    Raises:
      UserError: an image that patches do not tile.
    """

    patch: int = 2
    width: int = 384
    num_layers: int = 12
    num_heads: int = 6
    num_classes: int = 0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_BxHxWxC: jax.Array, time_B: jax.Array, label_B: jax.Array | None = None, *,
                 train: bool) -> jax.Array:
        _divided(image_BxHxWxC, self.patch, 'the patch')
        channels, D = image_BxHxWxC.shape[-1], self.width
        x = patches(image_BxHxWxC, self.patch).astype(self.dtype)
        B, h, w, _ = x.shape
        x = Dense(D, kernel_init=glorot, dtype=self.dtype, name='patch_embed')(x.reshape(B, h * w, -1))
        x = x + sincos2d(h, w, D)[None].astype(self.dtype)
        x = logical.constrain(x, 'batch', 'seq', 'embed')
        condition = nn.silu(_condition(self, time_B, label_B, TIME_FEATURES, D))
        spec = Spec(self.num_heads, hidden='gelu_tanh', causal=False, epsilon=1e-6, dropout=self.dropout,
                    hidden_dropout=self.dropout, init=glorot, out_init=glorot, dtype=self.dtype)
        for i in range(self.num_layers):
            x = DiTBlock(spec, name=f'block_{i}')(x, condition, train)
        changes = Dense(2 * D, kernel_init=zeros, dtype=self.dtype, name='modulation')(condition)
        shift, scale = jnp.split(changes[:, None], 2, axis=-1)
        x = Dense(self.patch ** 2 * channels, kernel_init=zeros, dtype=self.dtype,
                  name='head')(modulated(x, shift, scale, self.dtype))
        return unpatched(x.reshape(B, h, w, -1), self.patch).astype(jnp.float32)

    def cost_hints(self, image_BxHxWxC, *_) -> CostHints:
        """The sizes that plans need."""
        _, H, W, _ = image_BxHxWxC.shape
        return CostHints((H // self.patch) * (W // self.patch), self.num_layers, self.width, self.num_heads, self.num_heads)



def partition_rules(model: nn.Module) -> tuple:
    """The rules of one of the two networks."""
    return PARTITION_RULES if isinstance(model, DiT) else ()
