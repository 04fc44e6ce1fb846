"""A member of a population is the run of its seed under every default generator of JAX."""
import jax
import numpy as np
import pytest

from tests import tiny


def trained(**changes):
    """The parameters after two steps with dropout and noise, and one evaluation's metrics."""
    p = tiny.program(**changes)
    carry, feed = p.init(), p.feed(0)
    state, totals = carry['state'], carry['totals']
    for step in range(2):
        state, totals, _ = p.train_steps(state, totals, feed.arrays, feed.at(step, 1))
    feed.close()
    return jax.tree.map(np.asarray, state.params), p.evaluation.run('test', state.variables())[0]['test/loss']


@pytest.mark.parametrize('generator', ['rbg', 'unsafe_rbg'])
def test_a_population_under_another_default_generator(generator):
    alone, loss = trained(seed=1)
    with jax.default_prng_impl(generator):
        again, same = trained(seed=1)
        members, losses = trained(seed=0, population=2)
    assert tiny.equal(again, alone) and same == loss
    tiny.close(jax.tree.map(lambda x: x[1], members), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses[1], loss[0], rtol=1e-5)
