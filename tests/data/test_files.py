"""Files of tables and arrays: how each format is read, and every damage by name."""
import json
import pickle
import sys
import zipfile

import numpy as np
import pytest
from made_up import encode, smooth

from bigjax.data.datasets import open_data
from bigjax.data.loaders import parquet, tables
from bigjax.data.loaders.records import table_source
from bigjax.data.schema import Schema
from bigjax.data.sources import ArraySource
from tests.refused import refused


def write_jsonl(path, records):
    path.write_text('\n'.join(json.dumps(record) for record in records) + '\n')
    return path


def read(raw, image_size=None):
    """(source, classes) of a table that is its own training table."""
    schema = Schema.fit(raw)
    return table_source(raw, schema, image_size)[0], schema.classes


def texts(raw, name):
    return raw.columns[name].texts.to_pylist()


# -- CSV --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('cell', ['a\nb', 'a\rb', 'a\r\nb', 'a\x0bb', 'a\x0cb', 'a\x1cb', 'a\x85b', 'a\u2028b', 'a\u2029b',
                                  'a,b', 'a"b'])
@pytest.mark.parametrize('ends', ['\n', '\r\n', '\r'])
def test_csv_cells_keep_what_is_inside_their_quotes(tmp_path, cell, ends):
    quoted = cell.replace('"', '""')
    content = f'text,label{ends}"{quoted}",1{ends}plain,0{ends}'
    (tmp_path / 'a.csv').write_bytes(content.encode())
    assert texts(tables.csv(tmp_path / 'a.csv'), 'text') == [cell, 'plain']


@pytest.mark.parametrize('separator', [',', ';', '\t', '|'])
@pytest.mark.parametrize('blank', ['', ' ', '   '])
def test_csv_separators_marks_and_blanks(tmp_path, separator, blank):
    lines = [['x1', 'x2', 'Label'], ['1', '2', 'dog'], ['3', '4', 'cat']]
    content = '\ufeff' + '\n'.join((separator + blank).join(line) + blank for line in lines)
    (tmp_path / 'a.csv').write_text(content, encoding='utf-8')
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0)
    np.testing.assert_array_equal(splits.train.arrays['x'], [[1, 2], [3, 4]])
    assert splits.info['classes'] == ['cat', 'dog'] and splits.info['features'] == ['x1', 'x2']
    said = splits.info['found'][-1]
    assert 'label' in said and (separator == ',' or 'separated by' in said)


@pytest.mark.parametrize('first', ['', 'Unnamed: 0', '__index_level_0__'])
def test_row_numbers_that_pandas_wrote_are_left_out(tmp_path, first):
    (tmp_path / 'a.csv').write_text(f'{first},u,label\n' + ''.join(f'{i},{i % 5},{i // 20}\n' for i in range(40)))
    splits = open_data(f'csv:{tmp_path}/a.csv')
    assert splits.info['features'] == ['u'] and 'row numbers' in splits.info['found'][-1]


def test_row_numbers_of_a_parquet_file_are_left_out(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table({'u': [1, 2, 3], 'label': [0, 1, 0], '__index_level_0__': [0, 1, 2]}), tmp_path / 'a.parquet')
    splits = open_data(f'parquet:{tmp_path}/a.parquet')
    assert splits.info['features'] == ['u'] and 'row numbers' in splits.info['found'][-1]


def test_csv_columns_that_hold_nothing_or_text_are_left_out_by_name(tmp_path):
    (tmp_path / 'a.csv').write_text('n,empty,name,same,label\n' + ''.join(f'{i},,person {i},k,{i % 2}\n' for i in range(30)))
    splits = open_data(f'csv:{tmp_path}/a.csv')
    assert splits.info['features'] == ['n']
    said = splits.info['found'][-1]
    assert all(word in said for word in ('empty (empty)', 'name (text: 30 different values in 30 records)', 'same (always k)'))


@pytest.mark.parametrize('content, code, names', [
    ('', 'data/no-header', []), ('\n\n', 'data/no-header', []), ('a,a\n1,2', 'data/two-columns', ['a']),
    ('a, a\n1,2', 'data/two-columns', ['a']), ('label,Label\n1,2', 'data/two-columns', ['label']), ('a,b\n', 'data/empty', []),
    ('a,b\n1,2\n3', 'data/csv-line', ['line 3', '1 columns']), ('a,b\n1,2,3\n', 'data/csv-line', ['line 2', '3 columns']),
    ('a,,label\n1,2,3\n', 'data/nameless-column', ['column 2 of 3']),
    ('5.1,3.5,setosa\n4.9,3,setosa\n', 'data/no-header', ['5.1']),
    ('a,b\n1,"2\n', 'data/csv', []), ('label\n\xff', 'data/not-utf8', ['byte 6'])])
def test_damaged_csv(tmp_path, content, code, names):
    (tmp_path / 'a.csv').write_bytes(content.encode('latin-1'))
    with refused(code, 'a.csv', *names):
        read(tables.csv(tmp_path / 'a.csv'))


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / 'a.csv').write_text('text,label\n' + 'x' * (3 << 20) + ',1\ny,0\n')
    assert len(texts(tables.csv(tmp_path / 'a.csv'), 'text')[0]) == 3 << 20


@pytest.mark.slow
def test_a_million_records_are_read_in_seconds(tmp_path):
    import time
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1_000_000, 8)).round(4)
    with open(tmp_path / 'a.csv', 'w') as file:
        file.write('a,b,c,d,e,f,g,h,label\n')
        np.savetxt(file, np.column_stack([values, np.arange(1_000_000) % 3]), fmt='%.4f', delimiter=',')
    started = time.monotonic()
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0)
    assert time.monotonic() - started < 30
    np.testing.assert_allclose(splits.train.arrays['x'], values, atol=1e-4)


# -- JSON Lines -------------------------------------------------------------------------------------------------------

def test_jsonl_numbers_become_arrays(tmp_path):
    records = [{'x': [1, 2.5], 'n': 3, 'label': 'dog'}, {'x': [0, 1], 'n': 4, 'label': 'cat'}]
    path = write_jsonl(tmp_path / 'a.jsonl', records)
    path.write_text('\ufeff' + path.read_text(), encoding='utf-8')
    source, classes = read(tables.jsonl(path))
    assert isinstance(source, ArraySource) and classes == ['cat', 'dog']
    np.testing.assert_array_equal(source.arrays['x'], np.float32([[1, 2.5], [0, 1]]))
    np.testing.assert_array_equal(source.arrays['label'], [1, 0])
    assert {k: str(v.dtype) for k, v in source.arrays.items()} == {'x': 'float32', 'n': 'int32', 'label': 'int32'}


def test_jsonl_text_and_images_stay_with_the_record(tmp_path):
    (tmp_path / 'pics').mkdir()
    for i in range(3):
        (tmp_path / 'pics' / f'{i}.png').write_bytes(encode(smooth(seed=i), '.png'))
    records = [{'file': f'pics/{i}.png', 'caption': f'number {i}', 'label': i % 2} for i in range(3)]
    raw = tables.jsonl(write_jsonl(tmp_path / 'a.jsonl', records))
    source, classes = read(raw)
    assert not hasattr(source, 'arrays') and len(source) == 3 and classes == ['0', '1']  # text cannot live on a device
    example = source[2]
    np.testing.assert_array_equal(example['image'], smooth(seed=2))
    assert example['caption'] == 'number 2' and example['label'] == 0
    np.testing.assert_array_equal(source.labels, [0, 1, 0])
    assert read(raw, image_size=8)[0][0]['image'].shape == (8, 8, 3)
    assert pickle.loads(pickle.dumps(source))[1]['label'] == 1
    (tmp_path / 'pics' / '1.png').write_bytes(b'')
    with refused('data/image', 'pics/1.png (record 1 of ', 'a.jsonl'):
        source[1]


@pytest.mark.parametrize('content, code, names', [
    ('', 'data/empty', []), ('{"a": 1}\n{"a": 1', 'data/not-json', ['line 2']), ('{"a": 1}\n{"b": 1}', 'data/keys', ['line 2']),
    ('[1]', 'data/keys', ['line 1']), ('{"a": 1}\n{"a": "x"}', 'data/mixed-column', ['record 1', 'column a', '"x"']),
    ('{"a": "x"}\n{"a": null}\n{"a": 1}', 'data/mixed-column', ['record 2', 'got 1', 'like "x"']),
    ('{"a": {"b": 1}}', 'data/mixed-column', ['record 0', 'expected a number, a text or a list']),
    ('{"a": null}', 'data/no-columns', ['a: empty']), ('{"a": [1]}\n{"a": null}', 'data/mixed-column', ['record 1']),
    ('{"a": [1, 2]}\n{"a": [1]}', 'data/ragged', ['record 1', 'column a', '1 values', 'expected 2']),
    ('{"a": 4000000000}', 'data/too-wide', ['column a', '32 bits']), ('{"a": 1e999}', 'data/not-finite', ['record 0']),
    ('{"": 1, "b": 2}\n{"": 1, "b": 2}', '', [])])
def test_damaged_jsonl(tmp_path, content, code, names):
    (tmp_path / 'a.jsonl').write_text(content)
    if not code:
        assert list(tables.jsonl(tmp_path / 'a.jsonl').columns) == ['b']
        return
    with refused(code, 'a.jsonl', *names):
        read(tables.jsonl(tmp_path / 'a.jsonl'))


# -- npz --------------------------------------------------------------------------------------------------------------

def _cut(path):
    path.write_bytes(path.read_bytes()[:200])


def _harm_inside(path):
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo('x.npy').header_offset
    data = bytearray(path.read_bytes())
    data[offset + 300] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize('harm, code, names', [
    (_cut, 'data/damaged', []), (_harm_inside, 'data/damaged', ['array x']), (lambda p: p.unlink(), 'data/unreadable', []),
    (lambda p: p.write_bytes(b'hello'), 'data/damaged', []),
    (lambda p: np.savez(p, x=np.array([{}, None])), 'data/damaged', ['array x'])])
def test_damaged_archive(tmp_path, harm, code, names):
    np.savez(tmp_path / 'a.npz', x=np.arange(4000.0), label=np.arange(4000))
    harm(tmp_path / 'a.npz')
    with refused(code, 'a.npz', *names):
        tables.npz(tmp_path / 'a.npz')


@pytest.mark.parametrize('arrays, code, names', [
    ({}, 'data/empty', []), ({'x': np.array(['a', 'b'])}, 'data/not-numbers', ['array x']),
    ({'x': np.array([2**40])}, 'data/too-wide', ['x', '32 bits']),
    ({'x': np.zeros((3, 2)), 'label': np.zeros(4, int)}, 'data/lengths', ["'x': 3", "'label': 4"])])
def test_arrays_that_are_no_records(tmp_path, arrays, code, names):
    np.savez(tmp_path / 'a.npz', **arrays)
    with refused(code, 'a.npz', *names):
        open_data(f'npz:{tmp_path}/a.npz')


@pytest.mark.parametrize('y, name', [
    (np.arange(6) % 2, 'label'), (np.arange(6)[:, None] % 2, 'label'), (np.arange(6) / 4, 'target')])
def test_y_of_an_archive_is_the_label_or_the_target(tmp_path, y, name):
    np.savez(tmp_path / 'a.npz', x=np.arange(12.0).reshape(6, 2), y=y)
    train = open_data(f'npz:{tmp_path}/a.npz', val_fraction=0).train
    np.testing.assert_array_equal(train.arrays[name], y.reshape(-1))
    assert train.arrays['x'].dtype == np.float32


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    np.savez(tmp_path / 'a.npz', x=np.zeros((4, 2)), label=np.arange(4) % 2)
    assert len(open_data('npz:~/a.npz', val_fraction=0).train) == 4


# -- Parquet ----------------------------------------------------------------------------------------------------------

def write_parquet(path, columns, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_of_numbers_is_in_memory(tmp_path):
    path = write_parquet(tmp_path / 'a.parquet', {'x': [[1.0, 2.0], [3.0, 4.0]], 'n': [1, 2], 'label': [0, 1]})
    source = open_data(f'parquet:{path}', val_fraction=0).train
    assert isinstance(source, ArraySource) and source.arrays['x'].shape == (2, 2)
    assert {k: str(v.dtype) for k, v in source.arrays.items()} == {'x': 'float32', 'n': 'int32', 'label': 'int32'}


@pytest.mark.parametrize('read_whole', [True, False])
def test_a_large_parquet_file_is_read_as_it_is_needed(tmp_path, monkeypatch, read_whole):
    monkeypatch.setattr(parquet, 'IN_MEMORY_BYTES', 1 << 30 if read_whole else 0)
    columns = {'a': [1.0, None, 3.0, 2.0], 'flag': [True, False, None, True], 'kind': ['u', 'v'] * 2, 'label': ['p', 'q'] * 2}
    splits = open_data(f'parquet:{write_parquet(tmp_path / "a.parquet", columns, row_group_size=2)}', val_fraction=0)
    assert hasattr(splits.train, 'arrays') == read_whole and splits.info['classes'] == ['p', 'q']
    got = np.stack([splits.train[i]['x'] for i in range(4)])
    np.testing.assert_allclose(got, [[1, 1, 0], [2, 0, 1], [3, 2 / 3, 0], [2, 1, 1]], rtol=1e-6)
    np.testing.assert_array_equal([splits.train[i]['label'] for i in range(4)], [0, 1, 0, 1])


def test_parquet_reads_row_groups(tmp_path):
    n = 10
    pictures = [{'bytes': encode(smooth(seed=i), '.png'), 'path': None} for i in range(n)]
    columns = {'image': pictures, 'text': [f't{i}' for i in range(n)], 'label': list(range(n)),
               'x': [[i, 0.5] for i in range(n)]}
    path = write_parquet(tmp_path / 'a.parquet', columns, row_group_size=3)
    schema = Schema.fit(parquet.raw_table(path))
    source = parquet.ParquetSource(path, schema)
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
    assert parquet.ParquetSource(path, schema, image_size=6)[0]['image'].shape == (6, 6, 3)


def test_damaged_parquet(tmp_path):
    path = write_parquet(tmp_path / 'a.parquet', {'image': [b'not an image', b''], 'label': [0, 1]})
    with refused('data/image', 'a.parquet (record 1), column image'):
        parquet.ParquetSource(path, Schema.fit(parquet.raw_table(path)))[1]
    write_parquet(path, {'text': ['a', 'b'], 'label': [0, None]})
    with refused('data/no-label', 'a.parquet', 'record 1'):
        open_data(f'parquet:{path}')
    path.write_bytes(path.read_bytes()[:-10])
    with refused('data/damaged', 'a.parquet'):
        open_data(f'parquet:{path}')
    with refused('data/no-file', 'b.parquet'):
        open_data(f'parquet:{tmp_path}/b.parquet')


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    with refused('data/package', 'pip install pyarrow'):
        parquet.raw_table(tmp_path / 'a.parquet')
