"""The Transformer block, in the forms that its families use: GPT-2, Llama, ViT, mixtures of experts.

Glossary: B batch · T tokens · W width · H heads · K key and value heads · D width of a head · F width of the hidden layer.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigjax.errors import UserError
from bigjax.nn.attention import attention
from bigjax.nn.dense import Dense
from bigjax.nn.gpipe import pipeline
from bigjax.nn.moe import MoE
from bigjax.nn.norm import LayerNorm
from bigjax.nn.posemb import rotate
from bigjax.sharding import logical

NORMS = ('layernorm', 'rmsnorm')
HIDDEN = ('gelu_tanh', 'gelu', 'swiglu')
REMAT = {  # what the backward pass finds stored: all, nothing, products, or the two outputs of each block by name
    'none': None, 'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'named': jax.checkpoint_policies.save_only_these_names('attn', 'mlp'),
}


class Spec(NamedTuple):
    """The options of a block. A family has the ones that it offers as fields of the same names.

    Attributes:
      num_heads: H; `num_kv_heads`: K, 0 for H (Ainslie et al. 2023, grouped queries).
      mlp_width: F, 0 for 4 W.
      norm: 'layernorm' or 'rmsnorm' (Zhang & Sennrich 2019); `epsilon` under its root.
      hidden: 'gelu_tanh', 'gelu', or 'swiglu' (Shazeer 2020: down(silu(gate x) * up x)).
      bias: in dense layers and layer norms.
      causal: token t sees tokens 0..t.
      rope_base: of rotary positions (Su et al. 2021); 0 for none.
      dropout: on attention probabilities and on what the block writes to the residual.
      experts: how many hidden layers to route tokens to, `top_k` each with `capacity` times an even share; 0 for one layer.
      context: how attention sees a sequence that the mesh splits, see `bigjax.nn.attention`.
      init, out_init: of kernels, and of those that write to the residual.
      dtype: of the computation.
    """

    num_heads: int
    num_kv_heads: int = 0
    mlp_width: int = 0
    norm: str = 'layernorm'
    epsilon: float = 1e-5
    hidden: str = 'gelu_tanh'
    bias: bool = True
    causal: bool = True
    rope_base: float = 0.0
    dropout: float = 0.0
    experts: int = 0
    top_k: int = 2
    capacity: float = 1.25
    context: str = 'ring'
    init: Callable = nn.initializers.normal(0.02)
    out_init: Callable = nn.initializers.normal(0.02)
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = jnp.float32


def make_norm(spec: Spec, name: str) -> nn.Module:
    """A normalisation layer; statistics are float32."""
    if spec.norm not in NORMS:
        raise UserError(f'norm: got {spec.norm!r}, expected one of {", ".join(NORMS)}; fix: choose one of them',
                        code='model/unknown-option')
    if spec.norm == 'rmsnorm':
        return nn.RMSNorm(epsilon=spec.epsilon, dtype=spec.dtype, name=name)
    return LayerNorm(epsilon=spec.epsilon, use_bias=spec.bias, dtype=spec.dtype, name=name)


class SelfAttention(nn.Module):
    """Multi-head attention [B, T, W] -> [B, T, W]: 'query', 'key', 'value', 'out'; `mask` as in `bigjax.nn.attention`."""

    spec: Spec

    @nn.compact
    def __call__(self, x_BxTxW: jax.Array, mask=None, *, train: bool) -> jax.Array:
        s, (B, T, W) = self.spec, x_BxTxW.shape
        H, K = s.num_heads, s.num_kv_heads or s.num_heads
        for name, heads in (('num_heads', H), ('num_kv_heads', K)):
            if heads % logical.axis_size('tensor'):
                raise UserError(f"config.mesh: got 'tensor' of {logical.axis_size('tensor')}, expected a divisor of "
                                f'{name}={heads}; fix: use a divisor of {heads}', code='mesh/impossible')

        def heads(name, number):
            y = Dense(number * (W // H), s.bias, kernel_init=s.init, bias_init=s.bias_init, dtype=s.dtype, name=name)(x_BxTxW)
            return logical.constrain(y.reshape(B, T, number, W // H), 'batch', 'seq', 'heads', None)

        q, k, v = heads('query', H), heads('key', K), heads('value', K)
        if s.rope_base:
            q, k = rotate(q, s.rope_base), rotate(k, s.rope_base)
        drop = nn.Dropout(s.dropout, deterministic=False) if s.dropout and train else None
        y = attention(q, k, v, causal=s.causal, mask=mask, drop=drop, context=s.context).reshape(B, T, W)
        return Dense(W, s.bias, kernel_init=s.out_init, bias_init=s.bias_init, dtype=s.dtype, name='out')(y)


class FeedForward(nn.Module):
    """[B, T, W] -> [B, T, W] through F: 'up', activation, 'down'; 'gate' beside 'up' in SwiGLU."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        s, W = self.spec, x.shape[-1]
        if s.hidden not in HIDDEN:
            raise UserError(f'hidden: got {s.hidden!r}, expected one of {", ".join(HIDDEN)}; fix: choose one of them',
                            code='model/unknown-option')
        F = s.mlp_width or 4 * W
        dense = lambda name, n, init: Dense(n, s.bias, kernel_init=init, bias_init=s.bias_init, dtype=s.dtype, name=name)
        h = dense('up', F, s.init)(x)
        if s.hidden == 'swiglu':
            h = nn.silu(dense('gate', F, s.init)(x)) * h
        else:
            h = nn.gelu(h, approximate=s.hidden == 'gelu_tanh')
        return dense('down', W, s.out_init)(logical.constrain(h, 'batch', 'seq', 'mlp'))


class Block(nn.Module):
    """A pre-normalised residual block: x + attn(attn_norm(x)), then x + mlp(mlp_norm(x)); or 'moe' in the place of 'mlp'."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask=None) -> jax.Array:
        s = self.spec
        drop = nn.Dropout(s.dropout, deterministic=not train)
        y = SelfAttention(s, name='attn')(make_norm(s, 'attn_norm')(x), mask, train=train)
        x = logical.constrain(x + drop(checkpoint_name(y, 'attn')), 'batch', 'seq', 'embed')
        h = make_norm(s, 'mlp_norm')(x)
        if s.experts:
            y = MoE(s.experts, s.top_k, s.capacity, s.mlp_width, s.hidden == 'swiglu', s.init, s.out_init, s.dtype,
                    name='moe')(h)
        else:
            y = FeedForward(s, name='mlp')(h, train=train)
        return logical.constrain(x + drop(checkpoint_name(y, 'mlp')), 'batch', 'seq', 'embed')


def stack(module: nn.Module, spec: Spec, num_layers: int, x: jax.Array, *, train: bool, scan: bool = False,
          remat: str = 'none', microbatches: int = 0, mask=None) -> jax.Array:
    """Blocks in the compact scope of `module`, [B, T, W] -> [B, T, W]: 'block_0', …, or 'blocks' where scanned.

    Args:
      scan: one block compiled and looped over; its parameters are those of the blocks, stacked (`bigjax.checkpoint.convert`).
      remat: see `REMAT`: what is recomputed in the backward pass to save memory.
      microbatches: of a pipeline, where the mesh has stages; 0 for as many as stages.
      mask: of every block's attention, see `bigjax.nn.attention`; not in a pipeline.

    Raises:
      UserError: an unknown `remat` ('model/unknown-option'), or what does not go with the mesh ('mesh/impossible').
    """
    if remat not in REMAT:
        raise UserError(f'remat: got {remat!r}, expected one of {", ".join(REMAT)}; fix: choose one of them',
                        code='model/unknown-option')
    block = Block
    if remat != 'none':
        block = nn.remat(Block, policy=REMAT[remat], static_argnums=(2,), prevent_cse=not scan)
    pipelined = logical.axis_size('stage') > 1
    if pipelined and not scan:
        raise UserError("config.mesh: got 'stage' with unrolled layers, expected stacked ones; fix: --config.model.scan=True",
                        code='mesh/impossible')
    if not scan:
        for i in range(num_layers):
            x = block(spec, name=f'block_{i}')(x, train, mask)
        return x
    if pipelined and not module.is_initializing():
        if (spec.dropout and train) or spec.experts or mask is not None:
            raise UserError("config.mesh: got 'stage' with dropout, experts or an attention mask, expected none of them; "
                            'fix: set dropout and experts to 0, or use other axes', code='mesh/impossible')
        one = block(spec, parent=None)
        return pipeline(lambda params, x: one.apply({'params': params}, x, train),
                        module.variables['params']['blocks'], x, microbatches)
    body = nn.scan(lambda block, x, mask: (block(x, train, mask), None), variable_axes={'params': 0, 'losses': 0},
                   split_rngs={'params': True, 'dropout': True}, length=num_layers, in_axes=nn.broadcast)
    return body(block(spec, name='blocks'), x, mask)[0]


def partition_rules(prefix: str = '') -> tuple:
    """The logical axes of the parameters of a `stack` under a path, unrolled and scanned."""
    rules = (
        ('attn/(query|key|value)/kernel', ('embed', 'heads')), ('attn/(query|key|value)/bias', ('heads',)),
        ('attn/out/kernel', ('heads', 'embed')), ('mlp/(up|gate)/kernel', ('embed', 'mlp')),
        ('mlp/(up|gate)/bias', ('mlp',)), ('mlp/down/kernel', ('mlp', 'embed')),
        ('moe/router/kernel', ('embed', None)), ('moe/(up|gate)', ('experts', 'embed', 'mlp')),
        ('moe/down', ('experts', 'mlp', 'embed')), ('.*/(scale|bias)', ('embed',)))
    return (*((rf'{prefix}block_\d+/{path}', names) for path, names in rules),
            *((f'{prefix}blocks/{path}', ('layers', *names)) for path, names in rules))
