"""Exact likelihoods against float64 formulas, and sums over all images, which must be one."""
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import logistic

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data
from bigjax.models.pixelcnn import PixelCNN
from bigjax.tasks import MASK, bind, check_data, density
from tests.refused import refused
from tests.tasks.terms import evaluated, objective, only

GREY = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 1)).astype(np.uint8)


def variables_of(model, x):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(-0.8, 0.8, s.shape), jnp.float32), shapes)


@pytest.mark.parametrize(('levels', 'channels'), [(2, 1), (3, 1), (2, 2)])
def test_probabilities_of_all_images_are_one(levels, channels):
    model = PixelCNN(levels=levels, channels=channels, layers=2, width=4, first_kernel=3, head=4)
    x = np.array(list(itertools.product(range(levels), repeat=4 * channels)), np.float32).reshape(-1, 2, 2, channels)
    x /= levels - 1
    batch = {'image': x}
    values, _, aux = only(evaluated(density.autoregressive(), bind(model), variables_of(model, x[:1]), batch, None, False))
    assert logsumexp(-np.asarray(values, np.float64)) == pytest.approx(0, abs=1e-5) and np.ptp(values) > 0.05
    total, count = aux.metrics['bpd']
    assert float(total / count) == pytest.approx(float(np.mean(values)) / (4 * channels * math.log(2)), rel=1e-6)


def test_levels_are_those_of_their_greys():
    """Logits that are log-probabilities: 0, 1/3, 2/3 and 1 are levels 0 to 3."""
    probability = np.array([0.1, 0.2, 0.3, 0.4])
    apply = lambda variables, x, train=False, rng=None: (jnp.broadcast_to(jnp.log(probability), (*x.shape, 4)), {})
    x = np.array([0, 1, 2, 3, 3, 0], np.float32).reshape(2, 1, 3, 1) / 3
    found = density.autoregressive().predict(apply, {}, {'image': x}, None)
    np.testing.assert_allclose(found, np.log([0.1 * 0.2 * 0.3, 0.4 * 0.4 * 0.1]), rtol=1e-6)


def test_the_logit_of_levels_has_the_slope_of_its_own_gradient():
    noise = np.random.default_rng(1).uniform(size=GREY.shape).astype(np.float32)
    logits, slope = density.to_logits(GREY, noise)
    v = 0.05 + 0.9 * (GREY + noise.astype(np.float64)) / 256
    np.testing.assert_allclose(logits, np.log(v) - np.log1p(-v), rtol=1e-4, atol=1e-5)
    by_level = jax.vmap(jax.vmap(jax.grad(lambda level, u: density.to_logits(level[None, None], u)[0].sum())))
    each = by_level(GREY.reshape(3, -1).astype(np.float32), noise.reshape(3, -1))
    np.testing.assert_allclose(slope, np.log(np.asarray(each, np.float64)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(density.from_logits(logits), (GREY + noise) / 256, atol=1e-5)
    np.testing.assert_array_equal(density.from_logits(jnp.asarray([-9.0, 9.0])), [0, 1])


def identity(variables, x, train=False, rng=None):
    """Noise that is the logits themselves, times two."""
    flat = 2 * x.reshape(x.shape[0], -1)
    return (flat, jnp.full(x.shape[0], flat.shape[1] * math.log(2))), {}


def test_the_bound_of_a_flow_by_quadrature():
    """The density of levels + noise is that of 2 logit(v) ~ N(0, 1); its mean log over the noise is the mean of the loss."""
    batch = {'image': GREY}
    keys = jax.random.split(jax.random.key(0), 4000)
    values = jax.jit(jax.vmap(lambda key: only(density.flow().loss(identity, {}, batch, key, True))[0]))(keys)
    u = (np.arange(200) + 0.5) / 200
    v = 0.05 + 0.9 * (GREY.reshape(3, -1, 1) + u) / 256
    y = 2 * logistic.ppf(v)
    log_p = -0.5 * (y ** 2 + np.log(2 * np.pi)) + np.log(2 * 0.9 / 256 / (v * (1 - v)))
    np.testing.assert_allclose(values.mean(0), -log_p.mean(-1).sum(1), rtol=2e-3)


def test_the_density_of_a_flow_is_one_over_all_levels():
    """One pixel: exp(log p) over 256 levels, each averaged over its noise, sums to what the logit leaves of the normal."""
    x = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    log_p = jax.jit(jax.vmap(lambda key: density.flow().predict(identity, {}, {'image': x}, key)))(
        jax.random.split(jax.random.key(0), 200))
    assert float(np.exp(log_p).mean(0).sum()) == pytest.approx(1.0, abs=2e-3)


def test_padding_and_structures():
    batch = {'image': GREY, MASK: np.array([1, 1, 0], np.float32)}
    result = evaluated(density.flow(), identity, {}, batch, jax.random.key(0), False)
    values, weights, aux = only(result)
    assert float(objective(result)) == pytest.approx(float(np.mean(values[:2])), rel=1e-6)
    assert float(aux.metrics['bpd'][1]) == 2 and weights[2] == 0
    with refused('task/shape', '[3, 2, 4, 1, 5]'):
        wrong = lambda variables, x, train=False, rng=None: (jnp.zeros((*x.shape[:-1], 5)), {})
        density.autoregressive().loss(wrong, {}, {'image': GREY / 255}, None, True)
    with refused('task/output', 'tuple of 2'):
        check_data(density.flow(), np.zeros((1, 4)), Data(ArraySource({'image': GREY}), {}))
