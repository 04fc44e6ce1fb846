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
    check_labels,
    held_out,
    labels,
    subset,
)
from bigjax.data.windows import IGNORE, WindowSource
from bigjax.metrics import likelihood
from bigjax.tasks import language
from tests.refused import refused


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
    with refused('data/unequal-lengths', *words):
        ArraySource(make())


@pytest.mark.parametrize('stride', [1, 5, 7])
def test_window_source_is_the_windows_of_the_stream(stride):
    n, length = 53, 5
    stream = np.random.default_rng(0).integers(0, 300, n).astype(np.uint16)
    source = WindowSource(stream, length, stride)
    starts = list(range(0, n - length, stride))
    want = [{'tokens': w[:-1], 'targets': w[1:]} for w in (stream[s:s + length + 1].astype(np.int32) for s in starts)]
    left = n - length - 1 - starts[-1]  # targets behind the last window that fits
    if left:
        window = stream[n - length - 1:].astype(np.int32)
        want.append({'tokens': window[:-1], 'targets': np.where(np.arange(length) < stride - left, IGNORE, window[1:])})
    assert len(source) == len(want)
    for i, example in enumerate(want):
        same(source[i], example)
    same(source.take(source.arrays, np.arange(len(want))), {k: np.stack([e[k] for e in want]) for k in want[0]})
    with pytest.raises(IndexError):
        source[len(source)]
    same(source[-1], source[len(source) - 1])
    if stride == 1:
        assert len(source) == n - length


@pytest.mark.parametrize(('tokens', 'length'), [(1000, 256), (1025, 256), (1024, 256), (258, 256), (257, 256), (54, 5)])
def test_every_target_counts_once_in_windows_side_by_side(tokens, length):
    stream = np.arange(tokens) % 60_000
    source = WindowSource(stream, length, length)
    batch = jax.jit(source.take)({'stream': jnp.asarray(stream)}, jnp.arange(len(source)))
    for examples in (source.take(source.arrays, np.arange(len(source))), batch):
        targets = np.asarray(examples['targets'])
        assert np.array_equal(targets[targets != IGNORE], stream[1:])
        assert np.array_equal(np.asarray(examples['tokens'])[targets != IGNORE], stream[:-1])


def test_the_tail_of_a_stream_is_in_the_loss():
    """The mean nats of 999 targets in windows of 256, beside the mean over all of them in double precision."""
    stream, table = np.random.default_rng(0).integers(0, 7, 1000), np.random.default_rng(1).normal(size=(7, 7))

    def apply(variables, tokens, **options):
        return jnp.asarray(table, jnp.float32)[tokens], {}

    source = WindowSource(stream, 256, 256)
    batch = source.take(source.arrays, np.arange(len(source)))
    nats = -np.asarray(language.next_token().predict(apply, {}, batch, None))
    log_p = table - np.log(np.exp(table).sum(1, keepdims=True))
    np.testing.assert_allclose(nats.sum() / 999, -log_p[stream[:-1], stream[1:]].mean(), rtol=1e-5)
    found = likelihood.perplexity(-nats, batch)['perplexity']
    np.testing.assert_allclose(found, np.exp(-log_p[stream[:-1], stream[1:]].mean()), rtol=1e-5)


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
    with refused('data/not-a-stream' if tokens.ndim > 1 or tokens.dtype.kind == 'f' else 'data/too-short'):
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
    with refused('data/no-record', '10'):
        Subset(rows, [0, 10])


def test_labels_are_seen_through_wrappers(rows):
    np.testing.assert_array_equal(labels(Subset(Map(rows, dict), [4, 1])), rows.arrays['label'][[4, 1]])
    assert labels(WindowSource(np.arange(9), 2)) is None


def test_check_labels(rows):
    check_labels(rows, 3, 'here')
    check_labels(np.array([0, 1, 2]), 3, 'here')
    with refused('data/label-range', 'train.csv: record 2', 'label 2', '0 to 1'):
        check_labels(rows, 2, 'train.csv')
    with refused('data/label-range', 'record 1', 'label -1'):
        check_labels(np.array([0, -1]), 3, 'here')
    with refused('data/label-type', 'float32'):
        check_labels(np.array([0, 1], np.float32), 3, 'here')
    unseen = Map(rows, lambda example: {**example, 'label': example['label'] + 1})
    unseen.source = Subset(rows, range(10))
    unseen.source.source = _Plain(rows)  # labels that only reading shows
    with refused('data/label-range', 'record 2', 'label 3'):
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
    with refused('data/held-out'):
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
