"""VAE: parameter counts, a torch twin, the reparametrised sample."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, dense_to_torch, init, parameters, paths

from bigjax.models.vae import VAE, VARIANTS, DeepVAE

IMAGES = np.random.default_rng(0).uniform(size=(5, 4, 3, 1)).astype(np.float32)
SMALL = {'shape': (4, 3, 1), 'hidden': (7, 6), 'latent': 2}


TWO = (784 * 200 + 200 * 200 + 2 * 200 * 100 + 600) + (2 * 100 * 100 + 2 * 100 * 50 + 300) + (
    50 * 100 + 100 * 100 + 2 * 100 * 100 + 400) + (100 * 200 + 200 * 200 + 200 * 784 + 400 + 784)


@pytest.mark.parametrize(('model', 'variant', 'count'), [
    (VAE, 'mnist', 784 * 500 + 500 + 2 * (500 * 20 + 20) + 20 * 500 + 500 + 500 * 784 + 784),
    (DeepVAE, 'one_layer', 425_284), (DeepVAE, 'two_layers', TWO)])
def test_parameter_counts(model, variant, count):
    assert parameters(model(**VARIANTS[variant]), jnp.zeros((2, 28, 28, 1))) == count


def test_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = VAE(**SMALL)
    variables = init(model, IMAGES)
    params = variables['params']
    assert {'/'.join(p.split('/')[:2]) for p in paths(params)} == {
        f'{side}/{name}' for side, names in (('encoder', ('dense_0', 'dense_1', 'mean', 'logvar')),
                                             ('decoder', ('dense_0', 'dense_1', 'logits'))) for name in names}

    def dense(p, x):
        layer = torch.nn.Linear(*p['kernel'].shape)
        dense_to_torch(p, layer)
        return layer(x)

    enc, dec = params['encoder'], params['decoder']
    h = dense(enc['dense_1'], dense(enc['dense_0'], torch.tensor(IMAGES).flatten(1)).tanh()).tanh()
    mean, logvar = applied(model, variables, IMAGES, method='encode')
    np.testing.assert_allclose(mean, dense(enc['mean'], h).detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logvar, dense(enc['logvar'], h).detach().numpy(), rtol=1e-4, atol=1e-5)
    z = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    expected = dense(dec['logits'], dense(dec['dense_1'], dense(dec['dense_0'], torch.tensor(z)).tanh()).tanh())
    logits = applied(model, variables, z, method='decode')
    assert dec['dense_0']['kernel'].shape == (2, 6), 'the decoder mirrors the encoder'
    np.testing.assert_allclose(logits.reshape(5, -1), expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_sample_has_the_posteriors_mean_and_variance():
    """Through a decoder that is the identity, logits are the samples themselves."""
    model = VAE(shape=(2,), hidden=(), latent=2)
    params = {
        'encoder': {'mean': {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)},
                    'logvar': {'kernel': jnp.zeros((2, 2)), 'bias': jnp.log(jnp.array([0.25, 4.0]))}},
        'decoder': {'logits': {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)}}}
    x = np.tile(np.array([[0.2, 0.9]], np.float32), (20000, 1))
    z, mean, _ = applied(model, {'params': params}, x, train=True, rngs={'sample': jax.random.key(0)})
    np.testing.assert_allclose(mean, x, atol=1e-6)
    np.testing.assert_allclose(z.mean(0), [0.2, 0.9], atol=0.06)
    np.testing.assert_allclose(z.std(0), [0.5, 2.0], rtol=0.03)


def test_low_precision_keeps_float32_moments():
    model = VAE(**SMALL, dtype='bfloat16')
    variables = init(model, IMAGES)
    rngs = {'sample': jax.random.key(0)}
    logits, mean, logvar = applied(model, variables, IMAGES, train=True, rngs=rngs)
    assert logits.dtype == jnp.bfloat16 and mean.dtype == logvar.dtype == jnp.float32
    full = applied(VAE(**SMALL), variables, IMAGES, train=True, rngs=rngs)
    np.testing.assert_allclose(logits.astype(np.float32), full[0], atol=0.05)


def test_one_latent_layer_is_the_plain_autoencoder():
    """The same parameters and the same draws give the same logits and ratios of densities."""
    plain, deep = VAE(**SMALL), DeepVAE(SMALL['shape'], (SMALL['hidden'],), (SMALL['latent'],))
    params = init(plain, IMAGES)['params']
    renamed = {'encoder_0': params['encoder'], 'decoder_0': params['decoder']}
    draws = [applied(model, {'params': p}, IMAGES, rngs={'sample': jax.random.key(0)},
                     method=lambda module, x: module.proposals(x, 6)) for model, p in ((plain, params), (deep, renamed))]
    assert draws[0][0].shape == (5, 6, 4, 3, 1) and draws[0][1].shape == (5, 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *draws)


def test_latents_of_a_lower_layer_are_drawn_given_those_above():
    """decoder_1 gives N(z, 4) of every prior sample z, and decoder_0 is the identity."""
    model = DeepVAE(shape=(1,), hidden=((), ()), latents=(1, 1))
    dense = lambda kernel, bias=0.0: {'kernel': jnp.full((1, 1), kernel), 'bias': jnp.full(1, bias)}
    moments = {'mean': dense(1.0), 'logvar': dense(0.0, float(np.log(4)))}
    params = {'encoder_0': moments, 'encoder_1': moments, 'decoder_1': moments, 'decoder_0': {'logits': dense(1.0)}}
    z = jnp.full((20_000, 1), 1.5)
    logits = applied(model, {'params': params}, z, method='decode', rngs={'sample': jax.random.key(0)})
    assert float(logits.mean()) == pytest.approx(1.5, abs=0.05) and float(logits.std()) == pytest.approx(2.0, rel=0.03)
