"""Named sets that are not on this machine: shapes, sizes and parameter counts, and one line when the data is needed."""
import importlib

import jax
import numpy as np
import pytest

from bigjax.data import sources
from bigjax.data.datasets import open_data
from bigjax.data.lazy import LazySource
from bigjax.data.sources import ArraySource, Splits, derived
from bigjax.experiment import Data
from bigjax.train.program import initial_shapes
from bigjax.train.state import count
from tests.data.made_up import write_idx
from tests.refused import refused


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """A machine without data."""
    monkeypatch.delenv('BIGJAX_DATA', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))


@pytest.mark.parametrize(('name', 'options', 'sizes', 'shapes'), [
    ('mnist', {}, {'train': 60_000, 'test': 10_000}, {'image': (28, 28, 1), 'label': ()}),
    ('cifar10', {}, {'train': 50_000, 'test': 10_000}, {'image': (32, 32, 3), 'label': ()}),
    ('scan/length', {}, {'train': 16_990, 'test': 3_920}, {'source': (11,), 'target': (50,)}),
    ('tiny_shakespeare', {'length': 64}, {'train': 1_003_854 - 64, 'val': 1743}, {'tokens': (64,), 'targets': (64,)}),
    ('openwebtext', {'length': 1024}, {'train': 9_035_582_198 - 1024, 'val': 4331}, {'tokens': (1024,), 'targets': (1024,)}),
    ('imagenet2012', {}, {'train': 1_281_167, 'val': 50_000}, {'image': (224, 224, 3), 'label': ()}),
    ('uci/yacht', {'split': 0}, {'train': 277, 'test': 31}, {'x': (6,), 'target': ()})])
def test_shapes_and_sizes_need_no_data(name, options, sizes, shapes):
    splits = open_data('', like=name, **options)
    data = Data(splits.train, splits.evals, info=splits.info)
    assert {'train': data.size, **{split: len(source) for split, source in data.evals.items()}} == sizes
    assert {key: s.shape for key, s in data.spec.items()} == shapes and splits.info['records'] == sizes
    with refused('data/not-found', name.partition('/')[0]):
        sources.identity(data)


def test_a_set_that_is_there_is_read_whatever_its_size(tmp_path):
    for prefix, n in (('train', 30), ('t10k', 7)):
        write_idx(tmp_path / 'mnist', prefix, n)
    splits = open_data('mnist', data_dir=str(tmp_path))
    assert isinstance(splits.train, ArraySource) and len(splits.train) == 30


def test_a_set_of_another_size_that_appears_later_is_refused(tmp_path):
    splits = open_data('mnist', data_dir=str(tmp_path))
    for prefix, n in (('train', 30), ('t10k', 7)):
        write_idx(tmp_path / 'mnist', prefix, n)
    with refused('data/other-than-published', '30', '60000'):
        splits.train[0]


@pytest.mark.parametrize('name', ['mnist', 'tiny_shakespeare', 'gpt2_openwebtext', 'vae_mnist', 'scan', 'resnet_imagenet'])
def test_parameters_are_counted_without_data(name):
    script = importlib.import_module(f'experiments.{name}')
    experiment = script.get_experiment(script.get_config())
    assert isinstance(experiment.data.train, LazySource) and count(initial_shapes(experiment)[0]) > 1000


def test_arrays_that_are_computed_from_others_open_late_too():
    opened = []
    real = {'train': np.arange(5, dtype=np.float32), 'test': np.ones(2, np.float32)}

    def late(split):
        return LazySource(ArraySource({'x': np.zeros(len(real[split]), np.float32)}),
                          lambda: opened.append(split) or ArraySource({'x': real[split]}))

    def centred(parts):
        return {split: {'y': np.stack([a['x'] - parts['train']['x'].mean()] * 2, 1)} for split, a in parts.items()}

    now = derived(Splits(ArraySource({'x': real['train']}), {'test': ArraySource({'x': real['test']})}, {'name': 'n'}), centred)
    then = derived(Splits(late('train'), {'test': late('test')}, {'name': 'n'}), centred)
    assert not opened and then.train.spec == now.train.spec == {'y': jax.ShapeDtypeStruct((2,), np.float32)}
    for split in ('train', 'test'):
        a, b = (s.train if split == 'train' else s.evals[split] for s in (now, then))
        assert np.array_equal(a.arrays['y'], b.arrays['y']) and len(a) == len(b)
    assert sorted(opened) == ['test', 'train'] and then.info == {'name': 'n'}
