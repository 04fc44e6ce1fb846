"""LSTM, GRU and the plain recurrence against their equations step by step in plain JAX, whose derivatives are JAX's own."""
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


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('unroll', tiers.first(2, [0, 1, 3]))
@pytest.mark.parametrize('cell', CELLS)
def test_values_and_gradients(cell, reverse, padded, unroll):
    layer, step, states = CELLS[cell]
    x = jax.random.normal(jax.random.key(0), (3, 7, 2))
    lengths = jnp.array([7, 4, 1]) if padded else jnp.array([7, 7, 7])
    module = layer(5, reverse=reverse, unroll=unroll, bias_init=jax.nn.initializers.normal(0.5))
    params = module.init(jax.random.key(1), x)['params']

    def value(f):
        def total(params, x):
            carry, y = f(params, x)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((carry, 2 * y))), (carry, y)
        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, x)

    mine = value(lambda params, x: module.apply({'params': params}, x, lengths=lengths if padded else None))
    theirs = value(lambda params, x: unrolled(step, states, params, x, lengths, reverse))
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('cell', CELLS)
def test_one_step_at_a_time_is_the_whole_sequence(cell):
    layer, _, _ = CELLS[cell]
    x = jax.random.normal(jax.random.key(0), (3, 6, 2))
    variables = layer(4).init(jax.random.key(1), x)
    (last, whole), carry = layer(4).apply(variables, x), None
    for t in range(6):
        carry, y = layer(4).apply(variables, carry, x[:, t], method='step')
        np.testing.assert_allclose(y, whole[:, t], rtol=1e-5, atol=1e-6)
    for one, other in zip(jax.tree.leaves(carry), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
