"""The variational bound against quadrature and Monte Carlo."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp

from bigjax.models.vae import VAE
from bigjax.tasks import MASK, bind, loss_metrics
from bigjax.tasks import generative as tasks
from tests.tasks.terms import objective


def summed(result):
    """[B], the sum of all terms."""
    return sum(term.values for term in result[0].values())


PIXELS = np.random.default_rng(0).integers(0, 2, (4, 6)).astype(np.float32)


@pytest.fixture(scope='module')
def vae():
    model = VAE(shape=(6,), hidden=(5,), latent=1)
    rngs = {'params': jax.random.key(0), 'sample': jax.random.key(1)}
    variables = jax.jit(lambda: model.init(rngs, PIXELS, train=False))()
    variables['params']['encoder']['logvar'] = {'kernel': jnp.full((5, 1), 0.1), 'bias': jnp.full(1, -0.2)}
    return model, variables


def integral(model, variables):
    """log p(x) of each example by quadrature over the one latent, float64."""
    z = np.linspace(-8, 8, 4001)
    logits = np.asarray(model.apply(variables, z[:, None].astype(np.float32), method='decode'), np.float64)
    p = expit(logits)
    log_likelihood = PIXELS @ np.log(p).T + (1 - PIXELS) @ np.log1p(-p).T
    log_prior = -0.5 * z ** 2 - 0.5 * np.log(2 * np.pi)
    return logsumexp(log_likelihood + log_prior, axis=1) + np.log(z[1] - z[0])


def posterior(model, variables):
    mean, logvar = (np.asarray(a, np.float64) for a in model.apply(variables, PIXELS, method='encode'))
    return mean, logvar


def test_kl_equals_monte_carlo():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    z = mean + np.exp(0.5 * logvar) * rng.normal(size=(400_000, 3, 2))
    log_q = -0.5 * ((z - mean) ** 2 / np.exp(logvar) + logvar)
    expected = (log_q + 0.5 * z ** 2).sum(-1).mean(0)
    np.testing.assert_allclose(tasks.gaussian_kl(mean, logvar), expected, rtol=0.01)


def test_loss_is_the_bound(vae):
    """Averaged over samples, the loss is E_q[-log p(x|z)] + KL by quadrature, and lies above -log p(x)."""
    model, variables = vae
    task = tasks.vae()
    step = jax.jit(jax.vmap(lambda key: summed(task.loss(bind(model), variables, {'image': PIXELS}, key, True))))
    found = step(jax.random.split(jax.random.key(0), 4000)).mean(0)
    mean, logvar = posterior(model, variables)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    expected = np.zeros(4)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        z = mean + np.exp(0.5 * logvar) * node
        p = expit(np.asarray(model.apply(variables, z.astype(np.float32), method='decode'), np.float64))
        expected -= weight * (PIXELS * np.log(p) + (1 - PIXELS) * np.log1p(-p)).sum(1)
    expected += 0.5 * (np.exp(logvar) + mean ** 2 - 1 - logvar).sum(1)
    np.testing.assert_allclose(found, expected, rtol=0.01)
    assert (expected > -integral(model, variables)).all()


def test_importance_samples_approach_the_likelihood(vae):
    model, variables = vae
    outputs = jax.jit(lambda v: tasks.importance(3000)(bind(model), v, {'image': PIXELS}, jax.random.key(0)))(variables)
    np.testing.assert_allclose(outputs, integral(model, variables), atol=0.05)


def test_vae_metrics_padding_and_predictions(vae):
    model, variables = vae
    batch = {'image': PIXELS, MASK: np.array([1, 1, 1, 0], np.float32)}
    terms, _ = result = tasks.vae().loss(bind(model), variables, batch, jax.random.key(0), False)
    assert set(terms) == {'reconstruction', 'kl'} and {term.values.dtype for term in terms.values()} == {jnp.dtype('float32')}
    assert objective(result) == pytest.approx(float(summed(result)[:3].mean()), rel=1e-6)
    assert loss_metrics(terms)['kl'][1] == 3
    again = tasks.vae().loss(bind(model), variables, dict(batch, image=np.where(
        batch[MASK][:, None] > 0, PIXELS, 1 - PIXELS)), jax.random.key(0), False)
    assert objective(again) == objective(result)
    outputs = tasks.vae().predict(bind(model), variables, batch, None)
    mean = posterior(model, variables)[0].astype(np.float32)
    np.testing.assert_allclose(outputs, expit(model.apply(variables, mean, method='decode')), rtol=1e-5)
