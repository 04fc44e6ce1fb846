"""DCGAN for small images: sizes, groups, torch twins of both networks, statistics."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, applied, conv_to_torch, dense_to_torch, init, norm_to_torch, parameters, size

from bigjax.models.gan import GAN, VARIANTS
from tests.refused import refused

SMALL = GAN(size=8, channels=2, latent=3, width=4)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 2)).astype(np.float32)
LATENTS = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def test_groups_and_counts():
    params = abstract(GAN(**VARIANTS['mnist']), jnp.zeros((2, 28, 28, 1)))['params']
    assert set(params) == {'generator', 'discriminator'}
    generator = 100 * 6272 + 25 * (128 * 64 + 64 * 32 + 32) + 1 + 2 * (128 + 64 + 32)
    discriminator = 25 * 64 + 64 + 25 * 64 * 128 + 2 * 128 + 6272 + 1
    assert (size(params['generator']), size(params['discriminator'])) == (generator, discriminator)


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_images_have_the_size_of_the_data(variant):
    model = GAN(**VARIANTS[variant])
    side, channels = VARIANTS[variant]['size'], VARIANTS[variant]['channels']
    variables = abstract(model, jnp.zeros((2, side, side, channels)))
    image = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 100)), method='generate'), variables)
    assert image.shape == (2, side, side, channels)


@pytest.mark.parametrize('train', [True, False])
def test_discriminator_equals_torch(train):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    variables = init(SMALL, IMAGES)
    p, stats = variables['params']['discriminator'], variables['batch_stats']['discriminator']
    pad = torch.nn.ZeroPad2d((1, 2, 1, 2))  # what SAME is for a 5x5 kernel at stride 2 on an even size
    down = [torch.nn.Conv2d(2, 4, 5, 2), torch.nn.Conv2d(4, 8, 5, 2, bias=False)]
    for i, layer in enumerate(down):
        conv_to_torch(p[f'down_{i}'], layer)
    norm, head = torch.nn.BatchNorm2d(8).train(train), torch.nn.Linear(32, 1)
    norm_to_torch(p['down_1_norm'], norm, stats['down_1_norm'])
    dense_to_torch(p['head'], head)
    leaky = torch.nn.LeakyReLU(0.2)
    h = leaky(norm(down[1](pad(leaky(down[0](pad(torch.tensor(IMAGES).permute(0, 3, 1, 2))))))))
    expected = head(h.permute(0, 2, 3, 1).flatten(1))[:, 0].detach().numpy()
    found, state = applied(SMALL, variables, IMAGES, train=train, method='discriminate', mutable=['batch_stats'])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state['batch_stats']['discriminator']['down_1_norm']['mean'],
                               norm.running_mean.numpy(), rtol=1e-4, atol=1e-5)
    assert set(state['batch_stats']) == {'generator', 'discriminator'}


def transposed(kernel, x):
    """A stride-2 transposed convolution with 'SAME' padding, by scattering, in float64."""
    size, (k, _, _, features) = x.shape[1], kernel.shape
    full = np.zeros((x.shape[0], 2 * (size - 1) + k, 2 * (size - 1) + k, features))
    for i in range(size):
        for j in range(size):
            patch = np.einsum('bc,hwcf->bhwf', x[:, i, j], kernel[::-1, ::-1])
            full[:, 2 * i:2 * i + k, 2 * j:2 * j + k] += patch
    low = (full.shape[1] - 2 * size) // 2
    return full[:, low:low + 2 * size, low:low + 2 * size]


@pytest.mark.parametrize('train', [True, False])
def test_generator_equals_a_formula(train):
    variables = init(SMALL, IMAGES)
    p, stats = (jax.tree.map(lambda a: np.asarray(a, np.float64), variables[c]['generator'])
                for c in ('params', 'batch_stats'))

    def norm(name, x):
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats[name]['mean'], stats[name]['var'])
        y = (x - mean) / np.sqrt(var + 1e-5) * p[name]['scale'] + p[name]['bias']
        return np.where(y > 0, y, 0.2 * y)

    x = norm('project_norm', (LATENTS @ p['project']['kernel']).reshape(5, 2, 2, 8))
    for i in range(2):
        x = norm(f'up_{i}_norm', transposed(p[f'up_{i}']['kernel'], x))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    expected = np.tanh(np.einsum('bijchw,hwcf->bijf', windows, p['image']['kernel']) + p['image']['bias'])
    found, _ = applied(SMALL, variables, LATENTS, train=train, method='generate', mutable=['batch_stats'])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_low_precision_keeps_float32_statistics():
    model = SMALL.clone(dtype='bfloat16')
    variables = init(model, IMAGES)
    image, state = applied(model, variables, LATENTS, train=True, method='generate', mutable=['batch_stats'])
    assert image.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, state)))


def test_a_wrong_size_is_the_users_error():
    with refused('model/not-divisible', 'size=30'):
        parameters(GAN(size=30), jnp.zeros((1, 30, 30, 1)))
