"""The bound that saves the look at every update: extreme finite gradients through every optimizer that it covers."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.train import optimizers
from bigjax.train.update_bound import bounded

COVERED = [{'name': 'sgd', 'lr': 1e6, 'momentum': 0.9999},
           {'name': 'sgd', 'lr': 1e6, 'momentum': 0.9, 'nesterov': True, 'l2': 1.0},
           {'name': 'adam', 'lr': 1e6, 'eps': 1e-12}, {'name': 'adam', 'lr': 1e6, 'b1': 0.0, 'b2': 0.0, 'eps': 1e-12},
           {'name': 'adam', 'lr': 1.0, 'b1': 0.9999, 'b2': 0.9999, 'clip_norm': 1.0}, {'name': 'lion', 'lr': 1e6},
           {'name': 'adamw', 'lr': 1e6, 'eps': 1e-12, 'weight_decay': 1.0},
           {'name': 'sgd', 'lr': 0.1, 'max_norm': 2.0, 'l1': 1.0},
           {'name': 'adam', 'lr': 1e-3, 'schedule': {'name': 'cosine', 'warmup': '5%'}}]
TINY, LARGE = np.float32(1e-45), np.float32(6e18)  # a denormal; nine of the large ones have a norm of 1.8e19
PARTS = np.array([0.0, TINY, -TINY, 1e-38, 1e-20, 1.0, LARGE, -LARGE, LARGE], np.float32)


@pytest.mark.parametrize('spec', COVERED, ids=str)
def test_finite_gradients_give_finite_updates(spec):
    assert bounded(spec)
    rng = np.random.default_rng(0)
    params = {'w': jnp.asarray(rng.choice([0, 1e-38, 1, 1e18, -1e18], (3, 3)), jnp.float32)}
    tx, _ = optimizers.make(spec, params, total_steps=100)
    update, state = jax.jit(tx.update), tx.init(params)
    for _ in range(60):
        grads = {'w': jnp.asarray(rng.permutation(PARTS).reshape(3, 3) * rng.choice([0, 1], (3, 3)))}
        assert np.isfinite(np.sqrt(jnp.sum(jnp.square(grads['w']))))
        updates, state = update(grads, state, params, value=jnp.float32(1.0))
        assert np.isfinite(updates['w']).all()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('spec', [
    {'name': 'sgd', 'lr': 3e38}, {'name': 'adam', 'lr': 0.1, 'eps': 0.0}, {'name': 'adam', 'lr': 0.1, 'eps': 1e-30},
    {'name': 'adam', 'lr': 0.1, 'b2': 0.99999999}, {'name': 'lamb', 'lr': 0.1}, {'name': 'sgd', 'lr': 0.1, 'momentum': 1.0},
    {'name': 'sgd', 'lr': float('nan')}, {'name': 'sgd', 'lr': 0.1, 'unknown': 1}, {'name': 'sgd', 'lr': np.float32(0.1)},
    {'name': 'sgd', 'lr': 1.0, 'schedule': {'name': 'step', 'factor': 1e30}}, {'groups': ()}, {},
    optax.sgd(0.1)], ids=lambda spec: str(spec) if isinstance(spec, dict) else 'a transformation of its own')
def test_every_other_spec_is_looked_at(spec):
    assert not bounded(spec)
