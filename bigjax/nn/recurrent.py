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

from bigjax.nn.cpu import add_bias, column_sums, on_cpu, stored

Carry = Any


def by_gate(init: Callable, gates: int) -> Callable:
    """An initializer that draws each gate's block [in, H] of a parameter [in, gates * H] on its own."""

    def draw(rng, shape, dtype=jnp.float32):
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(key, block, dtype) for key in jax.random.split(rng, gates)], axis=-1)

    return draw


class Cell(NamedTuple):
    """A recurrence for `run`: elementwise equations beside one product a step. A carry is a tuple with h first.

    The equations work on one step and on all of them at once.

    Attributes:
      step: `step(carry, from_input, from_state) -> carry`, given the two products with their biases.
      factors: `factors(carry, from_input, from_state, new carry)`: what the derivative of the step multiplies by.
      pull: `pull(dcarry, factors) -> (of_input, of_state, rest)`: the derivatives by both products, and what reaches
        the carry before the step past the products.
    """

    step: Callable
    factors: Callable
    pull: Callable


def lstm_step(carry, from_input, from_state):
    i, f, g, o = jnp.split(from_input + from_state, 4, axis=-1)
    c = nn.sigmoid(f) * carry[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def lstm_factors(carry, from_input, from_state, new):
    i, f, g, o = jnp.split(from_input + from_state, 4, axis=-1)
    i, f, g, o, t = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o), jnp.tanh(new[1])
    by_gate = [g * i * (1 - i), carry[1] * f * (1 - f), i * (1 - g * g), t * o * (1 - o)]
    return jnp.concatenate(by_gate, axis=-1), o * (1 - t * t), f


def lstm_pull(dcarry, factors):
    (dh, dc), (by_gate, c_by_h, c_by_c) = dcarry, factors
    dc = dc + dh * c_by_h
    d = jnp.concatenate([dc, dc, dc, dh], axis=-1) * by_gate
    return d, d, (jnp.zeros_like(dh), dc * c_by_c)


def gru_step(carry, from_input, from_state):
    h, = carry
    xr, xz, xn = jnp.split(from_input, 3, axis=-1)
    hr, hz, hn = jnp.split(from_state, 3, axis=-1)
    z = nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + nn.sigmoid(xr + hr) * hn)
    return n + z * (h - n),


def gru_factors(carry, from_input, from_state, _):
    xr, xz, xn = jnp.split(from_input, 3, axis=-1)
    hr, hz, hn = jnp.split(from_state, 3, axis=-1)
    r, z = nn.sigmoid(xr + hr), nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    by_n = (1 - z) * (1 - n * n)
    by_r, by_z = by_n * hn * r * (1 - r), (carry[0] - n) * z * (1 - z)
    return jnp.concatenate([by_r, by_z, by_n], axis=-1), jnp.concatenate([by_r, by_z, by_n * r], axis=-1), z


def gru_pull(dcarry, factors):
    (dh,), (of_input, of_state, h_by_h) = dcarry, factors
    d = jnp.concatenate([dh, dh, dh], axis=-1)
    return d * of_input, d * of_state, (dh * h_by_h,)


LSTM_CELL = Cell(lstm_step, lstm_factors, lstm_pull)
GRU_CELL = Cell(gru_step, gru_factors, gru_pull)


def _freeze(alive, new, old):
    return new if alive is None else jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old)


class Loop(NamedTuple):
    """How `run` is compiled: from the end, and how many steps in one iteration."""

    reverse: bool
    unroll: int


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(cell: Cell, loop: Loop, from_input_TxBxG, alive_TxBx1, carry: tuple, kernel_HxG, bias_G):
    """The loop: (last carry, h of every step [T, B, H]). Where `alive` is False the carry stays as it was.

    What of its derivative does not wait for the step after, and the gradient of the kernel, are computed for all steps
    at once, as large operations outside the loop.
    """
    return _run_forward(cell, loop, from_input_TxBxG, alive_TxBx1, carry, kernel_HxG, bias_G)[0]


def _run_forward(cell, loop, from_input, alive, carry, kernel, bias):
    # On a CPU what is elementwise is kept apart from the slicing of the inputs, with which it is not vectorised.
    advance = stored(cell.step) if on_cpu() else cell.step

    def step(carry, inputs):
        from_input, alive = inputs
        from_state = carry[0] @ kernel + bias
        new = _freeze(alive, advance(carry, from_input, from_state), carry)
        return new, (new, from_state)

    last, (carries, from_state) = lax.scan(
        step, carry, (from_input, alive), reverse=loop.reverse, unroll=loop.unroll)
    return (last, carries[0]), (from_input, from_state, alive, carry, carries, kernel, bias)


def _run_backward(cell, loop, residuals, cotangents):
    from_input, from_state, alive, first, carries, kernel, bias = residuals
    dlast, dh_TxBxH = cotangents

    def shift(first, rest):
        return jnp.concatenate([rest[1:], first[None]] if loop.reverse else [first[None], rest[:-1]])

    before = jax.tree.map(shift, first, carries)
    factors = cell.factors(before, from_input, from_state, carries)
    pull, turned_GxH = (stored(cell.pull), stored(jnp.transpose)(kernel)) if on_cpu() else (cell.pull, kernel.T)

    def step(dcarry, inputs):
        dh, alive, factors = inputs
        dcarry = (dcarry[0] + dh, *dcarry[1:])
        _, of_state, rest = pull(dcarry, factors)
        return _freeze(alive, (of_state @ turned_GxH + rest[0], *rest[1:]), dcarry), dcarry

    dfirst, dcarries = lax.scan(step, dlast, (dh_TxBxH, alive, factors), reverse=not loop.reverse, unroll=loop.unroll)
    of_input, of_state, _ = cell.pull(dcarries, factors)
    of_input, of_state = _freeze(alive, (of_input, of_state), (0.0, 0.0))
    of_state_MxG = of_state.reshape(-1, of_state.shape[-1])
    dkernel = before[0].reshape(-1, kernel.shape[0]).T @ of_state_MxG
    return of_input, None, dfirst, dkernel, column_sums(of_state_MxG, bias)


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

    cell = None  # its equations
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
        x_MxD = x_BxTxD.swapaxes(0, 1).reshape(time * batch, width)
        from_input = add_bias(x_MxD @ weights['input_kernel'], weights['input_bias']).reshape(time, batch, -1)
        alive = None if lengths is None else jnp.arange(time)[:, None, None] < lengths[None, :, None]
        loop = Loop(self.reverse if reverse is None else reverse, self._unroll(batch))
        carry, y_TxBxH = run(self.cell, loop, from_input, alive, carry, weights['recurrent_kernel'],
                             weights['recurrent_bias'])
        if alive is not None:
            y_TxBxH = jnp.where(alive, y_TxBxH, 0)
        return self._public(carry), y_TxBxH.swapaxes(0, 1)

    def _unroll(self, batch: int) -> int:
        """Small steps cost more to dispatch than to compute: several in one iteration."""
        return self.unroll or (8 if batch * self.features <= 4096 else 1)

    def step(self, carry, x_BxD):
        """One step with the same parameters, for decoding: (carry or None, [B, D]) -> (carry, y [B, H])."""
        x_BxD, carry, weights = self._prepare(x_BxD, carry)
        from_input = x_BxD @ weights['input_kernel'] + weights['input_bias']
        carry = self.cell.step(carry, from_input, carry[0] @ weights['recurrent_kernel'] + weights['recurrent_bias'])
        return self._public(carry), carry[0]


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

    cell = LSTM_CELL
    gates = 4
    states = 2


class GRU(_Recurrent):
    """Gated recurrent unit (Cho et al. 2014), reset after the product as in cuDNN.

    The carry is h [B, H]. Parameters: 'input_kernel' [D, 3H], 'recurrent_kernel' [H, 3H], 'input_bias' and
    'recurrent_bias' [3H]: 3H (D + H + 2) numbers, those of `torch.nn.GRU` transposed. Attributes as in `LSTM`.
    """

    cell = GRU_CELL
    gates = 3
    states = 1
