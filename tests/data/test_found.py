"""Lines of what was found, and data that does not fit an experiment."""
import importlib
import json
import pathlib

import numpy as np
import pytest

import experiments
from bigjax.data import found
from bigjax.data.datasets import open_data
from bigjax.data.loaders import registry
from tests.refused import refused


@pytest.fixture
def place(tmp_path):
    """One small file of each kind of record."""
    rng = np.random.default_rng(0)
    (tmp_path / 'classes.csv').write_text('age,sex,label\n' + ''.join(f'{i % 50},{"mf"[i % 2]},{i % 3}\n' for i in range(90)))
    (tmp_path / 'numbers.csv').write_text('age,target\n' + ''.join(f'{i % 50},{i / 7}\n' for i in range(90)))
    (tmp_path / 'named.csv').write_text('a,b,species\n' + ''.join(f'{i % 50},{i},{"xyz"[i % 3]}\n' for i in range(90)))
    records = [{'signal': [i, 2, 3], 'label': i % 2} for i in range(30)]
    (tmp_path / 'series.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    np.savez(tmp_path / 'images.npz', image=rng.integers(0, 255, (60, 28, 28)).astype(np.uint8), label=rng.integers(0, 10, 60))
    (tmp_path / 'a.txt').write_text('hello world. ' * 500)
    return tmp_path


def spec(place, name):
    return f'{"text" if name == "a.txt" else name.rpartition(".")[2]}:{place}/{name}'


@pytest.mark.parametrize('like, name, words', [
    ('mnist', 'classes.csv', ['x float32[2]', 'image', 'mnist1d, ucr']),
    ('mnist', 'series.jsonl', ['signal', 'image']), ('mnist', 'a.txt', ['image', 'tiny_shakespeare']),
    ('mnist1d', 'series.jsonl', ["'signal' x"]),
    ('mnist1d', 'images.npz', ['image uint8[28, 28, 1]', 'fix: python -m experiments.mnist ']),
    ('mnist1d', 'named.csv', ["'species' label"]), ('tiny_shakespeare', 'classes.csv', ['text:FILE']),
    ('uci/yacht', 'classes.csv', ['target', 'label']), ('breast_cancer', 'numbers.csv', ['label', 'uci']),
    ('ucr/Coffee', 'numbers.csv', ['label', 'uci']), ('scan/simple', 'numbers.csv', ['source'])])
def test_data_that_an_experiment_cannot_read_is_refused_with_one_that_can(place, like, name, words):
    with refused('data/misfit', name, *words):
        open_data(spec(place, name), like=like)


@pytest.mark.parametrize('like, arrays, wrong', [
    ('mnist', dict(image=np.zeros((20, 28, 28), np.uint8), label=np.eye(10)[np.arange(20) % 10]), 'label'),
    ('mnist', dict(image=np.zeros((20, 28, 28), np.float32), label=np.arange(20) % 2), 'image'),
    ('mnist1d', dict(x=np.zeros((20, 4), np.float32), label=np.zeros((20, 2), np.int32)), 'label')])
def test_an_array_of_another_form_is_named_and_no_experiment_that_refuses_it_too(tmp_path, like, arrays, wrong):
    np.savez(tmp_path / 'a.npz', **arrays)
    with refused('data/misfit', f'fix: write {wrong} so') as caught:
        open_data(f'npz:{tmp_path}/a.npz', like=like)
    assert 'experiments' not in str(caught.value)


@pytest.mark.parametrize('like, name, shapes', [
    ('mnist1d', 'classes.csv', {'x': (2, 1), 'label': ()}), ('ucr/Coffee', 'classes.csv', {'x': (2, 1), 'label': ()}),
    ('ucr/Unknown', 'classes.csv', {'x': (2, 1), 'label': ()}), ('breast_cancer', 'classes.csv', {'x': (2,), 'label': ()}),
    ('uci/yacht', 'numbers.csv', {'x': (1,), 'target': ()}), ('mnist', 'images.npz', {'image': (28, 28, 1), 'label': ()}),
    ('tiny_shakespeare', 'a.txt', {'tokens': (256,), 'targets': (256,)})])
def test_data_that_fits_is_read(place, like, name, shapes):
    splits = open_data(spec(place, name), like=like)
    for source in (splits.train, *splits.evals.values()):
        assert {key: np.shape(value) for key, value in source[0].items()} == shapes


def test_columns_of_pixels_are_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 784))
    rows = [','.join(map(str, [i % 10, *row])) for i, row in enumerate(pixels)]
    (tmp_path / 'a.csv').write_text('label,' + ','.join(f'pixel{i}' for i in range(784)) + '\n' + '\n'.join(rows) + '\n')
    train = open_data(f'csv:{tmp_path}/a.csv', like='mnist', val_fraction=0).train
    np.testing.assert_array_equal(train.arrays['image'], pixels.reshape(20, 28, 28, 1))
    assert train.arrays['image'].dtype == np.uint8


def test_what_an_experiment_does_not_read_is_left_out(tmp_path):
    np.savez(tmp_path / 'a.npz', image=np.zeros((20, 8, 8, 1), np.uint8), label=np.arange(20) % 2, weight=np.ones(20))
    assert set(open_data(f'npz:{tmp_path}/a.npz', like='mnist').train.arrays) == {'image', 'label'}
    assert set(open_data(f'npz:{tmp_path}/a.npz').train.arrays) == {'image', 'label', 'weight'}


def test_the_lines_of_what_was_found(place):
    info = open_data(spec(place, 'classes.csv')).info
    lines = info['found']
    assert len(lines) <= 4 and all('\n' not in line for line in lines)
    said = ' '.join(lines)
    words = ('train 81', 'val 9', '10%', 'age', 'sex', 'float32[2]', '3: 0 (27), 1 (27), 2 (27)', 'left out: nothing')
    assert all(word in said for word in words), said
    json.dumps(info)


def test_named_and_made_up_data_has_lines_too():
    lines = open_data('fake', like='mnist1d', fake_records=20).info['found']
    assert 'train 20' in lines[0] and 'float32[40, 1]' in lines[1] and '10' in lines[2]


@pytest.mark.parametrize('columns, names', found.TEXT_TABLES.items())
def test_the_experiments_that_a_message_names_read_such_columns(columns, names):
    for name in names:
        module = importlib.import_module(f'experiments.{name}')
        assert registry.lookup(module.get_config('').data)[0].own.columns == columns


@pytest.mark.parametrize('kinds, commands', found.EXPERIMENTS.items())
def test_the_experiments_that_a_message_names_read_such_records(kinds, commands):
    for command in commands:
        name, _, variant = command.partition(' --variant=')
        module = importlib.import_module(f'experiments.{name}')
        assert pathlib.Path(module.__file__).parent == pathlib.Path(experiments.__path__[0])
        config = module.get_config(variant)
        like = config.get('like', '') or config.data
        wanted, _ = found.wanted(like)
        tables_too = set(kinds) == {'label', 'x'} and set(wanted) == {'label', 'series'}
        assert set(kinds) == set(wanted) or tables_too, (command, wanted)


@pytest.mark.parametrize('name, variant, data', [
    ('uci', 'yacht,mlp', 'numbers.csv'), ('ucr', 'Coffee,fcn', 'classes.csv'), ('mnist1d', 'mlp', 'classes.csv'),
    ('mnist', 'lenet5', 'images.npz')])
def test_one_file_is_enough_for_an_experiment(place, name, variant, data):
    """The part of it that is held out is evaluated."""
    module = importlib.import_module(f'experiments.{name}')
    config = module.get_config(variant)
    config.data = spec(place, data)
    made = module.get_experiment(config)
    assert {evaluator.split for evaluator in made.evaluators.values()} == set(made.data.evals) == {'val'}
    assert made.data.info['found'][0].count('held out') == 1
