"""VQ-VAE: counts, the nearest vector, the gradients of its three terms, the use of the codebook."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, init, parameters

from bigjax.models.vqvae import VARIANTS, VQVAE
from bigjax.tasks import bind, variational
from experiments import vqvae_mnist
from tests.refused import refused
from tests.tasks.terms import objective

SMALL = VQVAE(channels=1, codes=6, latent=3, width=4, inner=5, blocks=1)
IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 4, 1)).astype(np.float32)


@pytest.fixture(scope='module')
def variables():
    return init(SMALL, IMAGES)


@pytest.mark.parametrize('variant', VARIANTS)
def test_parameter_counts(variant):
    K, Z, width, inner = VARIANTS[variant].values()
    block = 9 * width * inner + inner + inner * width + width
    encoder = 16 * width + width + 16 * width * width + width + 2 * block + width * Z + Z
    decoder = 9 * Z * width + width + 2 * block + 16 * width * width + width + 16 * width + 1
    assert parameters(VQVAE(**VARIANTS[variant]), jnp.zeros((1, 28, 28, 1))) == encoder + K * Z + decoder
    assert encoder + K * Z + decoder == vqvae_mnist.PARAMETERS[variant]


def test_each_latent_becomes_its_nearest_vector(variables):
    out = applied(SMALL, variables, IMAGES, train=False)
    book = np.asarray(variables['params']['codebook'], np.float64)
    distance = ((np.asarray(out.latents, np.float64)[..., None, :] - book) ** 2).sum(-1)
    np.testing.assert_array_equal(out.codes, distance.argmin(-1))
    np.testing.assert_array_equal(out.nearest, book[np.asarray(out.codes)].astype(np.float32))
    assert out.image.shape == IMAGES.shape and out.codes.shape == (3, 2, 1) and len(np.unique(out.codes)) > 1


def test_gradients_pass_the_codebook_by_and_its_own_term_moves_it(variables):
    """The encoder's gradient is that of the decoder at the nearest vectors, and of the commitment; the codebook has that of its
    term alone, the sum of twice the distances to the latents that chose a vector."""
    task = variational.vq(commitment=0.25)

    @jax.jit
    def gradients(params):
        whole = lambda p: objective(task.loss(bind(SMALL), {'params': p}, {'image': IMAGES}, None, True))
        out = SMALL.apply({'params': params}, IMAGES, train=True)
        error = lambda z: jnp.mean((SMALL.apply({'params': params}, z, method='decode') - IMAGES) ** 2)
        to_latents = jax.grad(error)(out.nearest) + 0.25 * 2 * (out.latents - out.nearest) / out.latents.size
        by_hand = jax.vjp(lambda p: SMALL.apply({'params': p}, IMAGES, method='encode')[0], params)[1](to_latents)[0]
        return jax.grad(whole)(params), by_hand, out

    found, by_hand, out = gradients(variables['params'])
    for name in ('down_0', 'down_1', 'encoder_block_0', 'latents'):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found[name], by_hand[name])
    expected = np.zeros((6, 3))
    np.add.at(expected, np.ravel(out.codes), 2 * np.reshape(out.nearest - out.latents, (-1, 3)) / out.latents.size)
    np.testing.assert_allclose(found['codebook'], expected, rtol=1e-4, atol=1e-7)


def test_the_use_of_the_codebook():
    even = np.tile(np.arange(8), 4).reshape(4, 4, 2)
    assert vqvae_mnist.usage(even, {}) == pytest.approx({'code_perplexity': 8, 'codes_used': 8})
    assert vqvae_mnist.usage(np.full((4, 2, 2), 5), {}) == {'code_perplexity': 1, 'codes_used': 1}


def test_images_that_cannot_be_halved_twice_are_refused():
    with refused('model/not-divisible', '30 x 28'):
        parameters(SMALL, jnp.zeros((1, 30, 28, 1)))
