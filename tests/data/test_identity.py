"""Sources that open late, shapes without data, and what identifies data between two starts of a run."""
import pickle
import threading

import jax
import numpy as np
import pytest

from bigjax.data import sources
from bigjax.data.fake import stand_ins
from bigjax.data.lazy import LazySource
from bigjax.data.sources import ArraySource, Map, Subset
from bigjax.data.windows import WindowSource
from bigjax.experiment import Data
from tests.refused import refused

SHAPES = {'image': ((4, 4, 1), 'uint8', None), 'label': ((), 'int32', 3)}


def rows(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return ArraySource({'image': rng.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8),
                        'label': (np.arange(count) % 3).astype(np.int32)})


def lazy(count=40, source=None):
    opened = []
    return LazySource(stand_ins(SHAPES, {'train': count})['train'], lambda: opened.append(1) or source or rows()), opened


def test_length_shapes_and_gathering_need_no_data():
    source, opened = lazy()
    data = Data(source, {}, lambda example, rng, train: {**example, 'image': example['image'][:2].astype(np.float32)})
    assert data.size == 40 and len(source) == 40 and sources.array_shapes(source)['label'].shape == (40,)
    assert data.spec == {'image': jax.ShapeDtypeStruct((2, 4, 1), np.float32), 'label': jax.ShapeDtypeStruct((), np.int32)}
    batch = jax.eval_shape(source.take, sources.array_shapes(source), np.zeros(5, np.int32))
    assert batch['image'].shape == (5, 4, 4, 1) and not opened
    assert np.array_equal(source[7]['image'], rows()[7]['image']) and source.arrays['label'][4] == 1 and len(opened) == 1


def test_threads_open_it_once_and_workers_get_it_open():
    source, opened = lazy()
    threads = [threading.Thread(target=lambda: source[0]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1 and np.array_equal(pickle.loads(pickle.dumps(source)).arrays['label'], rows().arrays['label'])


@pytest.mark.parametrize(('source', 'names'), [
    (rows(39), ('39', '40')), (ArraySource({'image': np.zeros((40, 5, 4, 1), np.uint8), 'label': np.zeros(40, np.int32)}),
                               ('(5, 4, 1)', '(4, 4, 1)'))])
def test_other_data_than_the_stand_in_is_refused(source, names):
    with refused('data/other-than-published', *names):
        lazy(source=source)[0][0]


def test_a_long_stream_has_a_stand_in_that_takes_no_memory():
    train = stand_ins({'stream': ((), 'uint16', 50257)}, {'train': 9_035_582_198}, length=1024)['train']
    assert isinstance(train, WindowSource) and len(train) == 9_035_582_198 - 1024
    assert Data(train, {}).spec['tokens'] == jax.ShapeDtypeStruct((1024,), np.int32)


@pytest.mark.parametrize('source', [rows(), WindowSource(np.arange(50, dtype=np.uint16), 6, 6), Subset(rows(), [3, 1]),
                                    Map(rows(), dict)])
def test_the_spec_is_what_examples_have(source):
    found = Data(source, {}).spec
    assert found == {k: jax.ShapeDtypeStruct(np.shape(v), np.asarray(v).dtype) for k, v in source[0].items()}


def changed(name):
    """The same path with other contents."""
    source = rows()
    image, label = (source.arrays[k].copy() for k in ('image', 'label'))
    if name == 'one pixel':
        image[17, 3, 3] ^= 1
    elif name == 'one label':
        label[17] = (label[17] + 1) % 3
    elif name == 'order':
        image, label = image[::-1], label[::-1]
    elif name == 'shorter':
        image, label = image[:-1], label[:-1]
    return ArraySource({'image': image, 'label': label})


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: Subset(s, range(len(s)))])
@pytest.mark.parametrize(('name', 'word'), [('one pixel', 'contents'), ('one label', 'contents'), ('order', 'order'),
                                            ('shorter', '39 records, expected 40')])
def test_data_that_changed_is_noticed(name, word, wrap, monkeypatch):
    monkeypatch.setattr(sources, 'SAMPLES', 40)  # what is not an array is sampled
    before, now = (sources.identity(Data(wrap(s), {'val': rows(9)})) for s in (rows(), changed(name)))
    assert "'train'" in sources.difference(before, now) and word in sources.difference(before, now)
    assert sources.difference(before, before) == '' and sources.difference(now, sources.identity(
        Data(wrap(changed(name)), {'val': rows(9)}))) == ''


def test_classes_and_splits_identify_data_too():
    one, other, less = (sources.identity(Data(rows(), evals, info={'classes': classes})) for evals, classes in (
        ({'val': rows(9)}, ['a', 'b', 'c']), ({'val': rows(9)}, ['a', 'c', 'b']), ({}, ['a', 'b', 'c'])))
    assert 'classes' in sources.difference(one, other) and "'val'" in sources.difference(one, less)


def test_a_copy_of_a_folder_is_the_same_data(tmp_path):
    class Files:
        def __init__(self, root):
            self.files = [str(root / 'cat' / f'{i}.txt') for i in range(3)]

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {'x': np.frombuffer(open(self.files[index], 'rb').read(), np.uint8)}

    for name in ('a', 'b'):
        (tmp_path / name / 'cat').mkdir(parents=True)
        for i in range(3):
            (tmp_path / name / 'cat' / f'{i}.txt').write_text(str(i))
    assert sources.sample(Files(tmp_path / 'a')) == sources.sample(Files(tmp_path / 'b'))
    (tmp_path / 'b' / 'cat' / '1.txt').write_text('10')
    assert sources.sample(Files(tmp_path / 'a')) != sources.sample(Files(tmp_path / 'b'))
