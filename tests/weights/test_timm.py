"""timm's image models: the same logits on random numbers, there and back."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.models.mixer import Mixer
from bigjax.models.mobilenet import VARIANTS, MobileNet
from tests.refused import refused
from tests.weights.test_load import equal
from tests.weights.timm_models import logits, randomised, timm, written

SMALL_MIXER = {'image_size': 32, 'patch': 8, 'width': 24, 'num_layers': 2, 'token_width': 12, 'channel_width': 96}
ODD, SQUARE, FULL = (45, 38), (32, 32), (224, 230)  # sizes of images: odd ones tell paddings apart


def small(module: str, kind: str, **options):
    """A function that makes a network of seven classes, of a class of timm."""
    def made():
        import torch
        named = {'norm_layer': getattr(torch.nn, options['norm_layer'])} if 'norm_layer' in options else {}
        return getattr(getattr(timm().models, module), kind)(num_classes=7, **{**options, **named})

    return made


def whole(name: str):
    """The same of the network of that name, whose sizes are fixed."""
    return lambda: timm().create_model(name, num_classes=7)


CASES = {  # architecture: the network, fields in which ours differs from the architecture, size of the images
    'mixer_b16_224': (small('mlp_mixer', 'MlpMixer', img_size=32, patch_size=8, num_blocks=2, embed_dim=24),
                      SMALL_MIXER, SQUARE),
    'convnext_tiny': (small('convnext', 'ConvNeXt', depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)),
                      {'blocks': (1, 1, 2, 1), 'widths': (8, 16, 24, 32)}, (64, 70)),
    'densenet121': (small('densenet', 'DenseNet', growth_rate=8, block_config=(2, 1, 2, 1)),
                    {'growth': 8, 'blocks': (2, 1, 2, 1), 'stem_width': 16}, ODD),
    'vgg11_bn': (small('vgg', 'VGG', cfg=[4, 'M', 6, 'M', 8, 8, 'M', 8, 8, 'M', 8, 8, 'M'], norm_layer='BatchNorm2d'),
                 {'widths': (4, 6, 8, 8, 8)}, FULL),
    **{name: (whole(name), {}, ODD) for name in ('mobilenetv2_100', 'tf_efficientnet_b0')},
}
MORE = {name: (whole(name), {}, ODD) for name in ('mobilenetv3_small_100', 'tf_mobilenetv3_large_100', 'efficientnet_b0',
                                                  'tf_efficientnet_lite0')}


@pytest.mark.parity
@pytest.mark.parametrize('architecture', [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_logits_of_timm(architecture, tmp_path):
    timm()
    make, changes, size = (CASES | MORE)[architecture]
    image = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    theirs, lines = randomised(make()), []
    model, variables, _ = weights.load(written(theirs, architecture, tmp_path / 'theirs', num_classes=7), say=lines.append,
                                       **changes)
    expected = logits(theirs, image)
    found = jax.jit(lambda x: model.apply(variables, x, train=False))(image)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1 and not lines
    if not changes:  # of the sizes of the name, which timm can build from what we write
        weights.save(model, variables, f'timm:{tmp_path}/ours')
        again = timm().create_model(f'local-dir:{tmp_path}/ours', pretrained=True).eval()
        np.testing.assert_allclose(logits(again, image), expected, atol=1e-5)


def image_variables(model, size: int) -> dict:
    """Random numbers in every array of an image model."""
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract)


def test_a_folder_of_timm_there_and_back(tmp_path):
    model = Mixer(7, **{**SMALL_MIXER, 'patch': 16, 'width': 512, 'num_layers': 8, 'token_width': 256, 'channel_width': 2048})
    ours = image_variables(model, 32)
    weights.save(model, ours, f'timm:{tmp_path}/mixer')
    config = json.loads((tmp_path / 'mixer' / 'config.json').read_text())
    assert config == {'architecture': 'mixer_s16_224', 'num_classes': 7, 'model_args': {'img_size': 32},
                      'pretrained_cfg': {'num_classes': 7}}
    again, variables, _ = weights.load(f'timm:{tmp_path}/mixer')
    assert again == model and equal(variables, ours)
    with refused('weights/no-family'):
        weights.save(model, ours, f'hf:{tmp_path}/other')
    with refused('weights/no-family', 'width'):
        small = Mixer(7, **SMALL_MIXER)
        weights.save(small, image_variables(small, 32), f'timm:{tmp_path}/small')
    (tmp_path / 'mixer' / 'config.json').write_text(json.dumps({**config, 'model_args': {'drop_rate2': 0.1}}))
    with refused('weights/config', 'drop_rate2'):
        weights.load(f'timm:{tmp_path}/mixer')
    (tmp_path / 'mixer' / 'config.json').write_text(json.dumps({'architecture': 'mixer_x'}))
    with refused('weights/architecture', 'mixer_x'):
        weights.load(f'timm:{tmp_path}/mixer')


def test_statistics_and_kernels_of_depthwise_convolutions_there_and_back(tmp_path):
    model = MobileNet(7, **VARIANTS['v3_small'], padding='same', epsilon=1e-3)
    ours = image_variables(model, 32)
    weights.save(model, ours, f'timm:{tmp_path}/mobile')
    assert json.loads((tmp_path / 'mobile' / 'config.json').read_text())['architecture'] == 'tf_mobilenetv3_small_100'
    again, variables, _ = weights.load(f'timm:{tmp_path}/mobile')
    assert again == model and equal(variables, ours)
    other = jax.tree.map(np.zeros_like, ours)
    params, state = weights.into(f'timm:{tmp_path}/mobile', model, other['params'], {'batch_stats': other['batch_stats']})
    assert equal({'params': params, **state}, ours)
    with refused('weights/other-model', 'padding'):
        weights.into(f'timm:{tmp_path}/mobile', model.clone(padding='symmetric'), other['params'],
                     {'batch_stats': other['batch_stats']})
