"""timm's image models: the same logits on random numbers, there and back."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.models.mixer import Mixer
from tests.refused import refused
from tests.weights.test_load import equal
from tests.weights.timm_models import logits, randomised, timm, written

IMAGE = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
SMALL_MIXER = {'image_size': 32, 'patch': 8, 'width': 24, 'num_layers': 2, 'token_width': 12, 'channel_width': 96}


def mixer():
    from timm.models.mlp_mixer import MlpMixer
    return MlpMixer(7, 32, 3, 8, num_blocks=2, embed_dim=24)


CASES = {'mixer_b16_224': (mixer, SMALL_MIXER)}


@pytest.mark.parity
@pytest.mark.parametrize('architecture', CASES)
def test_logits_of_timm(architecture, tmp_path):
    timm()
    make, changes = CASES[architecture]
    theirs, lines = randomised(make()), []
    model, variables, _ = weights.load(written(theirs, architecture, tmp_path / 'theirs', num_classes=7), say=lines.append,
                                       **changes)
    expected = logits(theirs, IMAGE)
    found = jax.jit(lambda x: model.apply(variables, x, train=False))(IMAGE)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1 and not lines


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
    assert config == {'architecture': 'mixer_s16_224', 'num_classes': 7, 'model_args': {'img_size': 32}}
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
