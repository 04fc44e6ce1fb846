"""An objective of two terms with a normaliser each: exact under accumulation, on meshes, summed explicitly, and in a padded
evaluation, against the formula in float64."""
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Evaluator, Experiment
from bigjax.tasks import Aux, Task, Term, mask, mean
from bigjax.train import nonfinite
from tests import tiny

SCALE, RATE = 0.3, 0.5


class Linear(nn.Module):
    """y = x w, without a bias."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, use_bias=False, name='w')(x)


def loss(apply, variables, batch, rng, train):
    """The first output of examples with a weight, and the other two where they are given: [B] and [B, 2]."""
    y, state = apply(variables, batch['x'], train=train, rng=rng)
    error = jnp.square(y - batch['target'])
    rest = batch['given'] * mask(batch)[:, None]
    return {'first': Term(error[:, 0], batch['weight'] * mask(batch)), 'rest': Term(error[:, 1:], rest, SCALE)}, Aux(state, {})


TASK = Task(lambda batch: (batch['x'],), loss, lambda apply, variables, batch, rng: apply(variables, batch['x'])[0])


def source(count, seed):
    rng = np.random.default_rng(seed)
    given = rng.random((count, 2)) < np.linspace(0.05, 0.9, count)[:, None]  # unequal in every part of a batch
    numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return ArraySource({'x': numbers(count, 5), 'target': numbers(count, 3),
                        'weight': rng.uniform(0, 2, count).astype(np.float32), 'given': given.astype(np.float32)})


def program(**changes):
    data = Data(source(32, 0), {'test': source(13, 1)}, shuffle=False)
    experiment = Experiment(Linear(), TASK, data, {'name': 'sgd', 'lr': RATE}, {'test': Evaluator('test')})
    return tiny.program([experiment], **{'batch_size': 32, 'ema': 0.0, 'eval_batch_size': 8, **changes})


def by_formula(w, arrays):
    """(objective, {term: mean}, gradient) in float64."""
    x, target, weight, given = (np.asarray(arrays[k], np.float64) for k in ('x', 'target', 'weight', 'given'))
    error = x @ w - target
    first = (weight * error[:, 0] ** 2).sum() / weight.sum()
    rest = (given * error[:, 1:] ** 2).sum() / given.sum()
    slope = np.concatenate([weight[:, None] / weight.sum(), SCALE * given / given.sum()], axis=1) * 2 * error
    return first + SCALE * rest, {'first': first, 'rest': rest}, x.T @ slope


@pytest.mark.parametrize('options', [
    {}, {'accumulate': 4}, {'mesh': 'data:4', 'accumulate': 2}, {'mesh': 'data:2,fsdp:2', 'accumulate': 4}, {'population': 2},
    {'mesh': 'data:4', 'reduce_dtype': 'float32'}, {'mesh': 'data:2', 'reduce_dtype': 'float32', 'accumulate': 4}], ids=str)
def test_a_step_is_the_formula(options):
    p = program(**options)
    carry, feed = p.init(), p.feed(0)
    w = np.asarray(carry['state'].params['w']['kernel'], np.float64)
    state, totals, _ = p.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(0, 1))
    for m in range(p.members or 1):
        own = lambda x, m=m: np.asarray(x) if p.members is None else np.asarray(x)[m]
        value, terms, gradient = by_formula(own(w), p.experiment.data.train.arrays)
        np.testing.assert_allclose(own(mean(totals['loss'])), value, rtol=1e-5)
        for name, expected in terms.items():
            np.testing.assert_allclose(own(mean(totals[name])), expected, rtol=1e-5)
        np.testing.assert_allclose(own(state.params['w']['kernel']), own(w) - RATE * gradient, rtol=1e-5, atol=1e-6)
    feed.close()


def test_sums_over_steps_are_the_objective_of_all_their_batches():
    p = program(batch_size=8)
    carry, feed = p.init(), p.feed(0)
    start = np.asarray(carry['state'].params['w']['kernel'], np.float64)
    state, totals = carry['state'], carry['totals']
    still = state.replace(params=jax.tree.map(jnp.copy, state.params))
    for step in range(4):
        again = jax.tree.map(jnp.copy, still).replace(step=jnp.int32(step))
        _, totals, _ = p.train_steps(again, totals, feed.arrays, feed.at(step, 1))
    value, terms, _ = by_formula(start, p.experiment.data.train.arrays)
    np.testing.assert_allclose(mean(totals['loss']), value, rtol=1e-5)
    np.testing.assert_allclose(mean(totals['rest']), terms['rest'], rtol=1e-5)
    feed.close()


@pytest.mark.parametrize('options', [{'accumulate': 4}, {'accumulate': 2, 'parts': 2, 'reduce_dtype': 'float32'}], ids=str)
def test_a_replay_has_the_objective_of_the_step(options):
    p = program()
    state, arrays = p.init()['state'], p.experiment.data.train.arrays
    value, _, _ = by_formula(np.asarray(state.params['w']['kernel'], np.float64), arrays)
    found = nonfinite.explain(state, arrays, apply=p.apply, loss=loss, tx=p.tx, **options)
    assert float(re.match(r'nothing: the loss is (\S+) and', found)[1]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize('mesh', ['data:1', 'data:4'])
def test_a_padded_evaluation_is_the_formula(mesh):
    p = program(mesh=mesh)
    variables = p.init()['state'].variables()
    found, _ = p.evaluation.run('test', variables)
    w = np.asarray(variables['params']['w']['kernel'], np.float64)
    value, terms, _ = by_formula(w, p.experiment.data.evals['test'].arrays)
    np.testing.assert_allclose(found['test/loss'], [value], rtol=1e-5)
    np.testing.assert_allclose(found['test/first'], [terms['first']], rtol=1e-5)
    np.testing.assert_allclose(found['test/rest'], [terms['rest']], rtol=1e-5)
