"""Tables and arrays of one's own: types, pictures, text labels, and every damage by name."""
import json
import pickle
import sys
import zipfile

import numpy as np
import pytest
from made_up import encode, smooth

from bigjax.data import images
from bigjax.data.loaders import parquet, tables
from bigjax.data.sources import ArraySource
from bigjax.errors import UserError


def write_jsonl(path, records):
    path.write_text('\n'.join(json.dumps(record) for record in records) + '\n')
    return path


def test_jsonl_numbers_become_arrays(tmp_path):
    records = [{'x': [1, 2.5], 'n': 3, 'label': 'dog'}, {'x': [0, 1], 'n': 4, 'label': 'cat'}]
    path = write_jsonl(tmp_path / 'a.jsonl', records)
    source, classes = tables.jsonl(path)
    assert isinstance(source, ArraySource) and classes == ['cat', 'dog']
    np.testing.assert_array_equal(source.arrays['x'], np.float32([[1, 2.5], [0, 1]]))
    np.testing.assert_array_equal(source.arrays['label'], [1, 0])
    assert {k: str(v.dtype) for k, v in source.arrays.items()} == {'x': 'float32', 'n': 'int32', 'label': 'int32'}
    np.testing.assert_array_equal(tables.jsonl(path, classes=['ape', 'cat', 'dog'])[0].arrays['label'], [2, 1])


def test_jsonl_text_and_pictures_stay_with_the_record(tmp_path):
    (tmp_path / 'pics').mkdir()
    for i in range(3):
        (tmp_path / 'pics' / f'{i}.png').write_bytes(encode(smooth(seed=i), '.png'))
    records = [{'file': f'pics/{i}.png', 'caption': f'number {i}', 'label': i % 2} for i in range(3)]
    source, classes = tables.jsonl(write_jsonl(tmp_path / 'a.jsonl', records))
    assert not hasattr(source, 'arrays') and len(source) == 3 and classes is None  # text cannot live on a device
    example = source[2]
    np.testing.assert_array_equal(example['image'], smooth(seed=2))
    assert example['caption'] == 'number 2' and example['label'] == 0
    np.testing.assert_array_equal(source.labels, [0, 1, 0])
    assert tables.jsonl(tmp_path / 'a.jsonl', image_size=8)[0][0]['image'].shape == (8, 8, 3)
    assert pickle.loads(pickle.dumps(source))[1]['label'] == 1
    (tmp_path / 'pics' / '1.png').write_bytes(b'')
    with pytest.raises(UserError, match=r'pics/1\.png \(record 1 of .*a\.jsonl\): not a picture'):
        source[1]


@pytest.mark.parametrize('content, words', [
    ('', ['no records']), ('{"a": 1}\n{"a": 1', ['line 2', 'not JSON']), ('{"a": 1}\n{"b": 1}', ['line 2', 'keys']),
    ('[1]', ['line 1', 'keys']), ('{"a": 1}\n{"a": "x"}', ['record 1', 'column a', '"x"']),
    ('{"a": null}', ['record 0', 'null']),
    ('{"a": [1, 2]}\n{"a": [1]}', ['record 1', 'column a', '1 values', '2 in record 0']),
    ('{"a": 4000000000}', ['column a', '32 bits'])])
def test_damaged_jsonl(tmp_path, content, words):
    (tmp_path / 'a.jsonl').write_text(content)
    with pytest.raises(UserError) as error:
        tables.jsonl(tmp_path / 'a.jsonl')
    assert all(word in str(error.value) for word in ['a.jsonl', *words]), error.value


def test_csv_columns_are_typed(tmp_path):
    (tmp_path / 'a.csv').write_text('n,x,label,name\n1,2,dog,"a, b"\n3,0.5,cat,c\n')
    source, classes = tables.csv(tmp_path / 'a.csv')
    assert classes == ['cat', 'dog'] and source.columns['name'] == ['a, b', 'c']
    assert source.columns['n'].dtype == np.int32 and source.columns['x'].dtype == np.float32
    np.testing.assert_array_equal(source[1]['x'], np.float32(0.5))
    (tmp_path / 'b.csv').write_text('a,b\n1,2\n3,4\n')
    assert isinstance(tables.csv(tmp_path / 'b.csv')[0], ArraySource)


@pytest.mark.parametrize('content, words', [
    ('', ['header']), ('a,a\n1,2', ['each once']), ('a,b\n', ['no records']), ('a,b\n1,2\n3', ['line 3', '1 columns']),
    ('a,b\n1,\n', ['line 2', 'column b'])])
def test_damaged_csv(tmp_path, content, words):
    (tmp_path / 'a.csv').write_text(content)
    with pytest.raises(UserError) as error:
        tables.csv(tmp_path / 'a.csv')
    assert all(word in str(error.value) for word in ['a.csv', *words]), error.value


def test_unknown_class_in_a_second_file(tmp_path):
    (tmp_path / 'a.csv').write_text('x,label\n1,cat\n2,emu\n')
    with pytest.raises(UserError, match=r'a\.csv: record 1 has label emu, outside the 2 classes cat, dog'):
        tables.csv(tmp_path / 'a.csv', classes=['cat', 'dog'])


def test_npz(tmp_path):
    np.savez(tmp_path / 'a.npz', x=np.arange(6.0).reshape(3, 2), label=np.arange(3))
    arrays = tables.npz(tmp_path / 'a.npz')
    assert arrays['x'].dtype == np.float32 and arrays['label'].dtype == np.int32
    np.testing.assert_array_equal(arrays['x'], np.arange(6).reshape(3, 2))


def _cut(path):
    path.write_bytes(path.read_bytes()[:200])


def _harm_inside(path):
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo('x.npy').header_offset
    data = bytearray(path.read_bytes())
    data[offset + 300] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize('harm, words', [
    (_cut, ['not a complete']), (_harm_inside, ['array x is damaged']), (lambda p: p.unlink(), ['no such file']),
    (lambda p: p.write_bytes(b'hello'), ['not a complete']), (lambda p: np.savez(p), ['no arrays']),
    (lambda p: np.savez(p, x=np.array(['a', 'b'])), ['array x', 'numbers']),
    (lambda p: np.savez(p, x=np.array([{}, None])), ['x', 'damaged', 'pickle']),
    (lambda p: np.savez(p, x=np.array([2**40])), ['x', '32 bits'])])
def test_damaged_npz(tmp_path, harm, words):
    np.savez(tmp_path / 'a.npz', x=np.arange(4000.0), label=np.arange(4000))
    harm(tmp_path / 'a.npz')
    with pytest.raises(UserError) as error:
        tables.npz(tmp_path / 'a.npz')
    assert all(word.lower() in str(error.value).lower() for word in ['a.npz', *words]), error.value


@pytest.fixture
def pq():
    return pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed')


def test_parquet_of_numbers_is_in_memory(tmp_path, pq):
    import pyarrow as pa
    pq.write_table(pa.table({'x': [[1.0, 2.0], [3.0, 4.0]], 'n': [1, 2], 'label': [0, 1]}), tmp_path / 'a.parquet')
    source = parquet.parquet(tmp_path / 'a.parquet')
    assert isinstance(source, ArraySource) and source.arrays['x'].shape == (2, 2)
    assert {k: str(v.dtype) for k, v in source.arrays.items()} == {'x': 'float32', 'n': 'int32', 'label': 'int32'}


def test_parquet_reads_row_groups(tmp_path, pq):
    import pyarrow as pa
    n = 10
    pictures = [{'bytes': encode(smooth(seed=i), '.png'), 'path': None} for i in range(n)]
    texts, x = [f't{i}' for i in range(n)], [[i, 0.5] for i in range(n)]
    table = pa.table({'image': pictures, 'text': texts, 'label': list(range(n)), 'x': x})
    pq.write_table(table, tmp_path / 'a.parquet', row_group_size=3)
    source = parquet.parquet(tmp_path / 'a.parquet')
    assert len(source) == n and not hasattr(source, 'arrays')
    for i in (9, 0, 3, 2, 5, -1):
        example, k = source[i], i % n
        np.testing.assert_array_equal(example['image'], smooth(seed=k))
        assert example['text'] == f't{k}' and example['label'] == k and example['label'].dtype == np.int32
        np.testing.assert_array_equal(example['x'], np.float32([k, 0.5]))
    np.testing.assert_array_equal(source.labels, range(n))
    assert pickle.loads(pickle.dumps(source))[4]['label'] == 4
    with pytest.raises(IndexError):
        source[n]
    assert parquet.ParquetSource(tmp_path / 'a.parquet', image_size=6)[0]['image'].shape == (6, 6, 3)


def test_damaged_parquet(tmp_path, pq):
    import pyarrow as pa
    path = tmp_path / 'a.parquet'
    pq.write_table(pa.table({'image': [b'not a picture', b''], 'label': [0, None]}), path)
    with pytest.raises(UserError, match=r'a\.parquet \(record 1, column image\): not a picture'):
        parquet.parquet(path)[1]
    pq.write_table(pa.table({'text': ['a', 'b'], 'label': [0, None]}), path)
    with pytest.raises(UserError, match=r'a\.parquet \(record 1, column label\): no value'):
        parquet.parquet(path)[1]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r'a\.parquet: not a complete Parquet file'):
        parquet.parquet(path)
    with pytest.raises(UserError, match=r'b\.parquet: there is no such file'):
        parquet.parquet(tmp_path / 'b.parquet')


def test_missing_packages_are_named(tmp_path, monkeypatch):
    picture = encode(smooth())
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(UserError, match=r"pip install 'bigjax\[parquet\]'"):
        parquet.parquet(tmp_path / 'a.parquet')
    with pytest.raises(UserError, match='pip install opencv-python-headless'):
        images.decode(picture, 'x')
