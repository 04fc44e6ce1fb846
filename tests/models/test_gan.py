"""DCGAN: published counts, torch twins of both networks, spectral normalisation, classes and packs."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, applied, conv_to_torch, init, norm_to_torch, parameters, size

from bigjax.models.gan import GAN, VARIANTS, halvings
from bigjax.nn.spectral_norm import SpectralConv
from tests.refused import refused

SMALL = GAN(size=16, channels=2, latent=3, width=4)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16, 2)).astype(np.float32)
LATENTS = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def test_published_counts():
    params = abstract(GAN(**VARIANTS['dcgan']), jnp.zeros((2, 64, 64, 3)))['params']
    assert set(params) == {'generator', 'discriminator'}
    assert (size(params['generator']), size(params['discriminator'])) == (3_576_704, 2_765_568)


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_images_have_the_size_of_the_data(variant):
    model = GAN(**VARIANTS[variant])
    side, channels = VARIANTS[variant]['size'], VARIANTS[variant]['channels']
    variables = abstract(model, jnp.zeros((2, side, side, channels)))
    image = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 100)), method='generate'), variables)
    assert image.shape == (2, side, side, channels)


def test_sides_are_halved_down_to_four_pixels_or_a_little_more():
    assert [halvings(side) for side in (8, 12, 16, 28, 32, 64, 128)] == [1, 1, 2, 2, 3, 4, 5]


@pytest.mark.parametrize('train', [True, False])
def test_discriminator_equals_torch(train):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    variables = init(SMALL, IMAGES)
    p, stats = variables['params']['discriminator'], variables['batch_stats']['discriminator']
    down = [torch.nn.Conv2d(2, 4, 4, 2, 1, bias=False), torch.nn.Conv2d(4, 8, 4, 2, 1, bias=False)]
    for i, layer in enumerate(down):
        conv_to_torch(p[f'down_{i}'], layer)
    norm, head = torch.nn.BatchNorm2d(8, momentum=0.01).train(train), torch.nn.Conv2d(8, 1, 4, bias=False)
    norm_to_torch(p['down_1_norm'], norm, stats['down_1_norm'])
    conv_to_torch(p['head'], head)
    leaky = torch.nn.LeakyReLU(0.2)
    expected = head(leaky(norm(down[1](leaky(down[0](torch.tensor(IMAGES).permute(0, 3, 1, 2)))))))[:, 0, 0, 0]
    found, state = applied(SMALL, variables, IMAGES, train=train, method='discriminate', mutable=['batch_stats'])
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state['batch_stats']['discriminator']['down_1_norm']['mean'],
                               norm.running_mean.numpy(), rtol=1e-4, atol=1e-5)
    assert set(state['batch_stats']) == {'generator', 'discriminator'}


@pytest.mark.parametrize('train', [True, False])
def test_generator_equals_torch(train):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    variables = init(SMALL, IMAGES)
    p, stats = variables['params']['generator'], variables['batch_stats']['generator']
    project = torch.nn.ConvTranspose2d(3, 8, 4, 1, 0, bias=False)
    first = np.asarray(p['project']['kernel']).reshape(3, 4, 4, 8)
    project.weight.data = torch.tensor(first.transpose(0, 3, 1, 2).copy())
    ups = [torch.nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), torch.nn.ConvTranspose2d(4, 2, 4, 2, 1, bias=False)]
    for name, up in zip(('up_0', 'image'), ups, strict=True):  # linen's kernel is that of the forward convolution
        up.weight.data = torch.tensor(np.asarray(p[name]['kernel'])[::-1, ::-1].transpose(2, 3, 0, 1).copy())
    norms = [torch.nn.BatchNorm2d(8, momentum=0.01).train(train), torch.nn.BatchNorm2d(4, momentum=0.01).train(train)]
    for name, norm in zip(('project_norm', 'up_0_norm'), norms, strict=True):
        norm_to_torch(p[name], norm, stats[name])
    h = torch.relu(norms[0](project(torch.tensor(LATENTS)[:, :, None, None])))
    expected = torch.tanh(ups[1](torch.relu(norms[1](ups[0](h))))).permute(0, 2, 3, 1).detach().numpy()
    found, _ = applied(SMALL, variables, LATENTS, train=train, method='generate', mutable=['batch_stats'])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_spectral_norm_is_the_largest_singular_value():
    """After many calls in training the kernel has norm 1; evaluation changes nothing."""
    layer = SpectralConv(5, (3, 3), use_bias=False)
    x = jnp.asarray(IMAGES[:1, :5, :5])
    variables = layer.init(jax.random.key(0), x, train=False)
    step = jax.jit(lambda v: layer.apply(v, x, train=True, mutable=['batch_stats'])[1])
    for _ in range(60):
        variables = {**variables, **step(variables)}
    kernel = np.asarray(variables['params']['kernel'], np.float64)
    largest = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    plain = jax.lax.conv_general_dilated(x, jnp.asarray(kernel / largest, jnp.float32), (1, 1), 'SAME',
                                         dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    out, state = layer.apply(variables, x, train=False, mutable=['batch_stats'])
    np.testing.assert_allclose(out, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state['batch_stats']['u'], variables['batch_stats']['u'])


def test_spectral_norm_equals_torch():
    """The output, and the gradient through the singular value, once u and v have come to rest: torch iterates them in the other
    order."""
    torch = pytest.importorskip('torch', reason='torch is the reference')
    layer, x = SpectralConv(5, (4, 4), strides=(2, 2)), jnp.asarray(IMAGES[:2, :8, :8])
    variables = layer.init(jax.random.key(0), x, train=False)
    theirs = torch.nn.Conv2d(2, 5, 4, 2, 1)
    conv_to_torch(variables['params'], theirs)
    theirs = torch.nn.utils.parametrizations.spectral_norm(theirs)

    @jax.jit
    def step(variables):
        def objective(params):
            out, state = layer.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
            return jnp.sin(out).sum(), (out, state)
        return jax.grad(objective, has_aux=True)(variables['params'])

    for _ in range(80):
        grads, (out, state) = step(variables)
        variables = {**variables, **state}
        theirs(torch.zeros(1, 2, 8, 8))
    y = theirs(torch.tensor(np.asarray(x)).permute(0, 3, 1, 2))
    torch.sin(y).sum().backward()
    np.testing.assert_allclose(out, y.detach().permute(0, 2, 3, 1).numpy(), rtol=1e-3, atol=1e-4)
    expected = theirs.parametrizations.weight.original.grad.permute(2, 3, 1, 0).numpy()
    np.testing.assert_allclose(grads['kernel'], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('norm', ['none', 'spectral'])
def test_classes_of_both_networks(norm):
    """A class changes the sample and the logit; the logit is that of the head plus the class's own."""
    model = SMALL.clone(norm=norm, classes=3)
    variables = init(model, IMAGES)
    label = jnp.arange(6) % 3
    logits, _ = applied(model, variables, IMAGES, label, method='discriminate', mutable=['batch_stats'])
    other, _ = applied(model, variables, IMAGES, label[::-1], method='discriminate', mutable=['batch_stats'])
    changed = np.asarray(label != label[::-1])
    assert (np.asarray(logits != other) == changed).all() and changed.any()
    image = lambda k: applied(model, variables, LATENTS, jnp.full(6, k), method='generate', mutable=['batch_stats'])[0]
    assert not np.allclose(image(0), image(1))


def test_a_pack_is_seen_as_one_image():
    model = SMALL.clone(norm='none', pack=2)
    variables = init(model, IMAGES)
    logits, _ = applied(model, variables, IMAGES, method='discriminate', mutable=['batch_stats'])
    assert logits.shape == (3,) and variables['params']['discriminator']['down_0']['kernel'].shape == (4, 4, 4, 4)
    twin = SMALL.clone(norm='none', channels=4)
    joined = np.concatenate([IMAGES[::2], IMAGES[1::2]], axis=-1)
    expected = twin.apply({'params': variables['params']}, joined, method='discriminate')
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert abstract(model, jnp.zeros((1, 16, 16, 2)))['params']['discriminator']['head']['bias'].shape == (1,)


@pytest.mark.slow
def test_low_precision_keeps_float32_statistics():
    model = SMALL.clone(dtype='bfloat16')
    variables = init(model, IMAGES)
    image, state = applied(model, variables, LATENTS, train=True, method='generate', mutable=['batch_stats'])
    assert image.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, state)))


@pytest.mark.parametrize(('change', 'code', 'names'), [
    ({'size': 30}, 'model/not-divisible', ['size=30']), ({'size': 4}, 'model/not-divisible', ['size=4']),
    ({'norm': 'layer'}, 'model/unknown-option', ["'layer'", 'spectral']),
    ({'pack': 2, 'classes': 10}, 'model/unknown-option', ['pack=2', 'classes=10'])])
def test_wrong_fields_are_the_users_error(change, code, names):
    model = GAN(**change)
    with refused(code, *names):
        parameters(model, jnp.zeros((2, model.size, model.size, 1)))


def test_a_batch_without_whole_packs_is_refused():
    model = SMALL.clone(pack=2)
    with refused('model/not-divisible', 'pack=2', '3'):
        jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES[:3], method='discriminate'))
