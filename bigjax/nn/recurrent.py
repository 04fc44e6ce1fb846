"""LSTM, GRU and the plain recurrence over whole sequences, with the equations and parameter counts of cuDNN and PyTorch.

Glossary: B batch · T time · D input width · H features · G all gates' features, 4H, 3H or H. Gates are side by side in the
last axis of every parameter: LSTM in the order input, forget, cell, output; GRU in the order reset, update, new.

Gates and step of a cell take the axis of features: -1 where arrays of a step are [B, H], -2 where they are [H, B].
"""
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.nn import cpu
from bigjax.sharding import logical

Carry = Any
SMALL_STEP = 4096  # numbers in the state of a batch


def by_gate(init: Callable, gates: int) -> Callable:
    """An initializer that draws each gate's block [in, H] of a parameter [in, gates * H] on its own."""

    def draw(rng, shape, dtype=jnp.float32):
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(key, block, dtype) for key in jax.random.split(rng, gates)], axis=-1)

    return draw


class Cell(NamedTuple):
    """A recurrence for `run`: what is elementwise in one step, beside its products. A carry is a tuple with h first.

    Attributes:
      gates: `gates(from_input, from_state, axis)`: the gates after their nonlinearities, given the two products with biases.
      step: `step(carry, gates, axis) -> carry`.
      pull: the derivative, `pull(dcarry, carry, gates, new carry) -> (by the products, rest)`: by the state's product
        and by the input's, once where they are equal, and what reaches the carry before past the products.
    """

    gates: Callable
    step: Callable
    pull: Callable


def lstm_gates(from_input, from_state, axis=-1):
    """All gates side by side; sigmoid(x) = (tanh(x / 2) + 1) / 2 makes one operation of the four."""
    x = from_input + from_state
    size = x.shape[axis] // 4
    position = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim + axis)
    scale = jnp.where((position >= 2 * size) & (position < 3 * size), 1.0, 0.5).astype(x.dtype)
    return scale * jnp.tanh(scale * x) + (1 - scale)


def lstm_step(carry, gates, axis=-1):
    i, f, g, o = jnp.split(gates, 4, axis)
    c = f * carry[1] + i * g
    return o * jnp.tanh(c), c


def lstm_pull(dcarry, carry, gates, new):
    dh, dc = dcarry
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    t = jnp.tanh(new[1])
    dc = dc + dh * o * (1 - t * t)
    by_gate = [dc * g * i * (1 - i), dc * carry[1] * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)]
    d = jnp.concatenate(by_gate, axis=-1)
    return (d,), (jnp.zeros_like(dh), dc * f)


def gru_gates(from_input, from_state, axis=-1):
    """r, z, n and the part of the state's product that r scales."""
    xr, xz, xn = jnp.split(from_input, 3, axis)
    hr, hz, hn = jnp.split(from_state, 3, axis)
    r = nn.sigmoid(xr + hr)
    return r, nn.sigmoid(xz + hz), jnp.tanh(xn + r * hn), hn


def gru_step(carry, gates, axis=-1):
    _, z, n, _ = gates
    return n + z * (carry[0] - n),


def gru_pull(dcarry, carry, gates, _):
    (dh,), (h,), (r, z, n, hn) = dcarry, carry, gates
    dn = dh * (1 - z) * (1 - n * n)
    dr, dz = dn * hn * r * (1 - r), dh * (h - n) * z * (1 - z)
    by_gate = jnp.concatenate([dr, dz, dn * r], axis=-1), jnp.concatenate([dr, dz, dn], axis=-1)
    return by_gate, (dh * z,)


def rnn_gates(from_input, from_state, axis=-1):
    return jnp.tanh(from_input + from_state)


def rnn_step(carry, gates, axis=-1):
    return gates,


def rnn_pull(dcarry, carry, gates, _):
    (dh,), (h,) = dcarry, carry
    return (dh * (1 - gates * gates),), (jnp.zeros_like(h),)


RNN_CELL = Cell(rnn_gates, rnn_step, rnn_pull)
LSTM_CELL = Cell(lstm_gates, lstm_step, lstm_pull)
GRU_CELL = Cell(gru_gates, gru_step, gru_pull)


class Loop(NamedTuple):
    """How `run` is compiled: from the end, and how many steps in one iteration."""

    reverse: bool
    unroll: int


def _freeze(alive, new, old):
    return new if alive is None else jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old)


def _apart(f):
    """On a CPU what is elementwise is kept apart from the slicing of its inputs, with which it is not vectorised."""
    return cpu.stored(f) if cpu.kernels('recurrent') else f


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(cell: Cell, loop: Loop, from_input_TxBxG, alive_TxBx1, carry: tuple, kernel_HxG, input_bias_G, state_bias_G):
    """The loop: (last carry, h of every step [T, B, H]). Where `alive` is False the carry stays as it was.

    Its derivative keeps the gates, and makes the gradient of the kernel one product after the loop instead of a sum of
    small ones inside it.
    """
    return _run_forward(cell, loop, from_input_TxBxG, alive_TxBx1, carry, kernel_HxG, input_bias_G, state_bias_G)[0]


def _run_forward(cell, loop, from_input, alive, carry, kernel, *biases):
    gates_of = _apart(lambda biases, a, b: cell.gates(a + biases[0], b + biases[1]))
    advance = _apart(cell.step)

    def step(carry, inputs):
        from_input, alive = inputs
        gates = gates_of(biases, from_input, carry[0] @ kernel)
        new = _freeze(alive, advance(carry, gates), carry)
        return new, (new, gates)

    last, (carries, gates) = lax.scan(step, carry, (from_input, alive), reverse=loop.reverse, unroll=loop.unroll)
    return (last, carries[0]), (alive, carry, carries, gates, kernel, biases)


def _run_backward(cell, loop, residuals, cotangents):
    alive, first, carries, gates, kernel, _ = residuals
    dlast, dh_TxBxH = cotangents

    def shift(first, rest):
        return jnp.concatenate([rest[1:], first[None]] if loop.reverse else [first[None], rest[:-1]])

    before = jax.tree.map(shift, first, carries)
    pull, turned_GxH = _apart(cell.pull), _apart(jnp.transpose)(kernel)

    def step(dcarry, inputs):
        dh, alive, before, after, gates = inputs
        dcarry = (dcarry[0] + dh, *dcarry[1:])
        of_products, rest = pull(dcarry, before, gates, after)
        new = _freeze(alive, (of_products[0] @ turned_GxH + rest[0], *rest[1:]), dcarry)
        return new, _freeze(alive, of_products, jax.tree.map(jnp.zeros_like, of_products))

    dfirst, of_products = lax.scan(
        step, dlast, (dh_TxBxH, alive, before, carries, gates), reverse=not loop.reverse, unroll=loop.unroll)
    dstate_bias, dinput_bias = (a.sum((0, 1)) for a in (of_products[0], of_products[-1]))
    if logical.batch_is_split():
        dkernel = jnp.einsum('TBH,TBG->HG', before[0], of_products[0])
    else:
        dkernel = before[0].reshape(-1, kernel.shape[0]).T @ of_products[0].reshape(-1, kernel.shape[1])
    return of_products[-1], None, dfirst, dkernel, dinput_bias, dstate_bias


run.defvjp(_run_forward, _run_backward)


def features_first(cell: Cell, reverse: bool, from_input_TxBxG, alive_TxBx1, carry: tuple, kernel_HxG, input_bias_G,
                   state_bias_G):
    """The loop of `run` over arrays [H, B] and with JAX's own derivative: with few features in the last axis, a CPU's vector
    registers are half empty."""
    turned = jax.tree.map(lambda a: jnp.swapaxes(a, -1, -2), (from_input_TxBxG, alive_TxBx1, carry))
    from_input_TxGxB, alive_Tx1xB, carry = turned
    from_input_TxGxB = from_input_TxGxB + input_bias_G[:, None]

    def step(carry, inputs):
        from_input, alive = inputs
        gates = cell.gates(from_input, kernel_HxG.T @ carry[0] + state_bias_G[:, None], -2)
        new = _freeze(alive, cell.step(carry, gates, -2), carry)
        return new, new[0]

    last, h_TxHxB = lax.scan(step, carry, (from_input_TxGxB, alive_Tx1xB), reverse=reverse, unroll=2)
    return jax.tree.map(lambda a: jnp.swapaxes(a, -1, -2), (last, h_TxHxB))


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
        x_TxBxD = x_BxTxD.swapaxes(0, 1)
        rows = x_TxBxD if logical.batch_is_split() else x_TxBxD.reshape(time * batch, width)
        from_input = (rows @ weights['input_kernel']).reshape(time, batch, -1)
        alive = None if lengths is None else jnp.arange(time)[:, None, None] < lengths[None, :, None]
        reverse = self.reverse if reverse is None else reverse
        small = isinstance(batch, int) and batch * self.features <= SMALL_STEP
        if small and not self.unroll and cpu.kernels('recurrent') and not logical.batch_is_split():
            loop = partial(features_first, self.cell, reverse)
        else:  # a small step costs more to dispatch than to compute: several in one iteration
            loop = partial(run, self.cell, Loop(reverse, self.unroll or (8 if small else 1)))
        carry, y_TxBxH = loop(from_input, alive, carry, weights['recurrent_kernel'], weights['input_bias'],
                              weights['recurrent_bias'])
        if alive is not None:
            y_TxBxH = jnp.where(alive, y_TxBxH, 0)
        return self._public(carry), y_TxBxH.swapaxes(0, 1)

    def step(self, carry, x_BxD):
        """One step with the same parameters, for decoding: (carry or None, [B, D]) -> (carry, y [B, H])."""
        x_BxD, carry, weights = self._prepare(x_BxD, carry)
        gates = self.cell.gates(x_BxD @ weights['input_kernel'] + weights['input_bias'],
                                carry[0] @ weights['recurrent_kernel'] + weights['recurrent_bias'])
        carry = self.cell.step(carry, gates)
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


class RNN(_Recurrent):
    """The plain recurrence h = tanh(W x + U h + b) (Elman 1990).

    The carry is h [B, H]. Parameters: 'input_kernel' [D, H], 'recurrent_kernel' [H, H], 'input_bias' and 'recurrent_bias' [H]:
    H (D + H + 2) numbers, those of `torch.nn.RNN` transposed. Attributes as in `LSTM`.
    """

    cell = RNN_CELL
    gates = 1
    states = 1
