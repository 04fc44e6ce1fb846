"""LSTM, GRU and the plain recurrence against their equations step by step in plain JAX, whose derivatives are JAX's own."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.recurrent import GRU, LSTM, RNN
from tests import tiers


def lstm(p, carry, x):
    i, f, g, o = jnp.split(x @ p['input_kernel'] + p['input_bias'] + carry[0] @ p['recurrent_kernel'] + p['recurrent_bias'],
                           4, axis=-1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(p, carry, x):
    a, b = x @ p['input_kernel'] + p['input_bias'], carry[0] @ p['recurrent_kernel'] + p['recurrent_bias']
    (ar, az, an), (br, bz, bn) = jnp.split(a, 3, axis=-1), jnp.split(b, 3, axis=-1)
    z = jax.nn.sigmoid(az + bz)
    return (1 - z) * jnp.tanh(an + jax.nn.sigmoid(ar + br) * bn) + z * carry[0],


def rnn(p, carry, x):
    return jnp.tanh(x @ p['input_kernel'] + p['input_bias'] + carry[0] @ p['recurrent_kernel'] + p['recurrent_bias']),


CELLS = {'lstm': (LSTM, lstm, 2), 'gru': (GRU, gru, 1), 'rnn': (RNN, rnn, 1)}


def unrolled(step, states, params, x, lengths, reverse):
    """Last carry and outputs by a Python loop; past a sequence's length the carry stays and the output is zero."""
    batch, time, _ = x.shape
    carry = (jnp.zeros((batch, params['recurrent_kernel'].shape[0])),) * states
    outputs = [None] * time
    for t in reversed(range(time)) if reverse else range(time):
        alive = (t < lengths)[:, None]
        carry = tuple(jnp.where(alive, new, old) for new, old in zip(step(params, carry, x[:, t]), carry, strict=True))
        outputs[t] = jnp.where(alive, carry[0], 0)
    return carry, jnp.stack(outputs, axis=1)


def drawn(layer, x):
    """Variables in which biases are as large as weights."""
    shapes, rng = jax.eval_shape(layer.init, jax.random.key(0), x), np.random.default_rng(1)
    return jax.tree.map(lambda p: rng.normal(0, 0.5, p.shape).astype(p.dtype), shapes)


def value(f, params, x):
    """The results of `f`, and the gradients of a function of them."""
    def total(params, x):
        carry, y = f(params, x)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((carry, 2 * y))), (carry, y)
    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, x)


@functools.cache
def by_equations(cell, reverse, padded):
    """(parameters, input [3, 7, 2], lengths of its rows, `value` of the equations)."""
    layer, step, states = CELLS[cell]
    x = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    lengths = np.array([7, 4, 1]) if padded else np.array([7, 7, 7])
    params = drawn(layer(5), x)['params']
    return params, x, lengths, value(lambda params, x: unrolled(step, states, params, x, lengths, reverse), params, x)


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('unroll', tiers.first(2, [0, 1, 3]))
@pytest.mark.parametrize('cell', CELLS)
def test_values_and_gradients(cell, reverse, padded, unroll):
    params, x, lengths, theirs = by_equations(cell, reverse, padded)
    module = CELLS[cell][0](5, reverse=reverse, unroll=unroll)
    mine = value(lambda params, x: module.apply({'params': params}, x, lengths=lengths if padded else None), params, x)
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('cell', CELLS)
def test_one_step_at_a_time_is_the_whole_sequence(cell):
    layer, _, _ = CELLS[cell]
    x = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    variables = drawn(layer(4), x)
    (last, whole), carry = jax.jit(layer(4).apply)(variables, x), None
    step = jax.jit(lambda carry, x: layer(4).apply(variables, carry, x, method='step'))
    for t in range(6):
        carry, y = step(carry, x[:, t])
        np.testing.assert_allclose(y, whole[:, t], rtol=1e-5, atol=1e-6)
    for one, other in zip(jax.tree.leaves(carry), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
