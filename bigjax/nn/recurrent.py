"""LSTM and GRU over whole sequences, with the equations and parameter counts of cuDNN and PyTorch.

Glossary: B batch · T time · D input width · H features · G all gates' features, 4H or 3H. Gates are side by side in the
last axis of every parameter: LSTM in the order input, forget, cell, output; GRU in the order reset, update, new.
"""
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.nn.cpu import add_bias, column_sums, on_cpu

Carry = Any


def by_gate(init: Callable, gates: int) -> Callable:
    """An initializer that draws each gate's block [in, H] of a parameter [in, gates * H] on its own."""

    def draw(rng, shape, dtype=jnp.float32):
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(key, block, dtype) for key in jax.random.split(rng, gates)], axis=-1)

    return draw


def lstm_cell(carry: Carry, from_input_Bx4H: jax.Array, kernel_Hx4H: jax.Array, _=None) -> tuple[Carry, jax.Array]:
    """One step: (h, c) -> (h, c) and the gates [B, 4H] after their nonlinearities."""
    i, f, g, o = jnp.split(from_input_Bx4H + carry[0] @ kernel_Hx4H, 4, axis=-1)
    i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
    c = f * carry[1] + i * g
    return (o * jnp.tanh(c), c), jnp.concatenate([i, f, g, o], axis=-1)


def lstm_pull(dcarry: Carry, carry: Carry, new: Carry, gates_Bx4H: jax.Array, kernel_Hx4H: jax.Array):
    """The derivative of `lstm_cell`: of the carry before, of the input's and of the state's product."""
    (dh, dc), (_, c_before), (_, c) = dcarry, carry, new
    i, f, g, o = jnp.split(gates_Bx4H, 4, axis=-1)
    t = jnp.tanh(c)
    dc = dc + dh * o * (1 - t * t)
    d = jnp.concatenate(
        [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)], axis=-1)
    return (d @ kernel_Hx4H.T, dc * f), d, None


def gru_cell(carry: Carry, from_input_Bx3H: jax.Array, kernel_Hx3H: jax.Array, bias_3H: jax.Array):
    """One step; the reset gate scales the state's product and bias. Returns r, z, n and the scaled product too."""
    h, = carry
    xr, xz, xn = jnp.split(from_input_Bx3H, 3, axis=-1)
    hr, hz, hn = jnp.split(h @ kernel_Hx3H + bias_3H, 3, axis=-1)
    r, z = nn.sigmoid(xr + hr), nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (n + z * (h - n),), jnp.concatenate([r, z, n, hn], axis=-1)


def gru_pull(dcarry: Carry, carry: Carry, new: Carry, gates_Bx4H: jax.Array, kernel_Hx3H: jax.Array):
    """The derivative of `gru_cell`, as `lstm_pull`."""
    (dh,), (h,) = dcarry, carry
    r, z, n, hn = jnp.split(gates_Bx4H, 4, axis=-1)
    dn = dh * (1 - z) * (1 - n * n)
    dr, dz = dn * hn * r * (1 - r), dh * (h - n) * z * (1 - z)
    of_state = jnp.concatenate([dr, dz, dn * r], axis=-1)
    return (dh * z + of_state @ kernel_Hx3H.T,), jnp.concatenate([dr, dz, dn], axis=-1), of_state


class Cell(NamedTuple):
    """A recurrence for `run`: the step, its derivative, and how the loop is compiled."""

    step: Callable
    pull: Callable
    reverse: bool
    unroll: int


def _freeze(alive, new, old):
    return new if alive is None else jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(cell: Cell, from_input_TxBxG, alive_TxBx1, carry: Carry, kernel_HxG, bias_G):
    """The loop: (last carry, h of every step [T, B, H]). Where `alive` is False the carry stays as it was.

    Its derivative keeps the gates, and makes the gradient of the recurrent kernel one product after the loop instead
    of a sum of small ones inside it.
    """
    return _run_forward(cell, from_input_TxBxG, alive_TxBx1, carry, kernel_HxG, bias_G)[0]


def _run_forward(cell, from_input, alive, carry, kernel, bias):
    def step(carry, inputs):
        from_input, alive = inputs
        new, gates = cell.step(carry, from_input, kernel, bias)
        new = _freeze(alive, new, carry)
        return new, (new, gates)

    last, (carries, gates) = lax.scan(step, carry, (from_input, alive), reverse=cell.reverse, unroll=cell.unroll)
    return (last, carries[0]), (alive, carry, carries, gates, kernel, bias)


def _run_backward(cell, residuals, cotangents):
    alive, first, carries, gates, kernel, bias = residuals
    dlast, dh_TxBxH = cotangents

    def shift(first, rest):
        return jnp.concatenate([rest[1:], first[None]] if cell.reverse else [first[None], rest[:-1]])

    before = jax.tree.map(shift, first, carries)

    def step(dcarry, inputs):
        dh, alive, before, after, gates = inputs
        dcarry = (dcarry[0] + dh, *dcarry[1:])
        new, *of_products = cell.pull(dcarry, before, after, gates, kernel)
        if alive is not None:
            of_products = jax.tree.map(lambda d: jnp.where(alive, d, 0), of_products)
        return _freeze(alive, new, dcarry), of_products

    dfirst, (of_input, of_state) = lax.scan(
        step, dlast, (dh_TxBxH, alive, before, carries, gates), reverse=not cell.reverse, unroll=cell.unroll)
    of_state = of_input if of_state is None else of_state
    rows = of_state.reshape(-1, of_state.shape[-1])
    dkernel = before[0].reshape(-1, kernel.shape[0]).T @ rows
    dbias = None if bias is None else column_sums(rows, bias)
    return of_input, None, dfirst, dkernel, dbias


run.defvjp(_run_forward, _run_backward)


class _Recurrent(nn.Module):
    features: int
    reverse: bool = False
    unroll: int = 0
    kernel_init: Callable = nn.initializers.lecun_normal()
    recurrent_init: Callable = nn.initializers.orthogonal()
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    gates = 0  # in a parameter
    states = 0  # in the carry

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

    def cell(self, reverse: bool, size: int) -> Cell:
        raise NotImplementedError

    def biases(self, weights):
        """(of the input's product, of the state's product)"""
        raise NotImplementedError

    def initial_carry(self, batch: int, dtype=jnp.float32) -> Carry:
        """Zeros."""
        zeros = jnp.zeros((batch, self.features), dtype)
        return (zeros,) * self.states if self.states > 1 else zeros

    def _prepare(self, x, carry):
        """Input, carry as a tuple and weights in the dtype of the computation."""
        weights = self.weights(x.shape[-1])
        dtype = self.dtype or jnp.result_type(x, *weights.values())
        carry = self.initial_carry(x.shape[0], dtype) if carry is None else carry
        return jax.tree.map(lambda a: a.astype(dtype), (x, tuple(jax.tree.leaves(carry)), weights))

    def _public(self, carry):
        return carry if self.states > 1 else carry[0]

    def __call__(self, x_BxTxD, initial_carry=None, *, lengths=None, reverse=None):
        """The whole sequence: [B, T, D] -> (carry, y [B, T, H]).

        Args:
          x_BxTxD: the input.
          initial_carry: where the recurrence starts; zeros by default.
          lengths: [B] int, the true length of each sequence. Past it the carry stays as it was and the output is zero;
            in reverse the recurrence starts at the last true step.
          reverse: run from the end; the output stays in the order of the input. None takes the field's value.
        """
        x_BxTxD, carry, weights = self._prepare(x_BxTxD, initial_carry)
        batch, time, width = x_BxTxD.shape
        input_bias, state_bias = self.biases(weights)
        x_MxD = x_BxTxD.swapaxes(0, 1).reshape(time * batch, width)
        from_input = add_bias(x_MxD @ weights['input_kernel'], input_bias).reshape(time, batch, -1)
        alive = None if lengths is None else jnp.arange(time)[:, None, None] < lengths[None, :, None]
        cell = self.cell(self.reverse if reverse is None else reverse, batch * self.features)
        carry, y_TxBxH = run(cell, from_input, alive, carry, weights['recurrent_kernel'], state_bias)
        if alive is not None:
            y_TxBxH = jnp.where(alive, y_TxBxH, 0)
        return self._public(carry), y_TxBxH.swapaxes(0, 1)

    def step(self, carry, x_BxD):
        """One step with the same parameters, for decoding: (carry or None, [B, D]) -> (carry, y [B, H])."""
        x_BxD, carry, weights = self._prepare(x_BxD, carry)
        input_bias, state_bias = self.biases(weights)
        carry, _ = self.cell(False, 0).step(
            carry, x_BxD @ weights['input_kernel'] + input_bias, weights['recurrent_kernel'], state_bias)
        return self._public(carry), carry[0]


def _unroll(asked: int, size: int) -> int:
    """Small steps cost more to dispatch than to compute on a CPU: several of them in one iteration."""
    return asked or (8 if on_cpu() and size <= 4096 else 1)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    The carry is (h [B, H], c [B, H]). Parameters: 'input_kernel' [D, 4H], 'recurrent_kernel' [H, 4H], 'input_bias'
    and 'recurrent_bias' [4H]: 4H (D + H + 2) numbers, those of `torch.nn.LSTM` transposed.

    Attributes:
      features: H.
      reverse: run from the end.
      unroll: steps in one iteration of the compiled loop; 0 chooses by size.
      dtype: of the computation; None takes the common type of input and parameters.
    """

    gates = 4
    states = 2

    def cell(self, reverse, size):
        return Cell(lstm_cell, lstm_pull, reverse, _unroll(self.unroll, size))

    def biases(self, weights):
        return weights['input_bias'] + weights['recurrent_bias'], None


class GRU(_Recurrent):
    """Gated recurrent unit (Cho et al. 2014), reset after the product as in cuDNN.

    The carry is h [B, H]. Parameters: 'input_kernel' [D, 3H], 'recurrent_kernel' [H, 3H], 'input_bias' and
    'recurrent_bias' [3H]: 3H (D + H + 2) numbers, those of `torch.nn.GRU` transposed. Attributes as in `LSTM`.
    """

    gates = 3
    states = 1

    def cell(self, reverse, size):
        return Cell(gru_cell, gru_pull, reverse, _unroll(self.unroll, size))

    def biases(self, weights):
        return weights['input_bias'], weights['recurrent_bias']
