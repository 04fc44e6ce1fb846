"""What a model is called with and what it gives back: intermediates, caches, frozen trees, one sample for each key."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Evaluator, Experiment
from bigjax.tasks import FROZEN, LOSSES, Aux, Task, Term, bind, mask
from bigjax.train.state import init_state
from bigjax.train.step import train_step
from tests import tiny

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def test_intermediates_are_captured_in_evaluation_and_beside_the_training_state():
    model = tiny.Net()
    apply, variables = bind(model), model.init(jax.random.key(0), X, train=False)
    out, changed = apply(variables, X, mutable=('intermediates',), capture_intermediates=True)
    (hidden,) = changed['intermediates']['hidden']['__call__']
    kernel, bias = (variables['params']['hidden'][k] for k in ('kernel', 'bias'))
    np.testing.assert_allclose(hidden, X @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out, apply(variables, X)[0])
    assert set(changed) == {'intermediates'} and apply(variables, X)[1] == {}
    rng = jax.random.key(1)
    _, changed = apply(variables, X, train=True, rng=rng, mutable='intermediates', capture_intermediates=True)
    assert set(changed) == {'intermediates', 'batch_stats'}


class Counts(nn.Module):
    """A cache that counts the calls, and adds their number to the output."""

    @nn.compact
    def __call__(self, x, *, train):
        calls = self.variable('cache', 'calls', lambda: jnp.zeros((), jnp.int32))
        calls.value += 1
        return x + calls.value


def test_a_cache_is_an_argument_and_a_result():
    apply, variables = bind(Counts()), {'cache': {'calls': jnp.int32(0)}}
    for call in (1, 2, 3):
        out, changed = apply(variables, X, mutable=('cache',))
        variables = {**variables, **changed}
        np.testing.assert_allclose(out, X + call)
    assert int(variables['cache']['calls']) == 3


class Student(nn.Module):
    """A layer that reads a frozen table, and adds a loss of its own."""

    @nn.compact
    def __call__(self, x, *, train):
        y = nn.Dense(3, name='head')(x) + self.get_variable(FROZEN, 'table')
        self.sow(LOSSES, 'small', jnp.mean(jnp.square(y)))
        return y


@pytest.mark.parametrize('accumulate', [1, 3])
def test_a_frozen_tree_reaches_the_model_and_stays(accumulate):
    frozen = {'table': jnp.asarray([1.0, -2.0, 3.0])}

    def loss(apply, variables, batch, rng, train):
        y, state = apply(variables, batch['x'], train=train, rng=rng)
        return {'square': Term(jnp.sum(jnp.square(y), axis=1), mask(batch))}, Aux(state, {})

    model, tx = Student(), optax.with_extra_args_support(optax.sgd(0.1))
    state = init_state(tiny.Net(norm=False), (X,), tx, 0, ema=False)
    params = {'head': {'kernel': jnp.ones((5, 3)) / 7, 'bias': jnp.zeros(3)}}
    state = state.replace(params=params, opt_state=tx.init(params))
    step = jax.jit(lambda state, batch, frozen: train_step(state, batch, apply=bind(model), loss=loss, tx=tx, frozen=frozen,
                                                           accumulate=accumulate))
    after, metrics = step(state, {'x': X}, frozen)
    y = X @ np.asarray(state.params['head']['kernel']) + np.asarray(frozen['table'])
    np.testing.assert_allclose(metrics['loss'][0] / metrics['loss'][1], (y ** 2).sum(1).mean(), rtol=1e-5)
    gradient = 2 * y.mean(0) + 2 * y.mean(0) / 3  # of the loss, and of what the layer sows
    np.testing.assert_allclose(after.params['head']['bias'], -0.1 * gradient, rtol=1e-5)
    assert set(after.model_state) == set() and set(after.params) == {'head'}


def sampler(apply, variables, batch, rng):
    """The output with noise from the key."""
    return apply(variables, batch['x'])[0] + jax.random.normal(rng, (len(batch['x']), 3))


def test_a_sampled_prediction_differs_from_batch_to_batch_and_from_seed_to_seed():
    """All examples are the same: without a key of its own every batch would get the same samples."""
    arrays = {'x': np.ones((12, 5), np.float32)}
    evaluator = Evaluator('test', compute=lambda outputs, examples: {'drawn': outputs}, keep=('x',), sums=False)
    base = tiny.experiment(norm=False)
    data = Data(base.data.train, {'test': ArraySource(arrays)})
    task = Task(base.task.inputs, base.task.loss, sampler)
    experiment = Experiment(base.model, task, data, base.optimizer, {'test': evaluator})
    drawn = []
    for seed in (0, 0, 1):
        p = tiny.program([experiment], seed=seed, eval_batch_size=4)
        variables = jax.tree.map(jnp.zeros_like, p.init()['state'].variables())
        drawn.append(p.evaluation.run('test', variables)[1][0]['drawn'])
    assert len(np.unique(drawn[0])) == drawn[0].size
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.intersect1d(drawn[0], drawn[2]).size
