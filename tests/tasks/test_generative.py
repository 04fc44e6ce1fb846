"""The variational bound against quadrature and Monte Carlo; the blindness of a GAN's two groups of parameters."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp

from bigjax.models.gan import GAN
from bigjax.models.vae import VAE
from bigjax.tasks import MASK, bind, loss_metrics, mean
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


SMALL = GAN(size=8, channels=1, latent=3, width=4)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope='module')
def gan():
    shapes = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), IMAGES, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.4, s.shape) * rng.choice([-1, 1], s.shape) ** (
        s.ndim > 1), jnp.float32), shapes)


def terms(params, state, key):
    """The two terms, computed apart with plain calls of the model."""
    z = jax.random.normal(jax.random.fold_in(key, 0x6A), (4, 3))
    call = lambda x, method: SMALL.apply({'params': params, **state}, x, train=True, method=method,
                                         mutable=['batch_stats'])[0]
    fake = call(z, 'generate')
    d = jnp.mean(jnp.log1p(jnp.exp(-call(IMAGES, 'discriminate'))) + jnp.log1p(jnp.exp(call(fake, 'discriminate'))))
    g = jnp.mean(-jnp.log(jax.nn.sigmoid(call(fake, 'discriminate'))))
    return d, g


@pytest.mark.slow
def test_each_group_gets_the_gradient_of_its_own_term(gan):
    params, state = gan['params'], {'batch_stats': gan['batch_stats']}
    key = jax.random.key(5)

    def value_of(params):
        result = tasks.gan(3).loss(bind(SMALL), {'params': params, **state}, {'image': IMAGES}, key, True)
        return objective(result), loss_metrics(result[0])

    grads, metrics = jax.jit(jax.grad(value_of, has_aux=True))(params)
    both = jax.jit(jax.jacrev(lambda p: jnp.stack(terms(p, state, key))))(params)
    d_grads, g_grads = (jax.tree.map(lambda a, i=i: a[i], both) for i in range(2))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, grads['discriminator'], d_grads['discriminator'])
    jax.tree.map(close, grads['generator'], g_grads['generator'])
    # the test can tell the terms apart
    for other, group in ((g_grads, 'discriminator'), (d_grads, 'generator')):
        first, second = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t[group])]) for t in (other, grads))
        assert not np.allclose(first, second, rtol=0.1, atol=1e-4)
    d, g = terms(params, state, key)
    close(mean(metrics['d_loss']), d)
    close(mean(metrics['g_loss']), g)


@functools.partial(jax.jit, static_argnames='train')
def gan_loss(variables, batch, train):
    return tasks.gan(3).loss(bind(SMALL), variables, batch, jax.random.key(0), train)


def test_statistics_of_both_networks_move(gan):
    _, aux = gan_loss(gan, {'image': IMAGES}, True)
    before, after = gan['batch_stats'], aux.model_state['batch_stats']
    assert jax.tree.structure(dict(before)) == jax.tree.structure(dict(after))
    moved = jax.tree.map(lambda a, b: not np.allclose(a, b), before, after)
    assert all(jax.tree.leaves(moved))
    _, rest = gan_loss(gan, {'image': IMAGES}, False)
    jax.tree.map(np.testing.assert_array_equal, rest.model_state.get('batch_stats', before), before)


def test_padding_changes_nothing_in_evaluation(gan):
    batch = {'image': IMAGES, MASK: np.array([1, 1, 0, 0], np.float32)}
    other = dict(batch, image=np.where(batch[MASK][:, None, None, None] > 0, IMAGES, 0.5))
    runs = [gan_loss(gan, b, False) for b in (batch, other)]
    assert objective(runs[0]) == objective(runs[1]) and runs[0][1].metrics['d_real'] == runs[1][1].metrics['d_real']


def test_samples_are_one_per_example_and_others_for_each_key(gan):
    draw = jax.jit(lambda key: tasks.gan(3).predict(bind(SMALL), gan, {'image': IMAGES}, key))
    samples = [np.asarray(draw(jax.random.key(k))) for k in (0, 1)]
    assert samples[0].shape == IMAGES.shape and len(np.unique(np.asarray(samples)[..., 0, 0, 0])) == 8
