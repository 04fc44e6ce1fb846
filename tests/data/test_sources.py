"""Sources: random access, gathering on host and device, subsets, labels, held-out parts; made-up data."""
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.data.fake import arrays, fake
from bigjax.data.sources import (
    ArraySource,
    Map,
    Splits,
    Subset,
    WindowSource,
    check_labels,
    held_out,
    labels,
    subset,
)
from bigjax.errors import UserError


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (10, 4, 4, 1)).astype(np.uint8)
    return ArraySource({'image': image, 'label': np.arange(10, dtype=np.int32) % 3})


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
        assert a[name].dtype == b[name].dtype


def test_array_source(rows):
    assert len(rows) == 10
    same(rows[3], {'image': rows.arrays['image'][3], 'label': rows.arrays['label'][3]})
    same(pickle.loads(pickle.dumps(rows))[9], rows[9])  # worker processes
    with pytest.raises(IndexError):
        rows[10]


@pytest.mark.parametrize('make, words', [
    (lambda: {'x': np.zeros(3), 'label': np.zeros(4)}, ["'x': 3", "'label': 4"]), (dict, ['no array']),
    (lambda: {'x': np.float32(1)}, ['-1'])])
def test_array_source_wants_one_length(make, words):
    with pytest.raises(UserError) as error:
        ArraySource(make())
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize('stride', [1, 5, 7])
def test_window_source_is_the_windows_of_the_stream(stride):
    n, length = 53, 5
    stream = np.random.default_rng(0).integers(0, 300, n).astype(np.uint16)
    source = WindowSource(stream, length, stride)
    want = [stream[s:s + length + 1].astype(np.int32) for s in range(0, n - length, stride)]
    assert len(source) == len(want)
    for i, window in enumerate(want):
        same(source[i], {'tokens': window[:-1], 'targets': window[1:]})
    with pytest.raises(IndexError):
        source[len(source)]
    same(source[-1], source[len(source) - 1])
    if stride == 1:
        assert len(source) == n - length


@pytest.mark.parametrize('kind', ['rows', 'windows'])
def test_take_is_stacked_examples_on_host_and_device(kind, rows):
    source = rows if kind == 'rows' else WindowSource(np.arange(40, dtype=np.uint16), 6, 3)
    at = np.array([4, 0, 4, 9])
    want = {name: np.stack([source[i][name] for i in at]) for name in source[0]}
    same(source.take(source.arrays, at), want)
    device = {name: jnp.asarray(array) for name, array in source.arrays.items()}
    same(jax.jit(source.take)(device, jnp.asarray(at)), want)


@pytest.mark.parametrize('tokens, length, stride', [
    (np.zeros(4), 2, 1), (np.zeros((4, 2), int), 2, 1), (np.zeros(4, int), 4, 1), (np.zeros(4, int), 0, 1),
    (np.zeros(4, int), 2, 0)])
def test_window_source_refuses(tokens, length, stride):
    with pytest.raises(UserError, match=r'encode|too few'):
        WindowSource(tokens, length, stride)


def test_subset_and_map(rows):
    part = Subset(rows, [7, 2])
    assert len(part) == 2
    same(part[1], rows[2])
    kept = subset(rows, [7, 2])
    assert isinstance(kept, ArraySource)
    same(kept[0], rows[7])
    doubled = Map(rows, lambda example: {**example, 'label': example['label'] * 2})
    assert len(doubled) == 10 and doubled[5]['label'] == rows[5]['label'] * 2
    lazy = subset(doubled, [5])
    assert isinstance(lazy, Subset) and lazy[0]['label'] == rows[5]['label'] * 2
    with pytest.raises(UserError, match='record 10'):
        Subset(rows, [0, 10])


def test_labels_are_seen_through_wrappers(rows):
    np.testing.assert_array_equal(labels(Subset(Map(rows, dict), [4, 1])), rows.arrays['label'][[4, 1]])
    assert labels(WindowSource(np.arange(9), 2)) is None


def test_check_labels(rows):
    check_labels(rows, 3, 'here')
    check_labels(np.array([0, 1, 2]), 3, 'here')
    with pytest.raises(UserError, match=r'^train\.csv: record 2 has label 2, outside the 2 classes'):
        check_labels(rows, 2, 'train.csv')
    with pytest.raises(UserError, match='record 1 has label -1'):
        check_labels(np.array([0, -1]), 3, 'here')
    with pytest.raises(UserError, match='float32'):
        check_labels(np.array([0, 1], np.float32), 3, 'here')
    unseen = Map(rows, lambda example: {**example, 'label': example['label'] + 1})
    unseen.source = Subset(rows, range(10))
    unseen.source.source = _Plain(rows)  # labels that only reading shows
    with pytest.raises(UserError, match='record 2 has label 3'):
        check_labels(unseen, 3, 'here')


class _Plain:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]


def test_held_out_is_a_stratified_partition():
    label = np.repeat([0, 1, 2], [50, 20, 3])
    kept, held = held_out(len(label), 0.1, 0, label)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(73))
    np.testing.assert_array_equal(np.bincount(label[held]), [5, 2, 1])
    again, other = held_out(73, 0.1, 0, label)[1], held_out(73, 0.1, 1, label)[1]
    np.testing.assert_array_equal(again, held)
    assert not np.array_equal(other, held)
    assert len(held_out(100, 0.25, 0)[1]) == 25
    few = np.array([0, 1, 1])
    np.testing.assert_array_equal(few[held_out(3, 0.1, 0, few)[1]], [1])  # a class of one stays in training


@pytest.mark.parametrize('count, fraction', [(10, 0.0), (10, 1.0), (1, 0.1), (0, 0.1)])
def test_held_out_refuses(count, fraction):
    with pytest.raises(UserError, match=r'held-out|hold'):
        held_out(count, fraction, 0)


SHAPES = {'image': ((28, 28, 1), 'uint8', None), 'label': ((), 'int32', 10), 'words': ((7,), 'int32', 5),
          'x': ((3,), 'float32', None)}


def test_fake_arrays_have_the_shapes_classes_and_vocabularies():
    made = arrays(SHAPES, 40, seed=3)
    assert {name: (a.shape, str(a.dtype)) for name, a in made.items()} == {
        name: ((40, *shape), dtype) for name, (shape, dtype, _) in SHAPES.items()}
    np.testing.assert_array_equal(np.bincount(made['label']), [4] * 10)
    assert (np.diff(made['label']) != 0).any() and not np.array_equal(made['label'], np.arange(40) % 10)
    assert made['words'].min() == 0 and made['words'].max() == 4
    assert made['image'].min() == 0 and made['image'].max() == 255 and abs(made['x'].std() - 1) < 0.2
    same(made, arrays(SHAPES, 40, seed=3))
    assert not np.array_equal(made['x'], arrays(SHAPES, 40, seed=4)['x'])


def test_fake_is_like_real_splits(rows):
    windows = WindowSource(np.arange(90, dtype=np.uint16) % 7, 5, 5)
    real = Splits(rows, {'val': windows}, {'name': 'mine', 'classes': list('abc'), 'source': '/x'})
    made = fake(real, 20, seed=1)
    assert made.info == {'name': 'mine', 'classes': list('abc'), 'source': 'made up, seed 1',
                         'records': {'train': 20, 'val': 20}}
    assert made.train[0]['image'].shape == (4, 4, 1) and set(made.train.arrays['label']) == {0, 1, 2}
    val = made.evals['val']
    assert len(val) == 20 and val[19]['targets'].shape == (5,) and val.stride == 5 and val.arrays['stream'].max() == 6
    two = fake(SHAPES, 8, evals=('test',))
    assert not np.array_equal(two.train.arrays['x'], two.evals['test'].arrays['x'])  # train does not leak into test


@pytest.mark.parametrize('cut', [slice(None), slice(0, 700), slice(300, None), slice(101, 405)])
def test_a_mapped_file_is_not_sent_to_workers_but_mapped_there(tmp_path, cut):
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / 'tokens.bin')
    tokens = np.memmap(tmp_path / 'tokens.bin', np.uint16, 'r', offset=20)[cut]
    source = WindowSource(tokens, 8)
    sent = pickle.dumps(source)
    again = pickle.loads(sent)
    assert len(sent) < 1000 and len(again) == len(source)
    for i in (0, 57, -1):
        assert np.array_equal(again[i]['tokens'], source[i]['tokens'])
        assert np.array_equal(again[i]['targets'], tokens[range(len(source))[i] + 1:][:8])
