"""Image classifiers at the sizes of their papers: the published counts of parameters, of shapes alone."""
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, init, size

from bigjax.models import convnext, densenet, efficientnet, mixer, mobilenet, vgg
from bigjax.nn.drop_path import drop_path, drop_rates
from bigjax.nn.inverted_residual import divisible
from tests.refused import refused

COUNTS = {
    mixer.Mixer: {'s16': 18_528_264, 'b16': 59_880_472, 'l16': 208_196_168},
    mobilenet.MobileNet: {'v2': 3_504_872, 'v3_large': 5_483_032, 'v3_small': 2_542_856},
    efficientnet.EfficientNet: {
        'b0': 5_288_548, 'b1': 7_794_184, 'b2': 9_109_994, 'b3': 12_233_232, 'b4': 19_341_616, 'b5': 30_389_784,
        'b6': 43_040_704, 'b7': 66_347_960, 'lite0': 4_652_008},
    convnext.ConvNeXt: {'tiny': 28_589_128, 'small': 50_223_688, 'base': 88_591_464, 'large': 197_767_336},
    densenet.DenseNet: {'121': 7_978_856, '169': 14_149_480, '201': 20_013_928, '161': 28_681_000},
    vgg.VGG: {'11': 132_863_336, '13': 133_047_848, '16': 138_357_544, '19': 143_667_240},
}
QUICK = ('v3_small', 'tiny', '16')  # the others are traced long, or counted by a page of experiments


def cases():
    return [pytest.param(kind, name, count, id=f'{kind.__name__}-{name}', marks=[pytest.mark.slow] * (name not in QUICK))
            for kind, counts in COUNTS.items() for name, count in counts.items()]


@pytest.mark.parametrize(('kind', 'variant', 'count'), cases())
def test_parameter_counts(kind, variant, count):
    model = kind(**inspect.getmodule(kind).VARIANTS[variant])
    assert size(abstract(model, jnp.zeros((1, 224, 224, 3)))['params']) == count


@pytest.mark.parametrize(('model', 'image', 'code', 'shown'), [
    (mixer.Mixer(5, 32, 8, 8, 1, 4, 4), (32, 16), 'model/image-size', '32 x 16'),
    (mixer.Mixer(5, 30, 8, 8, 1, 4, 4), (30, 30), 'model/not-divisible', '30 x 30'),
    (convnext.ConvNeXt(5, (1, 1, 1, 1), (4, 4, 4, 4)), (40, 31), 'model/image-size', '40 x 31'),
    (convnext.ConvNeXt(5, (1, 1), (4,)), (40, 40), 'model/lengths', ''),
    (vgg.VGG(5, (1, 1), (4, 4), 8), (28, 27), 'model/image-size', '28 x 27'),
    (mobilenet.MobileNet(5, padding='valid'), (32, 32), 'model/unknown-option', 'valid')], ids=lambda value: str(value)[:20])
def test_what_they_refuse(model, image, code, shown):
    with refused(code, shown):
        init(model, jnp.zeros((1, *image, 3)))


def test_vgg_sees_every_window_of_a_larger_image():
    model = vgg.VGG(3, (1,), (4,), 8)
    image = jax.random.normal(jax.random.key(0), (1, 16, 14, 3))
    variables = init(model, image)
    found = model.apply(variables, image, train=False)
    alone = [model.apply(variables, image, train=False, capture_intermediates=True)[1]['intermediates']['fc_1']['__call__'][0]]
    assert alone[0].shape == (1, 2, 1, 8)
    kernel = variables['params']['head']
    np.testing.assert_allclose(found, jax.nn.relu(alone[0]).mean((1, 2)) @ kernel['kernel'] + kernel['bias'], rtol=1e-5)


def test_stochastic_depth_keeps_whole_examples_and_their_mean():
    import flax.linen as nn

    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return drop_path(x, 0.25, train)

    x = jnp.ones((4000, 2, 3))
    y = np.asarray(Branch().apply({}, x, True, rngs={'dropout': jax.random.key(0)}))
    assert ((y == 0) | np.isclose(y, 1 / 0.75)).all() and (y == y[:, :1, :1]).all()
    assert abs((y == 0).mean() - 0.25) < 0.03
    assert np.array_equal(Branch().apply({}, x, False), x)
    np.testing.assert_allclose(drop_rates(0.2, 3), [0, 0.1, 0.2])
    assert drop_rates(0.2, 1) == [0.0]


def test_widths_are_multiples_of_eight():
    assert [divisible(n) for n in (3, 12, 16 * 1.4, 36.8, 184, 91)] == [8, 16, 24, 40, 184, 88]
