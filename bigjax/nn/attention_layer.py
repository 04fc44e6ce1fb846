"""Multi-head attention with its projections: to the sequence itself, to a cache of it, or to what an encoder made.

Glossary: B batch · T tokens · M tokens of the encoder · W width · H heads · K key and value heads · D width of a head.
"""
import flax.linen as nn
import jax

from bigjax.errors import UserError
from bigjax.nn.attention import attention, cached_attention
from bigjax.nn.dense import Dense
from bigjax.nn.kv_cache import Layer, write
from bigjax.nn.posemb import rotate
from bigjax.nn.transformer_spec import BlockInputs, Spec
from bigjax.sharding import logical


def projection(spec: Spec, name: str, width: int, parent=...) -> Dense:
    """The dense layer 'query', 'key' or 'value' of a residual of some width."""
    number = spec.num_heads if name == 'query' else spec.num_kv_heads or spec.num_heads
    bias = (spec.bias or spec.qkv_bias) and (spec.key_bias or name != 'key')
    init = (spec.query_init if name == 'query' else None) or spec.init
    where = {} if parent is ... else {'parent': parent}
    return Dense(number * (spec.head_width or width // spec.num_heads), bias, kernel_init=init, bias_init=spec.bias_init,
                 dtype=spec.dtype, name=name, **where)


def cross_layer(spec: Spec, params, memory_BxMxW: jax.Array, dtype) -> Layer:
    """Keys and values [B, K, M, D] of an encoder's output, from the parameters of the attention to it."""
    def heads(name):
        y = projection(spec, name, memory_BxMxW.shape[-1], parent=None).apply({'params': params[name]}, memory_BxMxW)
        return y.reshape(*y.shape[:2], spec.num_kv_heads or spec.num_heads, -1).swapaxes(1, 2).astype(dtype)

    return Layer(heads('key'), heads('value'))


class Attention(nn.Module):
    """[B, T, W] -> [B, T, W]: 'query', 'key', 'value', 'out'; 'query_norm' and 'key_norm' where queries and keys have norms.

    Attributes:
      spec: the block's options.
      cross: queries come from x, keys and values from `inputs.memory`.
    """

    spec: Spec
    cross: bool = False

    @nn.compact
    def __call__(self, x_BxTxW: jax.Array, inputs: BlockInputs, cached: Layer | None = None, index=None, *,
                 train: bool) -> tuple[jax.Array, Layer | None]:
        """Returns the output, and the cached keys and values with those of these tokens.

        Args:
          cached: keys and values of earlier tokens, or of the memory in cross attention.
          index: the slot of the first token.
        """
        s, (B, T, W) = self.spec, x_BxTxW.shape
        self._check()

        def heads(name, source):
            y = projection(s, name, W)(source)
            y = y.reshape(*source.shape[:2], -1, s.head_width or W // s.num_heads)
            y = logical.constrain(y, 'batch', 'seq', 'heads', None)
            if s.qk_norm and name != 'value':
                y = nn.RMSNorm(epsilon=s.epsilon, dtype=s.dtype, name=f'{name}_norm')(y)
            return rotate(y, s.rope, inputs.positions) if s.rope and not self.cross and name != 'value' else y

        q, known = heads('query', x_BxTxW), self.cross and cached is not None
        if not known:
            source = inputs.memory if self.cross else x_BxTxW
            k, v = heads('key', source), heads('value', source)
        mask, bias = (inputs.memory_mask, None) if self.cross else (inputs.mask, inputs.bias)
        scale = s.scale or None
        if cached is None:
            drop = nn.Dropout(s.dropout, deterministic=False) if s.dropout and train else None
            y = attention(q, k, v, causal=s.causal and not self.cross, mask=mask, bias=bias, scale=scale, drop=drop,
                          context=s.context)
        else:
            cached = cached if known else write(cached, k, v, index)
            y = cached_attention(q, *cached, mask=mask, bias=bias, scale=scale)
        return Dense(W, s.bias, kernel_init=s.out_init, bias_init=s.bias_init, dtype=s.dtype,
                     name='out')(y.reshape(B, T, -1)), cached

    def _check(self):
        s, parts = self.spec, logical.axis_size('tensor')
        for name, number in (('num_heads', s.num_heads), ('num_kv_heads', s.num_kv_heads or s.num_heads)):
            if number % parts:
                raise UserError(f"config.mesh: got 'tensor' of {parts}, expected a divisor of {name}={number}; "
                                f'fix: use a divisor of {number}', code='mesh/impossible')
