"""Averaged parameters against float64 formulas, and the evaluation of a run at the averaged iterate."""
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.runs.progress import Progress
from bigjax.train import averages, optimizers
from tests import tiny
from tests.refused import refused

STEPS = 12
START = np.asarray([1.0, -2.0, 0.5])
GRADS = np.random.default_rng(0).normal(size=(STEPS, 3))


def train(spec):
    """(parameters after each step, parameters to evaluate with after each step)."""
    tx, _ = optimizers.make({'name': 'sgd', 'lr': 0.1, **spec}, {'w': START}, total_steps=STEPS)
    params = {'w': jnp.asarray(START, jnp.float32)}
    state, history, evaluated = tx.init(params), [], []
    for grad in GRADS:
        updates, state = tx.update({'w': jnp.asarray(grad, jnp.float32)}, state, params, value=1.0)
        params = optax.apply_updates(params, updates)
        history.append(params['w'])
        evaluated.append(optimizers.eval_params(state, params)['w'])
    return np.stack(history), np.stack(evaluated)


def sgd_path():
    return START - 0.1 * np.cumsum(GRADS, axis=0)


@pytest.mark.parametrize(('start', 'every'), [(1, 1), (4, 1), (3, 2), (5, 3)])
def test_swa_is_the_mean_of_the_parameters_from_its_start(start, every):
    history, evaluated = train({'swa': {'start': start, 'every': every}})
    path = sgd_path()
    np.testing.assert_allclose(history, path, rtol=1e-5, atol=1e-6)  # training itself is unchanged
    for t in range(1, STEPS + 1):
        models = [path[s - 1] for s in range(start, t + 1, every)]
        np.testing.assert_allclose(evaluated[t - 1], np.mean(models, axis=0) if models else path[t - 1], rtol=1e-5, atol=1e-6)


def test_lookahead_by_its_algorithm():
    history, evaluated = train({'lookahead': {'period': 3, 'step_size': 0.4}})
    slow = fast = START
    for t, grad in enumerate(GRADS, 1):
        fast = fast - 0.1 * grad
        if t % 3 == 0:
            slow = slow + 0.4 * (fast - slow)
            fast = slow
        np.testing.assert_allclose(history[t - 1], fast, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(evaluated[t - 1], slow, rtol=1e-5, atol=1e-6)


def test_a_moving_average_in_a_transformation_of_ones_own():
    _, evaluated = train({'name': None, 'lr': None, 'fn': averages.moving(optax.sgd(0.1), 0.9)})
    average = START
    for t, w in enumerate(sgd_path()):
        average = 0.9 * average + 0.1 * w
        np.testing.assert_allclose(evaluated[t], average, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('spec', [{'lookahead': {'period': 2}, 'swa': {'start': 3}},
                                  {'name': 'schedule_free_sgd', 'swa': {'start': 3}}], ids=str)
def test_averages_of_averages_are_refused(spec):
    with refused('optimizer/conflict'):
        train(spec)


@pytest.mark.parametrize('population', [1, 2])
@pytest.mark.parametrize('spec', [
    {'name': 'schedule_free_adamw', 'lr': 0.1}, {'name': 'sgd', 'lr': 0.1, 'swa': {'start': 6}},
    {'name': 'sgd', 'lr': 0.1, 'lookahead': {'period': 5}}], ids=lambda spec: ' '.join(spec))
def test_a_run_is_evaluated_at_the_averaged_iterate(tmp_path, spec, population):
    """After 12 steps the recorded test loss is the one of the average, which is elsewhere than where the run trains."""
    experiment = tiny.experiment(optimizer=spec)
    program = tiny.program([experiment], steps=STEPS, ema=0.0, population=population)
    tiny.run(program, tmp_path, Progress(stream=io.StringIO()))
    state = program.restore(tmp_path / 'checkpoints' / str(STEPS))['state']
    reported = program.variables({'state': state, 'best': None})['params']
    records = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    recorded = next(record for record in reversed(records) if 'test/loss' in record)
    test = experiment.data.evals['test'].arrays
    losses = []
    for m in range(population):
        mine = (lambda tree, m=m: jax.tree.map(lambda x: x[m], tree)) if population > 1 else (lambda tree: tree)
        average = averages.eval_params(mine(state.opt_state), mine(state.params))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mine(reported), average)
        for params in (average, mine(state.params)):
            logits = experiment.model.apply({'params': params, **mine(state.model_state)}, test['x'], train=False)
            losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, test['label']).mean())
    np.testing.assert_allclose(recorded['test/loss'], np.mean(losses[::2]), rtol=1e-4)  # of the members
    assert abs(np.mean(losses[::2]) - np.mean(losses[1::2])) > 1e-3
