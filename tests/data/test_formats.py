"""File formats of the named sets, written here by their definitions, and every way in which they can be damaged."""
import gzip
import struct

import numpy as np
import pytest
from made_up import write_idx, write_uci, write_ucr

from bigjax.data.loaders import formats
from tests.refused import refused

IMAGES, LABELS = 'train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'


@pytest.mark.parametrize('gz', [True, False])
def test_idx_pair(tmp_path, gz):
    image, label = write_idx(tmp_path, gz=gz)
    read = formats.idx_pair(tmp_path, 'train', (28, 28, 1), 10)
    np.testing.assert_array_equal(read['image'][..., 0], image)
    np.testing.assert_array_equal(read['label'], label)
    assert read['image'].dtype == np.uint8 and read['label'].dtype == np.int32
    assert formats.idx_pair(tmp_path, 't10k', (28, 28, 1), 10) is None


def damaged(path, change):
    """Rewrites the content of a .gz file."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize('harm, words', [
    (lambda f: (f / IMAGES).write_bytes((f / IMAGES).read_bytes()[:900]), [IMAGES, 'incomplete gzip']),
    (lambda f: damaged(f / IMAGES, lambda d: d[:16 + 784 * 3 + 5]), ['train-images', 'ends in record 3']),
    (lambda f: damaged(f / IMAGES, lambda d: d + b'abc'), ['train-images', '3 bytes more']),
    (lambda f: damaged(f / IMAGES, lambda d: b'\0\0\x0d\3' + d[4:]), ['train-images', '00000d03']),
    (lambda f: damaged(f / LABELS, lambda d: b''), ['train-labels', 'nothing']),
    (lambda f: damaged(f / LABELS, lambda d: d[:8] + bytes([1, 2, 11, 0, 0, 0, 0])),
     ['train-labels', 'record 2: got label 11', '0 to 9']),
    (lambda f: write_idx(f, shape=(28, 27)), ['train-images', '[28, 27, 1]', '[28, 28, 1]']),
    (lambda f: damaged(f / LABELS, lambda d: struct.pack('>BBBBi', 0, 0, 8, 1, 6) + d[8:14]),
     ['train-labels', '6 labels', '7 images'])])
def test_damaged_idx_names_file_and_record(tmp_path, harm, words):
    write_idx(tmp_path)
    harm(tmp_path)
    with refused('data/label-range' if '0 to 9' in words else 'data/damaged', *words):
        formats.idx_pair(tmp_path, 'train', (28, 28, 1), 10)


@pytest.mark.parametrize('content, words', [
    ('', []), ('1\t2\n3\t4\t5\n', ['line 2', '3 columns', '2']), ('1\t2\n3\tx\n', ['line 2', "'x'"])])
def test_damaged_table(tmp_path, content, words):
    (tmp_path / 'a.tsv').write_text(content)
    with refused('data/table-line' if content else 'data/empty', 'a.tsv', *words):
        formats.table(tmp_path / 'a.tsv', '\t')


def test_text_must_be_utf8(tmp_path):
    (tmp_path / 'a.txt').write_bytes('é'.encode('latin-1'))
    with refused('data/not-utf8', 'a.txt: byte 0'):
        formats.text(tmp_path / 'a.txt')
    with refused('data/unreadable', 'missing.txt'):
        formats.text(tmp_path / 'missing.txt')


def test_series_are_normalised_by_their_own_population_deviation():
    x = np.random.default_rng(0).normal(5, 3, (4, 20))
    x[2] = 7.0  # a constant one is only centred
    out, missing = formats.series(x)
    std = np.sqrt(((x - x.mean(1, keepdims=True)) ** 2).mean(1, keepdims=True))
    std[2] = 1
    np.testing.assert_allclose(out[..., 0], (x - x.mean(1, keepdims=True)) / std, atol=1e-6)
    assert out.dtype == np.float32 and out.shape == (4, 20, 1) and missing == 'none missing'


def test_missing_values_are_interpolated_and_short_series_filled():
    nan = np.nan
    out, missing = formats.series(np.array([[0, nan, 4, 6, 10], [1, 3, 5, nan, nan], [nan, 2, 4, 6, nan]], float))
    full = np.array([0, 2, 4, 6, 10.0])
    np.testing.assert_allclose(out[0, :, 0], (full - full.mean()) / full.std(), atol=1e-6)
    short = np.array([1, 3, 5.0])
    np.testing.assert_allclose(out[1, :, 0], [*((short - short.mean()) / short.std()), 0, 0], atol=1e-6)
    first = np.array([2, 2, 4, 6.0])  # before the first value stands the first value
    np.testing.assert_allclose(out[2, :, 0], [*((first - first.mean()) / first.std()), 0], atol=1e-6)
    assert '2 missing values in 2 series' in missing and '2 shorter series' in missing


@pytest.mark.parametrize('inner', ['', 'Toy'])
def test_ucr_labels_are_numbered_in_order(tmp_path, inner):
    write_ucr(tmp_path / inner)
    train, test, classes, _ = formats.ucr(tmp_path, 'Toy')
    np.testing.assert_array_equal(train['label'], [1, 0])
    np.testing.assert_array_equal(test['label'], [0, 1, 0])
    assert classes == ['-1', '3'] and test['x'].shape == (3, 3, 1) and train['label'].dtype == np.int32
    assert formats.ucr(tmp_path, 'Other') is None


@pytest.mark.parametrize('files, code, words', [
    (dict(test=((-1, 1, 0, 0), (7, 2, 2, 3))), 'unknown-class', ['Toy_TEST.tsv', 'record 1', 'label 7', '2 classes']),
    (dict(test=((-1, 1, 0),)), 'damaged', ['Toy_TEST.tsv', 'series of 2', '3']),
    (dict(train=((3, 1, 2, 4), (-1, 'NaN', 'NaN', 'NaN'))), 'empty', ['Toy_TRAIN.tsv', 'record 1'])])
def test_damaged_ucr(tmp_path, files, code, words):
    write_ucr(tmp_path, **files)
    with refused(f'data/{code}', *words):
        formats.ucr(tmp_path, 'Toy')


def test_uci(tmp_path):
    write_uci(tmp_path)
    x, y, splits = formats.uci(tmp_path)
    np.testing.assert_array_equal(x, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(y, [9, 8, 7])
    assert [[list(rows) for rows in split] for split in splits] == [[[2, 0], [1]]]


@pytest.mark.parametrize('change, words', [
    (dict(train=(2, 3)), ['index_train_0.txt', '0 to 2']), (dict(test=(0.5,)), ['index_test_0.txt', 'whole'])])
def test_damaged_uci(tmp_path, change, words):
    write_uci(tmp_path, **change)
    with refused('data/damaged', *words):
        formats.uci(tmp_path)


def test_scan_and_words(tmp_path):
    (tmp_path / 'a.txt').write_text('IN: jump twice OUT: I_JUMP I_JUMP\nIN: walk OUT: I_WALK\n')
    commands, actions = formats.scan(tmp_path / 'a.txt')
    assert commands == [['jump', 'twice'], ['walk']] and actions == [['I_JUMP', 'I_JUMP'], ['I_WALK']]
    vocabulary = formats.words(commands)
    assert vocabulary == ['<pad>', '<s>', '</s>', 'jump', 'twice', 'walk']
    np.testing.assert_array_equal(formats.pad_words(commands, vocabulary, 5, 'a'), [[1, 3, 4, 2, 0], [1, 5, 2, 0, 0]])
    with refused('data/too-long', 'a: record 0', '2 words', '1'):
        formats.pad_words(commands, vocabulary, 3, 'a')
    with refused('data/vocabulary', "record 1: 'walk'"):
        formats.pad_words(commands, vocabulary[:-1], 5, 'a')
    (tmp_path / 'b.txt').write_text('IN: jump twice\n')
    with refused('data/table-line', 'b.txt: line 1'):
        formats.scan(tmp_path / 'b.txt')
