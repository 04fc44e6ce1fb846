"""Decoder-only Transformers: GPT-2 (Radford et al. 2019) and its small relatives.

Glossary: B batch · T tokens of a window · W width · H heads · D width of a head · V vocabulary.
"""
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax import UserError
from bigjax.nn.attention import attention
from bigjax.nn.dense import Dense

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
}
normal = nn.initializers.normal


class SelfAttention(nn.Module):
    """Causal multi-head attention [B, T, W] -> [B, T, W]: 'query', 'key', 'value', 'out'."""

    num_heads: int
    dropout: float
    bias: bool
    out_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x_BxTxW: jax.Array, *, train: bool) -> jax.Array:
        B, T, W = x_BxTxW.shape

        def heads(name):
            y = Dense(W, self.bias, kernel_init=normal(0.02), dtype=self.dtype, name=name)(x_BxTxW)
            return y.reshape(B, T, self.num_heads, W // self.num_heads)

        q, k, v = heads('query'), heads('key'), heads('value')
        if self.dropout and train:  # only written out can the probabilities be dropped
            scores_BxHxTxT = jnp.einsum('BTHD,BSHD->BHTS', q, k).astype(jnp.float32) / math.sqrt(q.shape[-1])
            scores_BxHxTxT = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores_BxHxTxT, -jnp.inf)
            p_BxHxTxT = nn.Dropout(self.dropout, deterministic=False)(jax.nn.softmax(scores_BxHxTxT))
            y = jnp.einsum('BHTS,BSHD->BTHD', p_BxHxTxT.astype(self.dtype), v)
        else:
            y = attention(q, k, v, causal=True)
        return Dense(W, self.bias, kernel_init=self.out_init, dtype=self.dtype, name='out')(y.reshape(B, T, W))


class FeedForward(nn.Module):
    """[B, T, W] -> [B, T, W] through 4 W: 'up', GELU (tanh form), 'down'."""

    bias: bool
    out_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        W = x.shape[-1]
        h = Dense(4 * W, self.bias, kernel_init=normal(0.02), dtype=self.dtype, name='up')(x)
        return Dense(W, self.bias, kernel_init=self.out_init, dtype=self.dtype, name='down')(
            nn.gelu(h, approximate=True))


class Block(nn.Module):
    """A pre-normalised residual block: x + attn(attn_norm(x)), then x + mlp(mlp_norm(x))."""

    num_heads: int
    dropout: float
    bias: bool
    out_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, use_bias=self.bias, dtype=self.dtype, name=name)
        attn = SelfAttention(self.num_heads, self.dropout, self.bias, self.out_init, self.dtype, name='attn')
        x = x + drop(attn(norm('attn_norm')(x), train=train))
        return x + drop(FeedForward(self.bias, self.out_init, self.dtype, name='mlp')(norm('mlp_norm')(x)))


class GPT(nn.Module):
    """Tokens [B, T] -> logits [B, T, V] of the next: 'token_embed', 'pos_embed', 'block_0', …, 'final_norm', 'head'.

    Initialised as GPT-2: normal of deviation 0.02, and 0.02 / sqrt(2 num_layers) where a block writes to the residual.

    Attributes:
      vocab_size: V.
      block_size: the longest window.
      num_layers, num_heads, width: of the blocks; heads divide width.
      dropout: on embeddings, attention probabilities and what blocks write.
      bias: in dense layers and norms (GPT-2 has them, nanoGPT's small settings do not).
      tie_head: the head is the token embedding transposed; otherwise a matrix of its own.
      dtype: of the computation; parameters and normalisation statistics stay float32.
    """

    vocab_size: int = 50257
    block_size: int = 1024
    num_layers: int = 12
    num_heads: int = 12
    width: int = 768
    dropout: float = 0.0
    bias: bool = False
    tie_head: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array, *, train: bool) -> jax.Array:
        B, T = tokens_BxT.shape
        if self.block_size < T:
            raise UserError(f'GPT: {T} tokens are more than block_size={self.block_size}: shorten the window')
        if self.width % self.num_heads:
            raise UserError(f'GPT: num_heads={self.num_heads} does not divide width={self.width}: choose a divisor')
        token_embed = nn.Embed(self.vocab_size, self.width, embedding_init=normal(0.02), dtype=self.dtype,
                               name='token_embed')
        pos_embed = nn.Embed(self.block_size, self.width, embedding_init=normal(0.02), dtype=self.dtype,
                             name='pos_embed')
        x = token_embed(tokens_BxT) + pos_embed(jnp.arange(T))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        out_init = normal(0.02 / math.sqrt(2 * self.num_layers))
        for i in range(self.num_layers):
            x = Block(self.num_heads, self.dropout, self.bias, out_init, self.dtype, name=f'block_{i}')(x, train=train)
        x = nn.LayerNorm(epsilon=1e-5, use_bias=self.bias, dtype=self.dtype, name='final_norm')(x)
        if self.tie_head:  # two-dimensional, for the reason given in bigjax.nn.dense
            return token_embed.attend(x.reshape(B * T, -1)).reshape(B, T, -1)
        return Dense(self.vocab_size, use_bias=False, kernel_init=normal(0.02), dtype=self.dtype, name='head')(x)


def generate(apply: Callable, variables, prompt_BxP: jax.Array, steps: int, rng: jax.Array, *, block_size: int,
             temperature: float = 1.0, top_k: int = 0) -> jax.Array:
    """Samples `steps` tokens after a prompt: [B, P] -> [B, P + steps]; pure, and jittable with `steps` static.

    Each token costs one pass over the window of the last `block_size` tokens. What stands to the right of a token
    does not reach its logits, so the window may be filled from the left.

    Args:
      apply: a causal language model bound by `bigjax.tasks.bind`; [B, block_size] tokens -> logits.
      prompt_BxP: P >= 1 tokens.
      temperature: divides the logits; 0 takes the most likely token.
      top_k: sample among the k most likely tokens; 0 among all.
    """
    B, P = prompt_BxP.shape
    if P < 1:
        raise UserError('generate: the prompt is empty: begin with at least one token')
    length = P + steps
    tokens = jnp.zeros((B, max(length, block_size)), jnp.int32).at[:, :P].set(prompt_BxP)

    def step(i, tokens):
        start = jnp.maximum(i - block_size, 0)
        window = jax.lax.dynamic_slice_in_dim(tokens, start, block_size, axis=1)
        logits = apply(variables, window)[0]
        logits_BxV = jax.lax.dynamic_index_in_dim(logits, i - 1 - start, axis=1, keepdims=False).astype(jnp.float32)
        if top_k:
            kth = jax.lax.top_k(logits_BxV, min(top_k, logits_BxV.shape[-1]))[0][:, -1:]
            logits_BxV = jnp.where(logits_BxV < kth, -jnp.inf, logits_BxV)
        if temperature:
            token = jax.random.categorical(jax.random.fold_in(rng, i), logits_BxV / temperature)
        else:
            token = jnp.argmax(logits_BxV, axis=-1)
        return tokens.at[:, i].set(token.astype(jnp.int32))

    return jax.lax.fori_loop(P, length, step, tokens)[:, :length]
