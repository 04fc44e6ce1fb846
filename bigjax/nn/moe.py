"""A mixture of experts in the place of a hidden layer, with a capacity for each expert.

Glossary: B batch · T tokens · W width · E experts · C capacity of an expert for one example · F width of the hidden layer.
"""
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.dense import Dense
from bigjax.sharding import logical

BALANCE = 0.01  # weight of the load-balance loss (Fedus et al. 2021, section 2.2)


class MoE(nn.Module):
    """[B, T, W] -> [B, T, W]: each token goes to its `top_k` experts (Lepikhin et al. 2020, algorithm 1).

    An expert takes C = top_k T / E * capacity tokens of an example, first choices first; what is over is dropped and keeps
    its residual. The gates of a token's experts add up to one. The load-balance loss is sown into 'losses', which the step
    adds to the objective. Parameters: 'router/kernel' [W, E], 'up' [E, W, F], 'down' [E, F, W], and 'gate' in SwiGLU.
    """

    experts: int
    top_k: int = 2
    capacity: float = 1.25
    mlp_width: int = 0
    swiglu: bool = False
    init: Callable = nn.initializers.normal(0.02)
    out_init: Callable = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (T, W), E, F = x.shape[1:], self.experts, self.mlp_width or 4 * x.shape[-1]
        if not 1 <= self.top_k <= E:
            raise UserError(f'top_k: got {self.top_k}, expected 1 to {E}, the number of experts; fix: choose one of these',
                            code='model/unknown-option')
        C = max(1, math.ceil(self.top_k * T / E * self.capacity))
        logits = Dense(E, use_bias=False, kernel_init=self.init, name='router')(x.astype(jnp.float32))
        p_BxTxE = jax.nn.softmax(logits)
        dispatch_BxTxExC, combine_BxTxExC, share_BxE = route(p_BxTxE, self.top_k, C)
        self.sow('losses', 'balance', BALANCE * E * jnp.mean(jnp.sum(share_BxE * p_BxTxE.mean(1), axis=-1)))

        def weights(name, init, shape):
            return self.param(name, init, shape, jnp.float32).astype(self.dtype)

        split = lambda y: logical.constrain(y, 'experts', 'groups', None, None)
        h = split(jnp.einsum('BTEC,BTW->EBCW', dispatch_BxTxExC.astype(self.dtype), x))
        y = jnp.einsum('EBCW,EWF->EBCF', h, weights('up', self.init, (E, W, F)))
        if self.swiglu:
            y = nn.silu(jnp.einsum('EBCW,EWF->EBCF', h, weights('gate', self.init, (E, W, F)))) * y
        else:
            y = nn.gelu(y)
        y = split(jnp.einsum('EBCF,EFW->EBCW', y, weights('down', self.out_init, (E, F, W))))
        return jnp.einsum('BTEC,EBCW->BTW', combine_BxTxExC.astype(self.dtype), y)


def route(p_BxTxE: jax.Array, top_k: int, capacity: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which token goes where.

    Returns:
      dispatch [B, T, E, C], 0 or 1: the token has that place; combine [B, T, E, C]: the same with its gate; and the share
      of tokens whose first choice an expert is, [B, E].
    """
    E = p_BxTxE.shape[-1]
    gates_BxTxk, chosen_BxTxk = jax.lax.top_k(p_BxTxE, top_k)
    gates_BxTxk = gates_BxTxk / gates_BxTxk.sum(-1, keepdims=True)
    taken, dispatch, combine = 0, 0.0, 0.0
    for k in range(top_k):  # all first choices before all second ones
        wants_BxTxE = jax.nn.one_hot(chosen_BxTxk[..., k], E, dtype=jnp.int32)
        place_BxTxE = jnp.cumsum(wants_BxTxE, axis=1) - 1 + taken
        taken = taken + wants_BxTxE.sum(1, keepdims=True)
        at = wants_BxTxE[..., None] * jax.nn.one_hot(place_BxTxE, capacity)  # out of range: no place
        dispatch, combine = dispatch + at, combine + at * gates_BxTxk[..., k, None, None]
    return dispatch, combine, jax.nn.one_hot(chosen_BxTxk[..., 0], E).mean(1)
