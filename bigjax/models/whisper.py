"""Whisper: an encoder of log-mel features and a decoder of text (Radford et al. 2022).

Glossary: B batch · N frames of 10 ms · M mel bands · S = N / 2 positions of the encoder · T tokens · W width · V vocabulary.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError
from bigjax.nn import kv_cache, masks
from bigjax.nn.attention_layer import cross_layer
from bigjax.nn.conv import Conv
from bigjax.nn.kv_cache import KVCache, Layer
from bigjax.nn.posemb import LONGEST_WAVE
from bigjax.nn.transformer import cached_stack, make_norm, partition_rules, stack
from bigjax.nn.transformer_spec import BlockInputs, Spec

ENGLISH, MULTILINGUAL = 51_864, 51_865
_SIZES = {'tiny': (4, 384, 6), 'base': (6, 512, 8), 'small': (12, 768, 12), 'medium': (24, 1024, 16), 'large': (32, 1280, 20)}
VARIANTS = {  # table 1; the models of English alone have one token fewer
    **{name: {'num_layers': layers, 'width': width, 'num_heads': heads, 'vocab_size': MULTILINGUAL}
       for name, (layers, width, heads) in _SIZES.items()},
    **{f'{name}.en': {'num_layers': layers, 'width': width, 'num_heads': heads, 'vocab_size': ENGLISH}
       for name, (layers, width, heads) in list(_SIZES.items())[:4]}}
PARTITION_RULES = (
    ('decoder/token_embed/embedding', ('vocab?', 'embed')), ('decoder/pos_embed/embedding', (None, 'embed')),
    (r'encoder/conv_\d/kernel', (None, None, 'embed')), (r'encoder/conv_\d/bias', ('embed',)),
    ('(encoder|decoder)/final_norm/(scale|bias)', ('embed',)),
    *partition_rules('encoder/'), *partition_rules('decoder/'))


def sinusoids(length: int, width: int) -> np.ndarray:
    """[length, width] positions: sines, then cosines, of frequencies from 1 to 1 / LONGEST_WAVE (as the published code)."""
    half = width // 2
    frequency = LONGEST_WAVE ** (-np.arange(half) / max(half - 1, 1))
    angle = np.arange(length)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


class Encoder(nn.Module):
    """[B, N, M] -> [B, N / 2, W]: 'conv_0', 'conv_1' of stride 2, 'block_0', …, 'final_norm'."""

    num_layers: int
    width: int
    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        dtype = self.spec.dtype
        for i in range(2):
            conv = Conv(self.width, (3,), strides=1 + i, padding=1, dtype=dtype, name=f'conv_{i}')
            x = nn.gelu(conv(x.astype(dtype)), approximate=False)
        x = x + jnp.asarray(sinusoids(x.shape[1], self.width), dtype)
        x = stack(self, self.spec._replace(causal=False), self.num_layers, x, train=train)
        return make_norm(self.spec, 'final_norm')(x)


class Decoder(nn.Module):
    """Tokens [B, T] and the memory [B, S, W] -> logits [B, T, V]: 'token_embed', whose transpose is the head, 'pos_embed',
    'block_0', …, 'final_norm'."""

    num_layers: int
    width: int
    vocab_size: int
    block_size: int
    spec: Spec

    @nn.compact
    def __call__(self, tokens: jax.Array, memory: jax.Array | None = None, cache: KVCache | None = None, *, mask=None,
                 train: bool = False):
        spec, T = self.spec._replace(cross=True), tokens.shape[1]
        if cache is None:
            inputs, places = BlockInputs(masks.visible(T, mask), memory=memory), masks.positions(mask)
        else:
            index = cache.index
            cache, places = kv_cache.advance(cache, mask, None, T)
            inputs = BlockInputs(masks.visible_slots(cache.mask, index, T))
        embed = lambda size, name: nn.Embed(size, self.width, embedding_init=spec.init, dtype=spec.dtype, name=name)
        token_embed = embed(self.vocab_size, 'token_embed')
        x = token_embed(tokens) + embed(self.block_size, 'pos_embed')(jnp.arange(T) if places is None else places)
        if cache is None:
            x = stack(self, spec, self.num_layers, x, inputs, train=train)
        else:
            x, cache = cached_stack(self, spec, self.num_layers, x, inputs, cache, index)
        logits = token_embed.attend(make_norm(spec, 'final_norm')(x))
        return logits if cache is None else (logits, cache)

    def cross(self, memory: jax.Array) -> tuple[Layer, ...]:
        """The keys and values of the memory in each block, which do not change from token to token."""
        blocks = [self.variables['params'][f'block_{i}'] for i in range(self.num_layers)]
        return tuple(cross_layer(self.spec, block['cross'], memory, memory.dtype) for block in blocks)


class Whisper(nn.Module):
    """Log-mel features [B, N, M] and tokens [B, T] -> logits [B, T, V] of the next: 'encoder', 'decoder'.

    Attributes:
      num_layers, width, num_heads: of the blocks of the encoder, and of the decoder; heads divide width.
      vocab_size: V.
      block_size: tokens of a window at most.
      dropout: on attention probabilities and on what blocks write to the residual.
      dtype: of the computation; parameters and normalisation statistics stay float32.

    Raises:
      UserError: more tokens, or slots of a cache, than block_size; 'model/too-long'.
    """

    num_layers: int = 4
    width: int = 384
    num_heads: int = 6
    vocab_size: int = MULTILINGUAL
    block_size: int = 448
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        spec = Spec(self.num_heads, hidden='gelu', key_bias=False, dropout=self.dropout, dtype=self.dtype)
        self.encoder = Encoder(self.num_layers, self.width, spec)
        self.decoder = Decoder(self.num_layers, self.width, self.vocab_size, self.block_size, spec)

    def __call__(self, source: jax.Array, target: jax.Array, *, mask=None, train: bool = False) -> jax.Array:
        """`mask` bool [B, T], true where a token counts."""
        self._check(target.shape[1])
        return self.decoder(target, self.encoder(source, train=train), mask=mask, train=train)

    def encode(self, source: jax.Array, *, train: bool = False) -> jax.Array:
        """The memory [B, S, W] of a window."""
        return self.encoder(source, train=train)

    def start(self, source: jax.Array, length: int = 0, *, train: bool = False) -> KVCache:
        """A cache without a token for at most `length` of them (0: block_size), with the keys and values of the memory."""
        length = length or self.block_size
        self._check(length)
        memory = self.encoder(source, train=train)
        cache = kv_cache.empty(len(source), length, self.num_layers, self.num_heads,
                               self.width // self.num_heads, self.dtype)
        return cache._replace(cross=self.decoder.cross(memory))

    def decode(self, tokens: jax.Array, cache: KVCache, *, train: bool = False) -> tuple[jax.Array, KVCache]:
        """(logits [B, T, V] of the tokens after those of the cache, the cache with them)."""
        return self.decoder(tokens, cache=cache, train=train)

    def _check(self, length):
        if self.block_size < length:  # positions past the table would be NaN
            raise UserError(f'Whisper: got {length} tokens, expected at most block_size={self.block_size}; fix: shorten '
                            'the text', code='model/too-long')
