"""Random Erasing's recipe: what is padded, what is erased, when the rate falls."""
import jax
import numpy as np
import pytest

from bigjax import config as configs
from bigjax.train import optimizers
from experiments import fashion_mnist


def experiment(variant):
    config = configs.override(fashion_mnist.get_config(variant), {'data': 'fake'})
    return fashion_mnist.get_experiment(configs.Reader(config))


@pytest.mark.parametrize('variant, share', [('20', 0.0), ('20,erasing', 0.5)])
def test_pictures_are_padded_in_black_and_half_of_them_erased(variant, share):
    data = experiment(variant).data
    image = np.full((400, 28, 28, 1), 255, np.uint8)  # white: whatever else shows comes from the recipe
    batch = data.preprocess({'image': image, 'label': np.zeros(400, np.int32)})
    out = np.asarray(jax.jit(data.augment)(batch, jax.random.key(0))['image'])
    white, black, erased = (1 - 0.1307) / 0.3081, -0.1307 / 0.3081, np.float32(0.4914)
    assert {round(float(v), 3) for v in np.unique(out)} <= {round(float(v), 3) for v in (white, black, erased)}
    touched = (np.abs(out - erased) < 1e-6).any((1, 2, 3))
    assert abs(touched.mean() - share) < 0.1
    if share:
        size = (np.abs(out - erased) < 1e-6).sum((1, 2, 3))[touched]
        assert size.min() > 0.01 * 784 and size.max() < 0.43 * 784


def test_the_rate_falls_at_epochs_150_and_225_of_300():
    config = fashion_mnist.get_config('20')
    _, rate = optimizers.make(config.optimizer, {'w': np.ones(2)}, total_steps=300)
    np.testing.assert_allclose([float(rate(t)) for t in (0, 149, 150, 224, 225, 299)],
                               [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
