"""How pixels are drawn, the published schedule of the row `burda`, and the images of the report."""
import jax
import numpy as np
import pytest

from bigjax.data.sources import ArraySource
from bigjax.models import vae
from bigjax.tasks import bind
from bigjax.train import schedules
from experiments import dcgan_mnist, vae_mnist

GREY = np.broadcast_to(np.array([0, 64, 128, 255], np.uint8)[:, None, None, None], (4, 50, 50, 1))


def test_pixels_are_drawn_with_their_grey_level():
    host = vae_mnist.drawn(GREY, seed=0) / 255
    device = np.asarray(vae_mnist.draw(vae_mnist.to_unit({'image': GREY}), jax.random.key(0))['image'])
    for found in (host, device):
        assert set(np.unique(found)) == {0.0, 1.0}
        np.testing.assert_allclose(found.mean((1, 2, 3)), GREY[:, 0, 0, 0] / 255, atol=0.03)
        assert found[0].max() == 0 and found[3].min() == 1
    again = vae_mnist.draw(vae_mnist.to_unit({'image': GREY}), jax.random.key(1))['image']
    assert not np.array_equal(device, again) and np.array_equal(host, vae_mnist.drawn(GREY, seed=0) / 255)


@pytest.mark.parametrize('script', [vae_mnist, dcgan_mnist])
def test_images_without_a_test_split_are_judged_on_what_is_held_out(tmp_path, script):
    np.savez(tmp_path / 'a.npz', image=np.zeros((40, 28, 28), np.uint8), label=np.arange(40) % 4)
    config = script.get_config()
    config.data = f'npz:{tmp_path}/a.npz'
    experiment = script.get_experiment(config)
    assert list(experiment.data.evals) == ['val'] and {e.split for e in experiment.evaluators.values()} == {'val'}


def test_schedule_of_burda():
    """Stage i = 0 … 7 has 3^i epochs at 1e-3 * 10^(-i/7)."""
    spec = vae_mnist.get_config('burda').optimizer
    schedule = schedules.make(spec.schedule, spec.lr, total_steps=3280 * 10, steps_per_epoch=10)
    expected = np.concatenate([np.full(3 ** i * 10, 1e-3 * 10 ** (-i / 7)) for i in range(8)])
    assert len(expected) == 3280 * 10
    np.testing.assert_allclose(schedule(np.arange(3280 * 10)), expected, rtol=1e-5)


@pytest.mark.parametrize('latent', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_pictures(latent):
    """Originals stand beside their own reconstructions; only two latents have a manifold."""
    model = vae.VAE(shape=(4, 4, 1), hidden=(8,), latent=latent)
    originals = vae_mnist.drawn(np.random.default_rng(0).integers(0, 255, (5, 4, 4, 1)), seed=0)
    variables = model.init({'params': jax.random.key(0), 'sample': jax.random.key(1)}, originals / 255, train=False)
    shown = vae_mnist.report_images(ArraySource({'image': originals}), latent)(bind(model), variables, jax.random.key(0))
    assert shown['reconstructions'].shape == (10, 4, 4, 1) and shown['prior_samples'].shape == (64, 4, 4, 1)
    np.testing.assert_array_equal(shown['reconstructions'][::2], originals / 255)
    one = model.apply(variables, originals[2:3] / 255, method='encode')[0]
    logits = np.asarray(model.apply(variables, one, method='decode'), np.float64)
    np.testing.assert_allclose(shown['reconstructions'][5], 1 / (1 + np.exp(-logits[0])), rtol=1e-4)
    assert ('manifold' in shown) == (latent == 2)
