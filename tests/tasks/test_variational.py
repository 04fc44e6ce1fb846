"""The variational bounds against quadrature, Monte Carlo and float64 formulas."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp
from scipy.stats import norm

from bigjax.models.vae import VAE, DeepVAE
from bigjax.tasks import MASK, bind, loss_metrics
from bigjax.tasks import variational as tasks
from tests.refused import refused
from tests.tasks.terms import evaluated, objective, only


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


def test_the_kl_term_is_scaled_by_beta_and_the_bound_itself_is_kept(vae):
    model, variables = vae
    batch, key = {'image': PIXELS}, jax.random.key(0)
    plain, scaled = (evaluated(tasks.vae(beta=beta), bind(model), variables, batch, key) for beta in (1.0, 4.0))
    parts = {name: float(np.mean(term.values)) for name, term in plain[0].items()}
    assert objective(scaled) == pytest.approx(parts['reconstruction'] + 4 * parts['kl'], rel=1e-6)
    total, count = scaled[1].metrics['elbo']
    assert float(total / count) == pytest.approx(-float(objective(plain)), rel=1e-6) and not plain[1].metrics


K = 7
DEEP = {1: DeepVAE(shape=(3, 2), hidden=((5, 4),), latents=(2,)),
        2: DeepVAE(shape=(3, 2), hidden=((5, 4), (3,)), latents=(2, 1))}
IMAGES = PIXELS.reshape(4, 3, 2)


def drawn_variables(model):
    shapes = jax.eval_shape(lambda: model.init({'params': jax.random.key(0), 'sample': jax.random.key(1)}, IMAGES, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(-0.7, 0.7, s.shape), jnp.float32), shapes)


def log_weights(params, seen):
    """log w [B, K] in float64 from the latents that the model drew, by the densities of scipy."""
    def layers(p, x, *outputs):
        for i in range(len(p) - len(outputs)):
            x = np.tanh(x @ p[f'dense_{i}']['kernel'] + p[f'dense_{i}']['bias'])
        return [x @ p[name]['kernel'] + p[name]['bias'] for name in outputs]

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    below, total = np.broadcast_to(IMAGES.reshape(4, 1, 6).astype(np.float64), (4, K, 6)), 0
    for i, z in enumerate(seen):
        mean, logvar = layers(params[f'encoder_{i}'], below, 'mean', 'logvar')
        total = total - norm.logpdf(z, mean, np.exp(logvar / 2)).sum(-1)
        if i:
            mean, logvar = layers(params[f'decoder_{i}'], z, 'mean', 'logvar')
            total += norm.logpdf(below, mean, np.exp(logvar / 2)).sum(-1)
        below = z
    (logits,), x = layers(params['decoder_0'], seen[0], 'logits'), IMAGES.reshape(4, 1, 6)
    likelihood = x * np.log(expit(logits)) + (1 - x) * np.log(expit(-logits))
    return total + norm.logpdf(seen[-1]).sum(-1) + likelihood.sum(-1)


@pytest.mark.parametrize('layers', DEEP)
def test_bounds_equal_a_float64_formula_of_the_same_draws(layers):
    """Both bounds of one pass; the latents are read through the inputs of the decoders."""
    model = DEEP[layers]
    variables, key = drawn_variables(model), jax.random.key(3)

    @jax.jit
    def computed(variables):
        found = [tasks.iwae(K, objective).loss(bind(model), variables, {'image': IMAGES}, key, True)[0]['loss'].values
                 for objective in tasks.OBJECTIVES]
        return found, latents(model, variables, key)

    (iwae, vae), seen = computed(variables)
    expected = log_weights(variables['params'], [np.asarray(z, np.float64) for z in seen])
    np.testing.assert_allclose(iwae, -(logsumexp(expected, axis=1) - np.log(K)), rtol=2e-5)
    np.testing.assert_allclose(vae, -expected.mean(axis=1), rtol=2e-5)
    assert (np.asarray(iwae) < np.asarray(vae)).all(), 'the bound with weights is the tighter one'


def latents(model, variables, key):
    """What the decoders of one pass are given, from the lowest layer upwards."""
    given = {}

    def watch(decoder, args, kwargs, context):
        if args and str(context.module.name).startswith('decoder'):
            given[context.module.name] = args[0]
        return decoder(*args, **kwargs)

    with nn.intercept_methods(watch):
        bind(model)(variables, IMAGES, K, rng=key, method='proposals')
    return [given[f'decoder_{i}'] for i in range(len(model.latents))]


@pytest.mark.parametrize('samples', [7, 50, 120])
def test_samples_computed_apart_are_all_of_them(samples):
    """A constant weight has its own logarithm as the estimate, however many draws there are and however they are dealt."""
    def apply(variables, x, count, train=False, rng=None, method=None):
        return (jnp.zeros((*x.shape[:1], count, *x.shape[1:])), jnp.full((x.shape[0], count), 0.25)), {}

    found = tasks.importance(samples)(apply, {}, {'image': IMAGES}, jax.random.key(0))
    np.testing.assert_allclose(found, 0.25 - 6 * np.log(2), rtol=1e-5)


def test_reconstructions_are_those_of_the_mean_of_the_lowest_layer():
    model = DEEP[2]
    variables = drawn_variables(model)
    means = model.apply(variables, IMAGES, method='encode')
    found = tasks.iwae(3).predict(bind(model), variables, {'image': IMAGES}, None)
    np.testing.assert_allclose(found, expit(model.apply(variables, means[0], method='lowest')), rtol=1e-5)
    assert [m.shape for m in means] == [(4, 2), (4, 1)] and found.shape == IMAGES.shape


@pytest.mark.parametrize('wrong', [(1, 'elbo'), (0, 'iwae')])
def test_an_objective_that_is_none_is_refused(wrong):
    with refused('task/unknown-option', str(wrong[0]), wrong[1]):
        tasks.iwae(*wrong)


def test_padding_changes_nothing_in_a_bound_with_weights():
    model = DEEP[1]
    batch = {'image': IMAGES, MASK: np.array([1, 1, 1, 0], np.float32)}
    result = evaluated(tasks.iwae(K), bind(model), drawn_variables(model), batch, jax.random.key(0), train=False)
    values, weights, _ = only(result)
    assert objective(result) == pytest.approx(float(np.mean(values[:3])), rel=1e-6) and weights[3] == 0
