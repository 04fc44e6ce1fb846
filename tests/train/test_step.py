"""The step against an update written out by hand, and its guards."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.tasks import bind, classification
from bigjax.train.state import init_state
from bigjax.train.step import train_step
from tests import tiny

TX = optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9))
TASK = classification.softmax('x')


def setup(norm=False, dropout=0.0, ema=True):
    model = tiny.Net(norm, dropout)
    return bind(model), init_state(model, (jnp.zeros((1, 5)),), TX, 0, ema=ema)


def batch(count=12, seed=3):
    arrays = tiny.source(count, seed).arrays
    return {k: jnp.asarray(v) for k, v in arrays.items()}


def step(apply, **options):
    options = dict(apply=apply, loss=TASK.loss, tx=TX) | options
    return jax.jit(lambda state, batch: train_step(state, batch, **options))


def by_hand(params, batch):
    """Mean softmax cross entropy and its gradient of the two dense layers, in float64 NumPy."""
    w1, b1 = (np.asarray(params['hidden'][k], np.float64) for k in ('kernel', 'bias'))
    w2, b2 = (np.asarray(params['head'][k], np.float64) for k in ('kernel', 'bias'))
    x, y = np.asarray(batch['x'], np.float64), np.asarray(batch['label'])
    h = np.maximum(x @ w1 + b1, 0)
    z = h @ w2 + b2
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    dz = (p - np.eye(3)[y]) / len(y)
    dh = dz @ w2.T * (h > 0)
    return loss, {'head': {'kernel': h.T @ dz, 'bias': dz.sum(0)}, 'hidden': {'kernel': x.T @ dh, 'bias': dh.sum(0)}}


def test_two_steps_of_momentum_and_average_by_hand():
    apply, state = setup()
    run = step(apply, ema=0.9)
    params, ema = state.params, state.params
    trace = jax.tree.map(lambda p: np.zeros(p.shape), params)
    for number in range(2):
        data = batch(seed=number)
        loss, grads = by_hand(params, data)
        trace = jax.tree.map(lambda t, g: 0.9 * t + g, trace, grads)
        params = jax.tree.map(lambda p, t: np.asarray(p, np.float64) - 0.1 * t, params, trace)
        ema = jax.tree.map(lambda e, p: 0.9 * np.asarray(e, np.float64) + 0.1 * p, ema, params)
        state, metrics = run(state, data)
        total, count = metrics['loss']
        np.testing.assert_allclose(total / count, loss, rtol=1e-5)
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(metrics['grad_norm'][0], norm, rtol=1e-5)
    tiny.close(state.params, params, rtol=1e-4, atol=1e-6)
    tiny.close(state.ema, ema, rtol=1e-4, atol=1e-6)
    assert int(state.step) == 2 and int(state.halted) == -1


@pytest.mark.parametrize('micro', [2, 3, 12])
def test_accumulation_is_the_big_batch(micro):
    apply, state = setup()
    data = {**batch(), '_mask': jnp.asarray([1.0] * 5 + [0.0] * 3 + [1.0] * 4)}  # unequal weights a micro-batch
    whole, whole_metrics = step(apply)(state, data)
    parts, metrics = step(apply, accumulate=micro)(state, data)
    tiny.close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    tiny.close(metrics, whole_metrics, rtol=1e-5)


def test_the_randomness_of_a_step_is_its_number():
    apply, state = setup(dropout=0.5)
    run = step(apply)
    first, again = run(state, batch())[0], run(state, batch())[0]
    later = run(state.replace(step=jnp.int32(5)), batch())[0]
    assert tiny.equal(first.params, again.params) and not tiny.equal(first.params, later.params)


def test_batch_statistics_move_in_training_only():
    apply, state = setup(norm=True)
    after = step(apply)(state, batch())[0]
    x = np.asarray(batch()['x']) @ np.asarray(state.params['hidden']['kernel'])
    np.testing.assert_allclose(after.model_state['batch_stats']['norm']['mean'], 0.01 * x.mean(0), rtol=1e-4, atol=1e-6)
    assert apply(after.variables(), batch()['x'])[1] == {}


@pytest.mark.parametrize('where', ['x', 'params'])
def test_a_step_that_is_not_finite_changes_nothing_and_stays_so(where):
    apply, state = setup(norm=True)
    bad = batch()
    if where == 'x':
        bad['x'] = bad['x'].at[3, 1].set(jnp.nan)
    else:
        state = state.replace(params=jax.tree.map(lambda p: p * jnp.inf, state.params))
    run = step(apply, ema=0.9)
    first = state.replace(step=jnp.int32(7))
    after = run(run(first, bad)[0], batch())[0]
    assert int(after.halted) == 7 and int(after.step) == 7
    assert tiny.equal(after.replace(halted=first.halted), first)


@pytest.mark.parametrize('tx', [optax.sgd(3e38), optax.adam(0.1, eps=0.0), optax.sgd(3e38, momentum=0.9)])
def test_an_update_that_is_not_finite_is_not_applied(tx):
    """The loss and its gradients are finite: one of them is exactly zero, the others overflow with the rate."""
    apply, state = setup()
    state = state.replace(opt_state=tx.init(state.params))
    data = batch()
    data['x'] = data['x'].at[:, 0].set(0.0) * 100
    after, metrics = step(apply, tx=optax.with_extra_args_support(tx))(state, data)
    assert np.isfinite(metrics['loss'][0]) and int(after.halted) == 0 and int(after.step) == 0
    assert tiny.equal(after.replace(halted=state.halted), state)


def test_bfloat16_computes_low_and_keeps_float32():
    from bigjax.models.mlp import MLP
    model = MLP(features=(8,), num_classes=3, dtype='bfloat16')
    state = init_state(model, (jnp.zeros((1, 5)),), TX, 0, ema=False)
    after, metrics = step(bind(model))(state, batch())
    assert {x.dtype for x in jax.tree.leaves(after.params)} == {jnp.dtype('float32')}
    assert metrics['loss'][0].dtype == jnp.float32
    jaxpr = str(jax.make_jaxpr(lambda p: model.apply({'params': p}, batch()['x'], train=False))(state.params))
    assert 'bf16' in jaxpr
