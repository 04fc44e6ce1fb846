"""How pixels are drawn, the published stages and the first bias of iwae_mnist, and the images of the reports."""
import jax
import numpy as np
import pytest

from bigjax.data import binarize
from bigjax.data.sources import ArraySource
from bigjax.models import vae
from bigjax.tasks import bind
from bigjax.train import schedules
from experiments import dcgan_mnist, iwae_mnist, vae_mnist

GREY = np.broadcast_to(np.array([0, 64, 128, 255], np.uint8)[:, None, None, None], (4, 50, 50, 1))


def test_pixels_are_drawn_with_their_grey_level():
    host = binarize.drawn(GREY, seed=0) / 255
    device = np.asarray(binarize.draw(binarize.to_unit({'image': GREY}), jax.random.key(0))['image'])
    for found in (host, device):
        assert set(np.unique(found)) == {0.0, 1.0}
        np.testing.assert_allclose(found.mean((1, 2, 3)), GREY[:, 0, 0, 0] / 255, atol=0.03)
        assert found[0].max() == 0 and found[3].min() == 1
    again = binarize.draw(binarize.to_unit({'image': GREY}), jax.random.key(1))['image']
    assert not np.array_equal(device, again) and np.array_equal(host, binarize.drawn(GREY, seed=0) / 255)


@pytest.mark.parametrize('script', [vae_mnist, dcgan_mnist])
def test_images_without_a_test_split_are_judged_on_what_is_held_out(tmp_path, script):
    np.savez(tmp_path / 'a.npz', image=np.zeros((40, 28, 28), np.uint8), label=np.arange(40) % 4)
    config = script.get_config()
    config.data = f'npz:{tmp_path}/a.npz'
    experiment = script.get_experiment(config)
    assert list(experiment.data.evals) == ['val'] and {e.split for e in experiment.evaluators.values()} == {'val'}


def test_stages():
    """Stage i = 0 … 7 has 3^i epochs at 1e-3 * 10^(-i/7); six stages end at the same rate."""
    for stages, epochs in ((8, 3280), (6, 364)):
        spec, found = iwae_mnist.staged(stages)
        schedule = schedules.make(spec['schedule'], spec['lr'], total_steps=epochs * 10, steps_per_epoch=10)
        expected = np.concatenate([np.full(3 ** i * 10, 1e-3 * 10 ** (-i / (stages - 1))) for i in range(stages)])
        assert len(expected) == epochs * 10 == found * 10
        np.testing.assert_allclose(schedule(np.arange(epochs * 10)), expected, rtol=1e-5)


@pytest.mark.parametrize('row', ['iwae,5', 'vae,50,two'])
def test_the_first_images_are_the_mean_of_the_data(row):
    """Biases at the log-odds of the mean, clipped where it is 0 or 1; nothing else changes."""
    model = vae.DeepVAE(**{**vae.VARIANTS['two_layers' if 'two' in row else 'one_layer'], 'shape': (2, 2, 1)})
    before = jax.jit(lambda: model.init({'params': jax.random.key(0), 'sample': jax.random.key(1)},
                                        np.zeros((1, 2, 2, 1)), train=False))()
    image = np.array([[0, 51, 255, 0], [0, 153, 255, 255]], np.uint8).reshape(2, 2, 2, 1)
    after = iwae_mnist.biased(before, image)
    bias = np.asarray(after['params']['decoder_0']['logits']['bias'], np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [0.001, 0.4, 0.999, 0.5], rtol=1e-5)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert sum(jax.tree.leaves(changed)) == 1 and iwae_mnist.get_config(row).samples == int(row.split(',')[1])


def test_units_are_active_by_the_variance_of_their_means():
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(500, 4)) * [1.0, 0.2, 0.05, 0.0], rng.normal(size=(500, 2)) * [0.5, 0.01]
    assert iwae_mnist.active(layers, {}) == {'active': 3, 'active_1': 2, 'active_2': 1}
    assert iwae_mnist.active(layers[:1], {}) == {'active': 2}


@pytest.mark.parametrize('latent', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_pictures(latent):
    """Originals stand beside their own reconstructions; only two latents have a manifold."""
    model = vae.VAE(shape=(4, 4, 1), hidden=(8,), latent=latent)
    originals = binarize.drawn(np.random.default_rng(0).integers(0, 255, (5, 4, 4, 1)), seed=0)
    variables = model.init({'params': jax.random.key(0), 'sample': jax.random.key(1)}, originals / 255, train=False)
    shown = vae_mnist.report_images(ArraySource({'image': originals}), latent)(bind(model), variables, jax.random.key(0))
    assert shown['reconstructions'].shape == (10, 4, 4, 1) and shown['prior_samples'].shape == (64, 4, 4, 1)
    np.testing.assert_array_equal(shown['reconstructions'][::2], originals / 255)
    one = model.apply(variables, originals[2:3] / 255, method='encode')[0]
    logits = np.asarray(model.apply(variables, one, method='decode'), np.float64)
    np.testing.assert_allclose(shown['reconstructions'][5], 1 / (1 + np.exp(-logits[0])), rtol=1e-4)
    assert ('manifold' in shown) == (latent == 2)


def test_rows_of_a_report_lead_from_one_original_to_another():
    model = vae.DeepVAE(shape=(4, 4, 1), hidden=((8,), (6,)), latents=(3, 2))
    originals = binarize.drawn(np.random.default_rng(0).integers(0, 255, (48, 4, 4, 1)), seed=0)
    variables = jax.jit(lambda: model.init({'params': jax.random.key(0), 'sample': jax.random.key(1)}, originals / 255,
                                           train=False))()
    shown = iwae_mnist.report_images(ArraySource({'image': originals}), 2)(bind(model), variables, jax.random.key(0))
    assert shown['interpolations'].shape == shown['prior_samples'].shape == (100, 4, 4, 1)
    for ours, original in ((0, 0), (9, 10), (90, 9), (99, 19)):
        np.testing.assert_allclose(shown['interpolations'][ours], shown['reconstructions'][2 * original + 1], atol=1e-5)


def test_traversals_move_one_latent_each():
    model = vae.VAE(shape=(4, 4, 1), hidden=(8,), latent=3)
    originals = binarize.drawn(np.random.default_rng(0).integers(0, 255, (5, 4, 4, 1)), seed=0)
    variables = jax.jit(lambda: model.init({'params': jax.random.key(0), 'sample': jax.random.key(1)}, originals / 255,
                                           train=False))()
    report = vae_mnist.report_images(ArraySource({'image': originals}), 3, traversed=True)
    shown = report(bind(model), variables, jax.random.key(0))['traversals']
    z = np.array(model.apply(variables, originals[:1] / 255, method='encode')[0])
    z[0, 1] = 3
    expected = jax.nn.sigmoid(model.apply(variables, z, method='decode'))[0]
    assert shown.shape == (30, 4, 4, 1)
    np.testing.assert_allclose(shown[19], expected, rtol=1e-4)
