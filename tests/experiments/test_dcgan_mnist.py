"""The pages of GANs: an optimizer for each network, n critic steps, the images and the judge, the modes of stacked digits."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.metrics import generated
from experiments import dcgan_mnist, stacked_mnist
from tests import tiny
from tests.refused import refused
from tests.test_experiments import losses, program
from tests.test_experiments import straight as straight


def parameters_over(steps, row, **changes):
    """The parameters before and after so many steps."""
    p = program('dcgan_mnist', row, **changes)
    carry, feed = p.init(), p.feed(0)
    before = jax.tree.map(np.asarray, carry['state'].params)
    return before, p.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(0, steps))[0].params


@pytest.mark.parametrize(('still', 'moving'), [('generator', 'discriminator'), ('discriminator', 'generator')])
@pytest.mark.slow
def test_each_network_has_its_own_optimizer(still, moving):
    groups = f"(('{still}/.*', {{'lr': 1e-30}}), ('{moving}/.*', {{}}))"
    before, after = parameters_over(1, 'dcgan', **{'optimizer.groups': groups})
    tiny.close(before[still], after[still], rtol=0, atol=1e-20)
    assert not tiny.equal(before[moving], after[moving])


@pytest.mark.slow
def test_the_critic_moves_in_every_step_and_the_generator_in_every_fifth():
    before, after = parameters_over(4, 'wgan_gp', steps_per_call='4')
    assert tiny.equal(before['generator'], after['generator'])
    assert not tiny.equal(before['discriminator'], after['discriminator'])


@pytest.mark.parametrize(('name', 'row'), [
    ('dcgan_mnist', 'hinge'), ('dcgan_mnist', 'wgan_gp'), ('dcgan_mnist', 'conditional'), ('stacked_mnist', 'pac2')])
@pytest.mark.slow
def test_four_devices_are_one(name, row, straight):
    """The rows that share the class of their model with a tested one: singular vectors, slopes, classes and packs."""
    four = losses(name, row, straight, mesh='data:4')
    np.testing.assert_allclose(four, straight(name, row).losses[:3], rtol=5e-4, atol=1e-5)


class Drawn:
    """An `apply` whose images show what was given: the first latent, and the class in the second pixel."""

    def __init__(self):
        self.calls = []

    def __call__(self, variables, z, *label, method):
        self.calls.append(label)
        image = jnp.zeros((len(z), 28, 28, 1)).at[:, 0, 0, 0].set(jnp.tanh(z[:, 0]))
        return image.at[:, 0, 1, 0].set(label[0] / 10 if label else 0.0), {}


@pytest.mark.parametrize('classes', [0, 10])
def test_the_images_of_the_report(classes):
    apply = Drawn()
    shown = dcgan_mnist.samples(5, classes)(apply, {}, jax.random.key(0))
    assert shown['samples'].shape == (100, 28, 28, 1)
    assert shown['between_samples'].shape == (8 * (classes or 8), 28, 28, 1)
    assert shown['samples'].min() >= 0 and shown['samples'].max() <= 1
    grid = dcgan_mnist.draw(5, classes)(apply, {}, jax.random.key(1), 20)
    of_class = np.asarray(grid)[:, 0, 1, 0] * 20 - 10
    np.testing.assert_allclose(of_class, np.arange(20) % 10 if classes else 0, atol=1e-5)


def test_samples_of_64_pixels_are_judged_at_28(monkeypatch):
    seen = []
    monkeypatch.setattr(generated, 'compared', lambda images, *rest: seen.append(images) or {})
    examples = {'image': np.zeros((2, 28, 28, 1), np.uint8), 'label': np.zeros(2)}
    dcgan_mnist.judged('mnist', range(10), False)(np.full((2, 64, 64, 1), -1.0), examples)
    assert seen[0].shape == (2, 28, 28, 1) and (seen[0] == 0).all()
    image = dcgan_mnist.to_tanh(64)({'image': np.full((3, 28, 28, 1), 255, np.uint8)})['image']
    assert image.shape == (3, 64, 64, 1) and np.allclose(image, 1)


def test_stacked_digits_and_their_numbers():
    digits = {'image': np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 28, 28, 1), np.uint8),
              'label': np.arange(10)}
    found = stacked_mnist.stacked(digits, 500, seed=0)
    assert found['image'].shape == (500, 28, 28, 3) and found['image'].dtype == np.uint8
    np.testing.assert_array_equal(found['image'][:, 0, 0].astype(int) @ [100, 10, 1], found['label'])
    assert len(set(found['label'])) > 350
    np.testing.assert_array_equal(found['label'], stacked_mnist.stacked(digits, 500, seed=0)['label'])


def test_modes_are_counted(monkeypatch):
    """With a judge that reads the class out of a pixel."""
    read = lambda images, *_: generated.Seen(50 * np.eye(10)[np.rint(images[:, 0, 0, 0] * 10).astype(int)], None)
    monkeypatch.setattr(generated, 'see', read)

    def images(numbers):
        digits = np.array([[n // 100, n // 10 % 10, n % 10] for n in numbers])
        return np.broadcast_to(digits[:, None, None] / 5 - 1, (len(numbers), 28, 28, 3))

    assert stacked_mnist.modes(images(range(1000)), {})['kl'] == pytest.approx(0, abs=1e-9)
    found = stacked_mnist.modes(images([7, 7, 999, 120]), {})
    expected = np.log(1000) + 0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25)
    assert found == {'modes': 3, 'kl': pytest.approx(expected), 'legible': 1.0}


@pytest.mark.parametrize(('page', 'row', 'shape'), [(dcgan_mnist, 'dcgan', (24, 24, 3)), (stacked_mnist, 'pac2', (24, 24, 3))])
def test_images_of_ones_own(tmp_path, page, row, shape):
    """Images of another size and in colour have no judge: they are trained on, or refused before the training."""
    np.savez(tmp_path / 'a.npz', image=np.zeros((40, *shape), np.uint8), label=np.arange(40) % 4)
    config = page.get_config(row)
    config.data = f'npz:{tmp_path}/a.npz'
    if page is stacked_mnist:
        with refused('metrics/judge-shape', '(24, 24, 3)'):
            page.get_experiment(config)
        return
    experiment = page.get_experiment(config)
    assert experiment.model.channels == 3 and not experiment.evaluators['val'].compute
    assert experiment.data.preprocess({'image': np.zeros((2, *shape), np.uint8)})['image'].shape == (2, 28, 28, 3)
    config.judge = 'mnist'
    with refused('metrics/judge-shape', '(24, 24, 3)'):
        page.get_experiment(config)
