"""VAE: parameter counts, a torch twin, the reparametrised sample."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, dense_to_torch, init, parameters, paths

from bigjax.models.vae import VAE, VARIANTS

IMAGES = np.random.default_rng(0).uniform(size=(5, 4, 3, 1)).astype(np.float32)
SMALL = {'shape': (4, 3, 1), 'hidden': (7, 6), 'latent': 2}


@pytest.mark.parametrize('variant, count', [
    ('mnist', 784 * 500 + 500 + 2 * (500 * 20 + 20) + 20 * 500 + 500 + 500 * 784 + 784), ('iwae', 425_284)])
def test_parameter_counts(variant, count):
    assert parameters(VAE(**VARIANTS[variant]), jnp.zeros((2, 28, 28, 1))) == count


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
