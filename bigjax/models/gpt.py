"""Decoder-only Transformers: GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023) and their relatives.

Glossary: B batch · T tokens of a window · W width · H heads · V vocabulary.
"""
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn import kv_cache, masks
from bigjax.nn.cost_hints import CostHints
from bigjax.nn.cross_entropy import chunked_cross_entropy
from bigjax.nn.dense import Dense
from bigjax.nn.kv_cache import KVCache
from bigjax.nn.posemb import Rope
from bigjax.nn.transformer import cached_stack, partition_rules, stack
from bigjax.nn.transformer_spec import BlockInputs, Spec, make_norm
from bigjax.sharding import logical

LLAMA = {'norm': 'rmsnorm', 'hidden': 'swiglu', 'rope_base': 10000.0, 'tie_head': False, 'block_size': 4096,
         'vocab_size': 32000}
LLAMA3 = {**LLAMA, 'rope_base': 500000.0, 'block_size': 8192, 'vocab_size': 128256, 'num_kv_heads': 8}
LLAMA31 = {**LLAMA3, 'rope_scaling': 'llama3', 'rope_factor': 8.0, 'block_size': 131072}
LLAMA32 = {**LLAMA31, 'rope_factor': 32.0, 'tie_head': True}
QWEN2 = {**LLAMA, 'rope_base': 1000000.0, 'qkv_bias': True, 'epsilon': 1e-6, 'block_size': 32768, 'vocab_size': 151936}
QWEN3 = {**QWEN2, 'qkv_bias': False, 'qk_norm': True, 'head_width': 128, 'num_kv_heads': 8, 'block_size': 40960}
# Parameters, position embeddings and the tied head's one matrix included.
VARIANTS = {
    # Karpathy's nanoGPT on tiny Shakespeare (65 characters): 804,096 on a CPU (795,904 without the position
    # embeddings, which is what nanoGPT prints) and 10,745,088 on a GPU (10,646,784 without).
    'shakespeare_cpu': {'vocab_size': 65, 'block_size': 64, 'num_layers': 4, 'num_heads': 4, 'width': 128},
    'shakespeare': {'vocab_size': 65, 'block_size': 256, 'num_layers': 6, 'num_heads': 6, 'width': 384,
                    'dropout': 0.2},
    # GPT-2: 124,439,808, 354,823,168, 774,030,080 and 1,557,611,200.
    'gpt2': {'num_layers': 12, 'num_heads': 12, 'width': 768, 'bias': True},
    'gpt2_medium': {'num_layers': 24, 'num_heads': 16, 'width': 1024, 'bias': True},
    'gpt2_large': {'num_layers': 36, 'num_heads': 20, 'width': 1280, 'bias': True},
    'gpt2_xl': {'num_layers': 48, 'num_heads': 25, 'width': 1600, 'bias': True},
    # Llama 2 (Touvron et al. 2023, table 1 and the released configs): 6,738,415,616 and 68,976,648,192.
    'llama2_7b': {**LLAMA, 'num_layers': 32, 'num_heads': 32, 'width': 4096, 'mlp_width': 11008},
    'llama2_70b': {**LLAMA, 'num_layers': 80, 'num_heads': 64, 'num_kv_heads': 8, 'width': 8192, 'mlp_width': 28672},
    # Llama 3, 3.1 and 3.2 (Grattafiori et al. 2024, table 3): 8,030,261,248 (both of 8B), 1,235,814,400 and 3,212,749,824.
    'llama3_8b': {**LLAMA3, 'num_layers': 32, 'num_heads': 32, 'width': 4096, 'mlp_width': 14336},
    'llama31_8b': {**LLAMA31, 'num_layers': 32, 'num_heads': 32, 'width': 4096, 'mlp_width': 14336},
    'llama32_1b': {**LLAMA32, 'num_layers': 16, 'num_heads': 32, 'width': 2048, 'mlp_width': 8192},
    'llama32_3b': {**LLAMA32, 'num_layers': 28, 'num_heads': 24, 'width': 3072, 'mlp_width': 8192},
    # Mistral 7B v0.1 (Jiang et al. 2023, table 1): 7,241,732,096.
    'mistral_7b': {**LLAMA, 'num_layers': 32, 'num_heads': 32, 'num_kv_heads': 8, 'width': 4096, 'mlp_width': 14336,
                   'window': 4096, 'block_size': 32768},
    # Qwen2 (Yang et al. 2024, table 1): 494,032,768, 1,543,714,304 and 7,615,616,512.
    'qwen2_0.5b': {**QWEN2, 'num_layers': 24, 'num_heads': 14, 'num_kv_heads': 2, 'width': 896, 'mlp_width': 4864,
                   'tie_head': True},
    'qwen2_1.5b': {**QWEN2, 'num_layers': 28, 'num_heads': 12, 'num_kv_heads': 2, 'width': 1536, 'mlp_width': 8960,
                   'tie_head': True},
    'qwen2_7b': {**QWEN2, 'num_layers': 28, 'num_heads': 28, 'num_kv_heads': 4, 'width': 3584, 'mlp_width': 18944,
                 'vocab_size': 152064},
    # Qwen3 (Yang et al. 2025, table 1): 596,049,920, 1,720,574,976, 4,022,468,096 and 8,190,735,360.
    'qwen3_0.6b': {**QWEN3, 'num_layers': 28, 'num_heads': 16, 'width': 1024, 'mlp_width': 3072, 'tie_head': True},
    'qwen3_1.7b': {**QWEN3, 'num_layers': 28, 'num_heads': 16, 'width': 2048, 'mlp_width': 6144, 'tie_head': True},
    'qwen3_4b': {**QWEN3, 'num_layers': 36, 'num_heads': 32, 'width': 2560, 'mlp_width': 9728, 'tie_head': True},
    'qwen3_8b': {**QWEN3, 'num_layers': 36, 'num_heads': 32, 'width': 4096, 'mlp_width': 12288},
}
PARTITION_RULES = (
    ('token_embed/embedding', ('vocab?', 'embed')), ('pos_embed/embedding', (None, 'embed')),
    ('head/kernel', ('embed', 'vocab?')), ('final_norm/(scale|bias)', ('embed',)), *partition_rules())
normal = nn.initializers.normal


class GPT(nn.Module):
    """Tokens [B, T] -> logits [B, T, V] of the next: 'token_embed', 'pos_embed', 'block_0', …, 'final_norm', 'head'.

    Given the next tokens too, it returns nats and hits of each instead, and never holds all logits. Given a cache, it returns
    the logits of these tokens after those of the cache, and the cache with them. Initialised as GPT-2: normal of deviation
    0.02, and 0.02 / sqrt(2 num_layers) where a block writes to the residual.

    Attributes:
      vocab_size: V.
      block_size: the longest window.
      num_layers, num_heads, width: of the blocks; heads divide width.
      dropout: on embeddings, attention probabilities and what blocks write.
      bias: in dense layers and norms (GPT-2 has them, nanoGPT's small settings do not).
      tie_head: the head is the token embedding transposed; otherwise a matrix of its own.
      rope_base: rotary positions; 0 for learned ones, 'pos_embed'.
      rope_scaling: of rotary positions for longer windows: 'none', 'linear', 'ntk' or 'llama3', see `bigjax.nn.posemb.Rope`.
      rope_factor, rope_low, rope_high, rope_window: of `rope_scaling`.
      window: a token sees itself and the window - 1 tokens before it (Mistral); 0 for all.
      num_kv_heads, head_width, mlp_width, norm, hidden, epsilon, experts, top_k, capacity, context: see
        `bigjax.nn.transformer_spec.Spec`.
      qkv_bias, qk_norm: see `bigjax.nn.transformer_spec.Spec`.
      scan, remat, microbatches: see `bigjax.nn.transformer.stack`.
      chunk: tokens whose logits are made at once, where targets are given.
      dtype: of the computation; parameters and normalisation statistics stay float32.

    Raises:
      UserError: a window over block_size or past the cache, or heads that do not divide.
    """

    vocab_size: int = 50257
    block_size: int = 1024
    num_layers: int = 12
    num_heads: int = 12
    width: int = 768
    dropout: float = 0.0
    bias: bool = False
    tie_head: bool = True
    rope_base: float = 0.0
    rope_scaling: str = 'none'
    rope_factor: float = 1.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_window: int = 8192
    window: int = 0
    num_kv_heads: int = 0
    head_width: int = 0
    mlp_width: int = 0
    norm: str = 'layernorm'
    hidden: str = 'gelu_tanh'
    qkv_bias: bool = False
    qk_norm: bool = False
    epsilon: float = 1e-5
    experts: int = 0
    top_k: int = 2
    capacity: float = 1.25
    context: str = 'ring'
    scan: bool = False
    remat: str = 'none'
    microbatches: int = 0
    chunk: int = 2048
    dtype: Any = jnp.float32

    @property
    def spec(self) -> Spec:
        """The blocks' options: the fields that both have, rotary positions, and the two initializers."""
        shared = {name: getattr(self, name) for name in Spec._fields if name in self.__dataclass_fields__}
        rope = Rope(self.rope_base, self.rope_scaling, self.rope_factor, self.rope_low, self.rope_high, self.rope_window)
        return Spec(**shared, rope=rope if self.rope_base else None, init=normal(0.02),
                    out_init=normal(0.02 / math.sqrt(2 * self.num_layers)))

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array, targets_BxT: jax.Array | None = None, *, mask: jax.Array | None = None,
                 positions: jax.Array | None = None, segments: jax.Array | None = None, cache: KVCache | None = None,
                 last: bool = False, train: bool = False):
        """Returns logits [B, T, V]; {'nats', 'hits'} [B, T] where targets are given; (logits, cache) where a cache is.

        Args:
          targets_BxT: the token after each.
          mask: bool [B, T], true where a token counts; None for all.
          positions: int [B, T]; None for each token's number among those of its row, and segment, that count.
          segments: int [B, T], the documents of a packed row; a token sees those of its own.
          cache: what `init_cache` or the last call returned.
          last: logits [B, 1, V] of the last token alone.
        """
        B, T = tokens_BxT.shape
        self._check(T)
        if cache is None:
            inputs = BlockInputs(masks.visible(T, mask, segments, self.window),
                                 masks.positions(mask, segments) if positions is None else positions)
        else:
            if segments is not None or targets_BxT is not None:  # both would be left out without a word
                raise UserError('GPT: got a cache with segments or targets, expected tokens, mask and positions alone; fix: '
                                'one document per row, and no targets', code='model/unfit-options')
            index = cache.index
            cache, places = kv_cache.advance(cache, mask, positions, T)
            inputs = BlockInputs(masks.visible_slots(cache.mask, index, T, self.window), places)
        token_embed = nn.Embed(self.vocab_size, self.width, embedding_init=normal(0.02), dtype=self.dtype,
                               name='token_embed')
        x = token_embed(tokens_BxT)
        if not self.rope_base:
            x = x + nn.Embed(self.block_size, self.width, embedding_init=normal(0.02), dtype=self.dtype,
                             name='pos_embed')(jnp.arange(T) if inputs.positions is None else inputs.positions)
            inputs = inputs._replace(positions=None)
        x = logical.constrain(nn.Dropout(self.dropout, deterministic=not train)(x), 'batch', 'seq', 'embed')
        if cache is None:
            x = stack(self, self.spec, self.num_layers, x, inputs, train=train, scan=self.scan, remat=self.remat,
                      microbatches=self.microbatches)
        else:
            x, cache = cached_stack(self, self.spec, self.num_layers, x, inputs, cache, index, scan=self.scan)
        if last:
            x, T = x[:, -1:], 1
        x = make_norm(self.spec, 'final_norm')(x)
        head = Dense(self.vocab_size, use_bias=False, kernel_init=normal(0.02), dtype=self.dtype, name='head')
        if targets_BxT is None:  # two-dimensional, for the reason given in bigjax.nn.dense
            rows = x if logical.axis_size('seq') > 1 else x.reshape(B * T, -1)
            logits = token_embed.attend(rows).reshape(B, T, -1) if self.tie_head else head(x)
            logits = logical.constrain(logits, 'batch', 'seq', 'vocab?')
            return logits if cache is None else (logits, cache)
        if not self.tie_head and self.is_initializing():
            head(x)
        kernel = token_embed.embedding.T if self.tie_head else self.variables['params']['head']['kernel']
        nats, hits = chunked_cross_entropy(x, kernel.astype(self.dtype), targets_BxT, self.chunk)
        return {'nats': nats, 'hits': hits}

    def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KVCache:
        """An empty cache of `length` slots for each of `batch` rows.

        Raises:
          UserError: more slots than block_size; 'model/too-long'.
        """
        self._check(length)
        return kv_cache.empty(batch, length, self.num_layers, self.num_kv_heads or self.num_heads,
                              self.head_width or self.width // self.num_heads, dtype)

    def cost_hints(self, tokens_BxT) -> CostHints:
        """The sizes that plans and throughput need."""
        return CostHints(tokens_BxT.shape[1], self.num_layers, self.width, self.num_heads, self.num_kv_heads or self.num_heads,
                         self.top_k if self.experts else 0, self.vocab_size)

    def _check(self, length):
        if self.block_size < length:
            raise UserError(f'GPT: got {length} tokens, expected at most block_size={self.block_size}; fix: shorten the window',
                            code='model/too-long')
        if self.width % self.num_heads and not self.head_width:
            raise UserError(f'GPT: got num_heads={self.num_heads}, expected a divisor of width={self.width}; fix: choose one',
                            code='model/not-divisible')
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            raise UserError(f'GPT: got num_kv_heads={self.num_kv_heads}, expected a divisor of num_heads={self.num_heads}; '
                            'fix: choose one', code='model/not-divisible')
