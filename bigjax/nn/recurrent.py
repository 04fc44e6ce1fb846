"""LSTM and GRU over whole sequences, with the equations and parameter counts of cuDNN and PyTorch.

Glossary: B batch · T time · D input width · H features. Gates are side by side in the last axis of every parameter:
LSTM in the order input, forget, cell, output; GRU in the order reset, update, new.
"""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Carry = Any


def by_gate(init: Callable, gates: int) -> Callable:
    """An initializer that draws each gate's block [in, H] of a parameter [in, gates * H] on its own."""

    def draw(rng, shape, dtype=jnp.float32):
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(key, block, dtype) for key in jax.random.split(rng, gates)], axis=-1)

    return draw


def lstm_cell(carry: Carry, gates_Bx4H: jax.Array) -> Carry:
    """One step from the sum of all products and biases: (h, c) -> (h, c)."""
    i, f, g, o = jnp.split(gates_Bx4H, 4, axis=-1)
    c = nn.sigmoid(f) * carry[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def gru_cell(h_BxH: jax.Array, from_input_Bx3H: jax.Array, from_state_Bx3H: jax.Array) -> jax.Array:
    """One step; the reset gate scales the state's product and bias (Cho et al. 2014 as in cuDNN)."""
    xr, xz, xn = jnp.split(from_input_Bx3H, 3, axis=-1)
    hr, hz, hn = jnp.split(from_state_Bx3H, 3, axis=-1)
    z = nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + nn.sigmoid(xr + hr) * hn)
    return n + z * (h_BxH - n)


class _Recurrent(nn.Module):
    features: int
    reverse: bool = False
    unroll: int = 1
    kernel_init: Callable = nn.initializers.lecun_normal()
    recurrent_init: Callable = nn.initializers.orthogonal()
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    gates = 0

    @nn.compact
    def weights(self, width: int) -> dict[str, jax.Array]:
        """The parameters; `width` is D."""
        size = self.gates * self.features
        return {
            'input_kernel': self.param(
                'input_kernel', by_gate(self.kernel_init, self.gates), (width, size), self.param_dtype),
            'recurrent_kernel': self.param(
                'recurrent_kernel', by_gate(self.recurrent_init, self.gates), (self.features, size), self.param_dtype),
            'input_bias': self.param('input_bias', self.bias_init, (size,), self.param_dtype),
            'recurrent_bias': self.param('recurrent_bias', self.bias_init, (size,), self.param_dtype),
        }

    def cell(self, carry, from_input, weights):
        raise NotImplementedError

    def project(self, x, weights):
        raise NotImplementedError

    def initial_carry(self, batch: int, dtype) -> Carry:
        raise NotImplementedError

    def _cast(self, x):
        weights = self.weights(x.shape[-1])
        dtype = self.dtype or jnp.result_type(x, *weights.values())
        return jax.tree.map(lambda a: a.astype(dtype), (x, weights))

    def __call__(self, x_BxTxD, initial_carry=None, *, lengths=None, reverse=None):
        """The whole sequence: [B, T, D] -> (carry, y [B, T, H]).

        Args:
          x_BxTxD: the input.
          initial_carry: where the recurrence starts; zeros by default.
          lengths: [B] int, the true length of each sequence. Past it the carry stays as it was and the output is zero;
            in reverse the recurrence starts at the last true step.
          reverse: run from the end; the output stays in the order of the input. None takes the field's value.
        """
        reverse = self.reverse if reverse is None else reverse
        x_BxTxD, weights = self._cast(x_BxTxD)
        batch, time, _ = x_BxTxD.shape
        if initial_carry is None:
            initial_carry = self.initial_carry(batch, x_BxTxD.dtype)
        else:
            initial_carry = jax.tree.map(lambda a: a.astype(x_BxTxD.dtype), initial_carry)
        from_input = self.project(x_BxTxD.reshape(batch * time, -1), weights).reshape(batch, time, -1)
        alive = None if lengths is None else jnp.arange(time)[:, None, None] < lengths[None, :, None]

        def step(carry, inputs):
            from_input, alive = inputs
            new = self.cell(carry, from_input, weights)
            y = jax.tree.leaves(new)[0]
            if alive is not None:
                new = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, carry)
                y = jnp.where(alive, y, 0)
            return new, y

        carry, y_TxBxH = lax.scan(
            step, initial_carry, (from_input.swapaxes(0, 1), alive), reverse=reverse, unroll=self.unroll)
        return carry, y_TxBxH.swapaxes(0, 1)

    def step(self, carry, x_BxD):
        """One step with the same parameters, for decoding: (carry, [B, D]) -> (carry, y [B, H])."""
        x_BxD, weights = self._cast(x_BxD)
        if carry is None:
            carry = self.initial_carry(x_BxD.shape[0], x_BxD.dtype)
        carry = self.cell(carry, self.project(x_BxD, weights), weights)
        return carry, jax.tree.leaves(carry)[0]


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    The carry is (h [B, H], c [B, H]). Parameters: 'input_kernel' [D, 4H], 'recurrent_kernel' [H, 4H], 'input_bias'
    and 'recurrent_bias' [4H]: 4H (D + H + 2) numbers, those of `torch.nn.LSTM` transposed.

    Attributes:
      features: H.
      reverse: run from the end.
      unroll: steps of the scan in one iteration of the compiled loop.
      dtype: of the computation; None takes the common type of input and parameters.
    """

    gates = 4

    def project(self, x, weights):
        return x @ weights['input_kernel'] + (weights['input_bias'] + weights['recurrent_bias'])

    def cell(self, carry, from_input, weights):
        return lstm_cell(carry, from_input + carry[0] @ weights['recurrent_kernel'])

    def initial_carry(self, batch, dtype=jnp.float32):
        return jnp.zeros((batch, self.features), dtype), jnp.zeros((batch, self.features), dtype)


class GRU(_Recurrent):
    """Gated recurrent unit (Cho et al. 2014), reset after the product as in cuDNN.

    The carry is h [B, H]. Parameters: 'input_kernel' [D, 3H], 'recurrent_kernel' [H, 3H], 'input_bias' and
    'recurrent_bias' [3H]: 3H (D + H + 2) numbers, those of `torch.nn.GRU` transposed. Attributes as in `LSTM`.
    """

    gates = 3

    def project(self, x, weights):
        return x @ weights['input_kernel'] + weights['input_bias']

    def cell(self, carry, from_input, weights):
        return gru_cell(carry, from_input, carry @ weights['recurrent_kernel'] + weights['recurrent_bias'])

    def initial_carry(self, batch, dtype=jnp.float32):
        return jnp.zeros((batch, self.features), dtype)
