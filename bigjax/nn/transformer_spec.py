"""The options of a Transformer block, and the layers that they choose.

Glossary: B batch · T tokens · W width · H heads · K key and value heads · D width of a head · F width of the hidden layer.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.norm import LayerNorm
from bigjax.nn.posemb import Rope

NORMS = ('layernorm', 'rmsnorm')
GATED = {'swiglu': nn.silu, 'geglu_tanh': lambda x: nn.gelu(x, approximate=True)}
PLAIN = {'gelu_tanh': lambda x: nn.gelu(x, approximate=True), 'gelu': lambda x: nn.gelu(x, approximate=False), 'relu': nn.relu}
HIDDEN = (*PLAIN, *GATED)


class Spec(NamedTuple):
    """The options of a block. A family has the ones that it offers as fields of the same names.

    Attributes:
      num_heads: H; `num_kv_heads`: K, 0 for H (Ainslie et al. 2023, grouped queries).
      head_width: D, 0 for W / H.
      mlp_width: F, 0 for 4 W.
      norm: 'layernorm' or 'rmsnorm' (Zhang & Sennrich 2019); `epsilon` under its root.
      post_norm: a norm after each residual sum (Vaswani et al. 2017), in place of one before each layer.
      hidden: 'gelu_tanh', 'gelu', 'relu', or gated, down(f(gate x) * up x) (Shazeer 2020): 'swiglu', 'geglu_tanh'.
      bias: in dense layers and layer norms.
      qkv_bias: in query, key and value, also without `bias` (Qwen2).
      key_bias: in the key where query and value have one (Whisper has none).
      qk_norm: an RMS norm of each query and key over D, 'query_norm' and 'key_norm' (Qwen3).
      causal: token t sees tokens 0..t.
      cross: a second attention, 'cross', to what an encoder made.
      rope: rotary positions (Su et al. 2021); None for none.
      scale: of scores; 0 for 1 / sqrt(D).
      dropout: on attention probabilities and on what the block writes to the residual; `hidden_dropout`: inside the MLP.
      layer_scale: each residual is multiplied by a learned vector that starts at this, 'attn_scale' and 'mlp_scale' (Touvron et
        al. 2021, CaiT); 0 for none.
      drop_path: the probability that the last block leaves out a residual of an example; it rises linearly from 0 in the
        first (Huang et al. 2016).
      experts: how many hidden layers to route tokens to, `top_k` each with `capacity` times an even share; 0 for one layer.
      context: how attention sees a sequence that the mesh splits, see `bigjax.nn.attention`.
      init, out_init: of kernels, and of those that write to the residual; `query_init`: of the query, None for `init`.
      dtype: of the computation.
    """

    num_heads: int
    num_kv_heads: int = 0
    head_width: int = 0
    mlp_width: int = 0
    norm: str = 'layernorm'
    epsilon: float = 1e-5
    post_norm: bool = False
    hidden: str = 'gelu_tanh'
    bias: bool = True
    qkv_bias: bool = False
    key_bias: bool = True
    qk_norm: bool = False
    causal: bool = True
    cross: bool = False
    rope: Rope | None = None
    scale: float = 0.0
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    layer_scale: float = 0.0
    drop_path: float = 0.0
    experts: int = 0
    top_k: int = 2
    capacity: float = 1.25
    context: str = 'ring'
    init: Callable = nn.initializers.normal(0.02)
    out_init: Callable = nn.initializers.normal(0.02)
    query_init: Callable | None = None
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = jnp.float32


class BlockInputs(NamedTuple):
    """The inputs of every block beside the residual; each may be None.

    Attributes:
      mask: bool [B or 1, 1, T or 1, S], the keys that a query sees (`bigjax.nn.masks`).
      positions: int [B or 1, T] for rotary positions; None for 0..T-1.
      bias: [B or 1, H, T, S], added to the scores (T5's relative positions).
      memory: [B, M, W], what cross attention reads, or None where its keys and values are cached.
      memory_mask: bool [B, 1, 1, M].
    """

    mask: jax.Array | None = None
    positions: jax.Array | None = None
    bias: jax.Array | None = None
    memory: jax.Array | None = None
    memory_mask: jax.Array | None = None

    @property
    def empty(self) -> bool:
        return all(part is None for part in self)


NOTHING = BlockInputs()


def make_norm(spec: Spec, name: str) -> nn.Module:
    """A normalisation layer; statistics are float32."""
    if spec.norm not in NORMS:
        raise UserError(f'norm: got {spec.norm!r}, expected one of {", ".join(NORMS)}; fix: choose one of them',
                        code='model/unknown-option')
    if spec.norm == 'rmsnorm':
        return nn.RMSNorm(epsilon=spec.epsilon, dtype=spec.dtype, name=name)
    return LayerNorm(epsilon=spec.epsilon, use_bias=spec.bias, dtype=spec.dtype, name=name)
