"""Regression: losses in the network's scale, metrics in the target's, and Monte-Carlo dropout's likelihood."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.metrics import regression as metrics
from bigjax.models.mlp import MLP
from bigjax.tasks import MASK, bind
from bigjax.tasks import regression as tasks
from tests.tasks.terms import only

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(9, 3)).astype(np.float32), (RNG.normal(size=9) * 7 + 20).astype(np.float32)


@pytest.fixture(scope='module')
def model():
    return MLP(features=(20,), num_classes=1, dropout=(0.0, 0.4))


@pytest.fixture(scope='module')
def variables(model):
    return model.init(jax.random.key(0), X, train=False)


@pytest.mark.parametrize('column', [True, False])
def test_loss_and_metrics(model, variables, column):
    mean, std = Y.mean(), Y.std()
    task = tasks.squared_error(target='y', mean=mean, std=std)
    batch = {'x': X, 'y': Y[:, None] if column else Y, MASK: np.array([1] * 7 + [0] * 2, np.float32)}
    values, weights, aux = only(task.loss(bind(model), variables, batch, None, False))
    raw = np.asarray(model.apply(variables, X, train=False), np.float64)[:, 0]
    np.testing.assert_allclose(values, (raw - (Y - mean) / std) ** 2, rtol=1e-4)
    np.testing.assert_array_equal(weights, batch[MASK])
    error = (raw * std + mean - Y)[:7]
    np.testing.assert_allclose(aux.metrics['mse'][0], (error ** 2).sum(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics['mae'][0], np.abs(error).sum(), rtol=1e-4)
    assert aux.metrics['mse'][1] == 7
    outputs = task.predict(bind(model), variables, batch, None)
    np.testing.assert_allclose(outputs, raw * std + mean, rtol=1e-5)
    np.testing.assert_allclose(metrics.rmse(outputs[:7], {'y': batch['y'][:7]}, 'y')['rmse'],
                               np.sqrt((error ** 2).mean()), rtol=1e-5)


def test_a_forecast_averages_over_its_outputs():
    apply = lambda variables, x, train=False, rng=None: (x, {})
    batch = {'x': RNG.normal(size=(4, 5, 2)).astype(np.float32), 'y': RNG.normal(size=(4, 5, 2)).astype(np.float32)}
    values, _, _ = only(tasks.squared_error(target='y').loss(apply, {}, batch, None, True))
    np.testing.assert_allclose(values, ((batch['x'] - batch['y']) ** 2).mean((1, 2)), rtol=1e-5)


def test_mc_dropout_draws(model, variables):
    """Each pass has its own masks; their mean is the network's with dropout off (its output is linear in the mask)."""
    predict = jax.jit(lambda v: tasks.mc_dropout(4000, mean=20.0, std=7.0)(bind(model), v, {'x': X}, jax.random.key(0)))
    draws = predict(variables)
    assert draws.shape == (9, 4000)
    raw = np.asarray(model.apply(variables, X, train=False))[:, 0] * 7 + 20
    error = np.abs(draws.mean(1) - raw) / (np.asarray(draws).std(1) / np.sqrt(4000))
    assert error.max() < 5
    assert len(np.unique(draws[0])) > 1000


def test_low_precision_outputs_give_a_float32_loss():
    apply = lambda variables, x, train=False, rng=None: (x.astype(jnp.bfloat16), {})
    values, _, aux = only(tasks.squared_error(target='x').loss(apply, {}, {'x': X}, None, True))
    assert values.dtype == aux.metrics['mae'][0].dtype == jnp.float32
