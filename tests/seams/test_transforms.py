"""The seam `transforms`: wrappers of the optimizer, the first one innermost."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.train.state import init_variables
from tests import tiny


def only_large(tx):
    """Updates of small gradients are dropped; keeps a count of calls in its state."""
    def update(grads, state, params=None, **extra):
        inner, calls = state
        updates, inner = tx.update(grads, inner, params, **extra)
        return jax.tree.map(lambda u, g: jnp.where(jnp.abs(g) > 1e-3, u, 0.0), updates, grads), (inner, calls + 1)

    return optax.GradientTransformationExtraArgs(lambda params: (tx.init(params), jnp.int32(0)), update)


def halved(tx):
    return optax.chain(tx, optax.scale(0.5))


def wrapped(*transforms, **options):
    return dataclasses.replace(tiny.experiment(norm=False, dropout=0.0, augment=None, **options), transforms=transforms)


def test_a_wrapper_has_a_state_of_its_own_in_the_checkpoint(tmp_path):
    _, carry = tiny.train(tmp_path, [wrapped(only_large)])
    assert int(carry['state'].opt_state[1]) == 12


def test_the_first_is_the_innermost(tmp_path):
    """Half of an update of which the small parts were dropped, against the same by hand."""
    program = tiny.program([wrapped(only_large, halved, optimizer={'name': 'sgd', 'lr': 0.1})])
    params = init_variables(program.experiment.model, (jnp.zeros((1, 5)),), 0)['params']
    grads = jax.tree.map(lambda w: jnp.where(jnp.arange(w.size).reshape(w.shape) % 2, 1.0, 1e-4), params)
    updates, _ = program.tx.update(grads, program.tx.init(params), params, value=jnp.float32(1))
    for update, grad in zip(jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(update, np.where(np.asarray(grad) > 1e-3, -0.05, 0.0), rtol=1e-6)


def test_members_with_rates_of_their_own_are_wrapped_too(tmp_path):
    spec = {'name': 'sgd', 'lr': 0.1}
    _, both = tiny.train(tmp_path / 'both', [wrapped(halved, optimizer=spec)], optimizer=spec,
                         population_over='optimizer.lr=0.1 seed=0; optimizer.lr=0.2 seed=0')
    _, alone = tiny.train(tmp_path / 'alone', [wrapped(halved, optimizer={**spec, 'lr': 0.2})])
    tiny.close([x[1] for x in tiny.leaves(both['state'].params)], tiny.leaves(alone['state'].params), rtol=1e-5, atol=1e-6)
