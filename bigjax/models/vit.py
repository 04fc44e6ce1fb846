"""Vision Transformers (Dosovitskiy et al. 2021), in the plain form of Beyer, Zhai & Kolesnikov 2022 by default.

Glossary: B batch · H, W height and width · C channels · P side of a patch · T patches · D width · K classes.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.attention_layer import Attention
from bigjax.nn.cost_hints import CostHints
from bigjax.nn.dense import Dense
from bigjax.nn.patches import patches
from bigjax.nn.posemb import sincos2d
from bigjax.nn.transformer import FeedForward, partition_rules, stack
from bigjax.nn.transformer_spec import BlockInputs, Spec, make_norm
from bigjax.sharding import logical

# Steiner et al. 2021, table 2. With 1,000 classes and pre_logits S/16 has 22,122,472 parameters; with learned positions and
# a class token instead, Ti/16, S/16, B/16 and L/16 have 5,717,416, 22,050,664, 86,567,656 and 304,326,632.
VARIANTS = {
    'ti16': {'width': 192, 'num_layers': 12, 'num_heads': 3},
    's16': {'width': 384, 'num_layers': 12, 'num_heads': 6},
    'b16': {'width': 768, 'num_layers': 12, 'num_heads': 12},
    'l16': {'width': 1024, 'num_layers': 24, 'num_heads': 16},
}
PARTITION_RULES = (
    ('patch_embed/kernel', (None, 'mlp')), ('patch_embed/bias', ('mlp',)), ('pos_embed', (None, None, 'embed')),
    ('class_token|registers|pool/probe', (None, None, 'embed')), ('final_norm/(scale|bias)', ('embed',)),
    ('pool/attn/(query|key|value)/kernel', ('embed', 'heads')), ('pool/attn/(query|key|value)/bias', ('heads',)),
    ('pool/attn/out/kernel', ('heads', 'embed')), ('pool/mlp/up/kernel', ('embed', 'mlp')), ('pool/mlp/up/bias', ('mlp',)),
    ('pool/mlp/down/kernel', ('mlp', 'embed')), ('pool/.*/(scale|bias)', ('embed',)),
    ('pre_logits/kernel', ('embed', 'mlp')), ('pre_logits/bias', ('mlp',)),
    ('head/kernel', ('embed', 'vocab?')), ('head/bias', ('vocab?',)), *partition_rules())
POOLS = ('mean', 'token', 'attention')
POSITIONS = ('sincos2d', 'learned')


class AttentionPool(nn.Module):
    """Tokens [B, T, D] -> [B, D]: a learned 'probe' attends to them, and a residual 'mlp' follows (Zhai et al. 2022)."""

    spec: Spec

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array, *, train: bool) -> jax.Array:
        B, _, D = x_BxTxD.shape
        probe = self.param('probe', nn.initializers.xavier_uniform(), (1, 1, D), jnp.float32).astype(x_BxTxD.dtype)
        y, _ = Attention(self.spec, cross=True, name='attn')(jnp.broadcast_to(probe, (B, 1, D)), BlockInputs(memory=x_BxTxD),
                                                             train=train)
        y = y + FeedForward(self.spec, name='mlp')(make_norm(self.spec, 'mlp_norm')(y), train=train)
        return y[:, 0]


class ViT(nn.Module):
    """Images [B, H, W, C] -> logits [B, K]: 'patch_embed', 'block_0', …, 'final_norm', 'pre_logits', 'head'.

    Attributes:
      num_classes: K; 0 for no head, and the pooled vector [B, D] as the result.
      patch: P, which divides H and W.
      width, num_layers, num_heads: of the blocks; the hidden layer is 4 D.
      pool: 'mean' over the patches, a class 'token' of its own, or 'attention' of a learned probe to the patches ('pool').
      registers: further tokens, which are not read (Darcet et al. 2024).
      positions: 'sincos2d', which are fixed, or 'learned' ('pos_embed').
      token_positions: learned positions of the class token and the registers, too; False adds them to the patches alone.
      resample_positions: weights with learned positions of another grid of patches are resampled to the grid of the images.
      image_size: the side of the images that weights of another library are laid out for.
      pre_logits: a tanh layer before the head.
      layer_scale: the start of a learned factor of each residual; 0 for none (Touvron et al. 2021).
      drop_path: the probability that the last block is left out in training, rising from 0 in the first.
      dropout: of the blocks.
      scan, remat, microbatches: see `bigjax.nn.transformer.stack`.
      dtype: of the computation; parameters stay float32.

    Raises:
      UserError: an image that patches do not tile, an unknown pool or position embedding, or tokens without positions.
    """

    num_classes: int = 1000
    patch: int = 16
    width: int = 384
    num_layers: int = 12
    num_heads: int = 6
    pool: str = 'mean'
    positions: str = 'sincos2d'
    pre_logits: bool = True
    dropout: float = 0.0
    scan: bool = False
    remat: str = 'none'
    microbatches: int = 0
    dtype: Any = jnp.float32
    registers: int = 0
    token_positions: bool = True
    resample_positions: bool = False
    image_size: int = 224
    layer_scale: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, image_BxHxWxC: jax.Array, *, train: bool) -> jax.Array:
        self._check()
        x = patches(image_BxHxWxC, self.patch, 'ViT').astype(self.dtype)
        x = Dense(self.width, kernel_init=nn.initializers.lecun_normal(), dtype=self.dtype, name='patch_embed')(x)
        x = logical.constrain(x, 'batch', 'seq', 'mlp')  # else each device of 'tensor' would embed all patches whole
        x = self._placed(x, image_BxHxWxC.shape[1] // self.patch, image_BxHxWxC.shape[2] // self.patch)
        x = logical.constrain(x, 'batch', 'seq', 'embed')
        spec = Spec(self.num_heads, hidden='gelu', causal=False, epsilon=1e-6, dropout=self.dropout,
                    layer_scale=self.layer_scale, drop_path=self.drop_path,
                    init=nn.initializers.xavier_uniform(), out_init=nn.initializers.xavier_uniform(),
                    bias_init=nn.initializers.zeros_init(), dtype=self.dtype)
        x = stack(self, spec, self.num_layers, x, train=train, scan=self.scan, remat=self.remat,
                  microbatches=self.microbatches)
        x = make_norm(spec, 'final_norm')(x)
        if self.pool == 'token':
            x = x[:, 0]
        else:
            x = x[:, self.registers:]
            x = x.mean(axis=1) if self.pool == 'mean' else AttentionPool(spec, name='pool')(x, train=train)
        if self.pre_logits:
            x = jnp.tanh(Dense(self.width, dtype=self.dtype, name='pre_logits')(x))
        if not self.num_classes:
            return x
        return Dense(self.num_classes, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name='head')(x)

    @property
    def tokens(self) -> int:
        """The tokens before the patches: the class token and the registers, in this order."""
        return (self.pool == 'token') + self.registers

    def cost_hints(self, image_BxHxWxC) -> CostHints:
        """The sizes that plans need."""
        _, H, W, _ = image_BxHxWxC.shape
        positions = (H // self.patch) * (W // self.patch) + self.tokens
        return CostHints(positions, self.num_layers, self.width, self.num_heads, self.num_heads)

    def _placed(self, x, h: int, w: int):
        """Patches with their positions, after the class token and the registers."""
        with_tokens = self.positions == 'learned' and self.token_positions
        x = self._joined(x) if with_tokens else x
        if self.positions == 'sincos2d':
            x = x + sincos2d(h, w, self.width)[None].astype(self.dtype)
        else:
            init = nn.initializers.normal(self.width ** -0.5)
            x = x + self.param('pos_embed', init, (1, x.shape[1], self.width), jnp.float32).astype(self.dtype)
        return x if with_tokens else self._joined(x)

    def _joined(self, x):
        """The class token and the registers before the patches."""
        before = []
        if self.pool == 'token':
            before.append(self.param('class_token', nn.initializers.zeros_init(), (1, 1, self.width), jnp.float32))
        if self.registers:
            before.append(self.param('registers', nn.initializers.normal(1e-6), (1, self.registers, self.width), jnp.float32))
        repeated = [jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], *token.shape[1:])) for token in before]
        return jnp.concatenate([*repeated, x], axis=1)

    def _check(self):
        if self.pool not in POOLS or self.positions not in POSITIONS:
            raise UserError(f'ViT: got pool={self.pool!r}, positions={self.positions!r}, expected pool among '
                            f'{", ".join(POOLS)} and positions among {", ".join(POSITIONS)}; fix: choose among them',
                            code='model/unknown-option')
        if self.pool == 'token' and self.positions == 'sincos2d':
            raise UserError("ViT: got pool='token' with positions='sincos2d', expected learned positions: a class token has "
                            "no place on a grid; fix: positions='learned'", code='model/unfit-options')
