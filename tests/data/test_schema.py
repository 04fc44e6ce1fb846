"""Decisions about the columns of a table: made from the training records, the same in every format, and held to."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigjax.data.datasets import open_data
from bigjax.data.loaders import tables
from bigjax.data.schema import Schema
from tests.refused import refused

FORMATS = ('csv', 'jsonl', 'parquet', 'npz')


def write(path, columns):
    """A table of {name: values} in the format of the ending; None is an empty cell."""
    kind = path.suffix[1:]
    rows = list(zip(*columns.values(), strict=True))
    if kind == 'csv':
        lines = [','.join(columns), *(','.join('' if v is None else str(v) for v in row) for row in rows)]
        path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    elif kind == 'jsonl':
        path.write_text(''.join(json.dumps(dict(zip(columns, row, strict=True))) + '\n' for row in rows))
    elif kind == 'parquet':
        import pyarrow as pa
        import pyarrow.parquet as pq
        pq.write_table(pa.table(columns), path)
    else:
        np.savez(path, **{name: np.array(values) for name, values in columns.items()})
    return path


def opened(tmp_path, kind, train, test=None):
    folder = tmp_path / kind
    folder.mkdir(exist_ok=True)
    write(folder / f'train.{kind}', train)
    if test is not None:
        write(folder / f'test.{kind}', test)
    return open_data(f'{kind}:{folder}', val_fraction=0)


def table(label, n=None):
    n = n or len(label)
    return {'a': [i * 1.5 for i in range(n)], 'label': label}


# -- labels -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', FORMATS[:3])
def test_text_labels_number_the_test_records_too(tmp_path, kind):
    """A test file whose labels all look like numbers is numbered by the training classes."""
    splits = opened(tmp_path, kind, table(['1', '2', '3', 'other'] * 3), table(['3', '1', '2']))
    assert splits.info['classes'] == ['1', '2', '3', 'other']
    np.testing.assert_array_equal(splits.train.arrays['label'], [0, 1, 2, 3] * 3)
    np.testing.assert_array_equal(splits.evals['test'].arrays['label'], [2, 0, 1])


@pytest.mark.parametrize('kind', FORMATS[1:3])
def test_labels_that_are_text_in_one_split_and_numbers_in_the_other(tmp_path, kind):
    splits = opened(tmp_path, kind, table(['1', '2', '3', 'x']), table([1, 2, 3]))
    np.testing.assert_array_equal(splits.evals['test'].arrays['label'], [0, 1, 2])
    splits = opened(tmp_path, kind, table([1, 2, 3, 4]), table(['1', '2', '3']))
    np.testing.assert_array_equal(splits.evals['test'].arrays['label'], [1, 2, 3])


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('label, strange', [
    ([0, 1, 2, 1], [0, 3]), (['a', 'b', 'a', 'b'], ['a', 'c']), ([0, 1, 0, 1], ['x', '0'])])
def test_a_class_that_train_does_not_have_is_refused(tmp_path, kind, label, strange):
    if kind == 'npz' and isinstance(strange[0], str):
        pytest.skip('npz holds numbers')
    record = 0 if strange[0] == 'x' else 1
    with refused('data/unknown-class', f'test.{kind}', f'record {record}', str(strange[record])):
        opened(tmp_path, kind, table(label), table(strange))


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('label', [[0.0, 1.0, 7.0], [0, 1, 7], [[0], [1], [7]]], ids=['floats', 'ints', 'columns'])
def test_whole_labels_are_classes_in_every_format(tmp_path, kind, label):
    if kind == 'csv' and isinstance(label[0], list):
        pytest.skip('a cell holds one value')
    splits = opened(tmp_path, kind, table(label))
    assert splits.train.arrays['label'].dtype == np.int32 and splits.info['classes'] == list('01234567')
    np.testing.assert_array_equal(splits.train.arrays['label'], [0, 1, 7])


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('label, code, name', [
    ([0.0, 1.5, 1.0], 'data/label-not-whole', '1.5'), ([0, -1, 1], 'data/label-range', '-1'),
    ([0, 1, 20190101], 'data/label-range', '20190101')])
def test_labels_that_number_no_classes_are_refused(tmp_path, kind, label, code, name):
    with refused(code, f'train.{kind}', name):
        opened(tmp_path, kind, table(label))


@pytest.mark.parametrize('kind', FORMATS[:3])
@pytest.mark.parametrize('label', [['a', None, 'b'], [1, None, 0]])
def test_a_record_without_a_label_is_refused(tmp_path, kind, label):
    with refused('data/no-label', 'record 1', 'line 3' if kind == 'csv' else ''):
        opened(tmp_path, kind, table(label))
    with refused('data/no-label', f'test.{kind}', 'record 1'):
        opened(tmp_path, kind, table([v if v is not None else label[0] for v in label]), table(label))


# -- features ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', FORMATS[:3])
def test_empty_cells_and_categories_are_features(tmp_path, kind):
    """The mean and the most frequent value are those of the training records, whatever the test records hold."""
    train = {'age': [10.0, None, 30.0, 20.0] * 3, 'colour': ['red', 'blue', None, 'red'] * 3,
             'size': ['s', 'm', 'l', 'm'] * 3, 'label': [0, 1, 1, 0] * 3}
    test = {'size': ['m', 'xl'], 'age': [None, 4.0], 'label': [1, 0], 'colour': ['blue', None]}
    splits = opened(tmp_path, kind, train, test)
    assert splits.info['features'] == ['age', 'colour=red', 'size=l', 'size=m', 'size=s']
    np.testing.assert_array_equal(splits.train.arrays['x'][:4], np.float32(
        [[10, 1, 0, 0, 1], [20, 0, 0, 1, 0], [30, 1, 1, 0, 0], [20, 1, 0, 1, 0]]))
    np.testing.assert_array_equal(splits.evals['test'].arrays['x'], np.float32([[20, 0, 0, 1, 0], [4, 1, 0, 0, 0]]))
    said = ' '.join(splits.info['found'])
    words = ('3 empty in age', 'mean, 20', '3 empty in colour', 'red', 'test: 1 empty in age', 'xl')
    assert all(word in said for word in words), said


def test_scikit_learn_fills_and_spreads_the_same(tmp_path):
    from sklearn import impute
    from sklearn.preprocessing import OneHotEncoder
    rng = np.random.default_rng(0)
    ages = [None if rng.random() < 0.2 else float(rng.normal(40, 9)) for _ in range(60)]
    towns = [str(rng.choice(['a', 'b', 'c', 'd'])) for _ in range(60)]
    splits = opened(tmp_path, 'csv', {'age': ages[:40], 'town': towns[:40], 'label': [0, 1] * 20},
                    {'age': ages[40:], 'town': towns[40:], 'label': [0, 1] * 10})
    column = np.array([[np.nan if a is None else a] for a in ages])
    fill = impute.SimpleImputer().fit(column[:40])
    hot = OneHotEncoder(sparse_output=False).fit(np.array(towns[:40])[:, None])
    for source, rows in ((splits.train, slice(40)), (splits.evals['test'], slice(40, None))):
        want = np.hstack([fill.transform(column[rows]), hot.transform(np.array(towns[rows])[:, None])])
        np.testing.assert_allclose(source.arrays['x'], want, rtol=1e-6)


def test_a_category_of_many_values_is_one_column_numbered_by_frequency(tmp_path):
    values = [f'town {i % 70}' for i in range(800)]
    test = {'town': ['town 0', 'nowhere'], 'label': [0, 1]}
    splits = opened(tmp_path, 'csv', {'town': values, 'label': [0, 1] * 400}, test)
    assert splits.info['features'] == ['town'] and splits.train.arrays['x'].max() == 69
    assert splits.train.arrays['x'][0] == 0 and splits.evals['test'].arrays['x'][1] == 70


@pytest.mark.parametrize('kind', FORMATS)
def test_a_number_column_called_x_is_a_feature_like_others(tmp_path, kind):
    splits = opened(tmp_path, kind, {'x': [1, 2, 3, 4], 'y': [0, 1, 0, 1], 'label': [0, 1, 0, 1]})
    np.testing.assert_array_equal(splits.train.arrays['x'], np.float32([[1, 0], [2, 1], [3, 0], [4, 1]]))
    assert splits.info['features'] == ['x', 'y']


@pytest.mark.parametrize('name', ['x', '_mask', 'losses', 'tokens'])
def test_a_reserved_name_beside_an_array_is_refused(tmp_path, name):
    with refused('data/reserved-column', name):
        opened(tmp_path, 'jsonl', {name: [1, 2], 'signal': [[1, 2], [3, 4]], 'label': [0, 1]})
    splits = opened(tmp_path, 'jsonl', {name: [1, 2], 'b': [3, 4], 'label': [0, 1]})
    assert splits.info['features'] == [name, 'b'] and set(splits.train.arrays) == {'x', 'label'}


def test_arrays_keep_their_shape_in_every_split(tmp_path):
    for kind in FORMATS[1:]:
        splits = opened(tmp_path, kind, {'x': [[1, 2], [3, 4]], 'label': [0, 1]}, {'x': [[5.5, 6]], 'label': [1]})
        assert splits.train.arrays['x'].shape == (2, 2)
        with refused('data/column-kind', f'test.{kind}', '[3]', '[2]'):
            opened(tmp_path, kind, {'x': [[1, 2], [3, 4]], 'label': [0, 1]}, {'x': [[5, 6, 7]], 'label': [1]})


@pytest.mark.parametrize('kind', FORMATS)
def test_a_column_that_a_split_lacks_is_refused_and_one_more_is_left_out(tmp_path, kind):
    train = {'a': [1, 2, 3], 'b': [4, 5, 6], 'label': [0, 1, 0]}
    with refused('data/missing-column', f'test.{kind}', "'b'"):
        opened(tmp_path, kind, train, {'a': [1], 'label': [0]})
    splits = opened(tmp_path, kind, train, {'c': [9], 'b': [8], 'label': [1], 'a': [7]})
    np.testing.assert_array_equal(splits.evals['test'].arrays['x'], [[7, 8]])
    assert 'c (not in the training records)' in splits.info['found'][-1]


@pytest.mark.parametrize('value', ['1_0', '2_31', 'NaN', 'Infinity', '0x10', '١'])
def test_texts_that_python_would_read_as_numbers_stay_text(tmp_path, value):
    (tmp_path / 'a.csv').write_text('id,label\n' + ''.join(f'{v},{k}\n' for k in (0, 1) for v in (value, 'abc', value, 'abc')))
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0)
    column = Schema.from_json(splits.info['schema']).columns[0]
    assert column.kind == 'category' and set(column.values) == {value, 'abc'}


@pytest.mark.parametrize('value', ['1', '-1', '+1', '1.', '.5', '1e5', '-1.5E-3', '007'])
def test_numbers_in_their_notations(tmp_path, value):
    (tmp_path / 'a.csv').write_text(f'n,label\n{value},0\n2,1\n')
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0)
    np.testing.assert_array_equal(splits.train.arrays['x'], np.float32([[float(value)], [2]]))


@pytest.mark.parametrize('cell', ['2,500', '10%', '$5', 'n.a.', 'Infinity', '1_0', '1e400', '12 km'])
def test_one_bad_cell_in_a_column_of_numbers_is_named(tmp_path, cell):
    rows = [f'{i},{i % 2}' for i in range(30)]
    rows[17] = f'"{cell}",1'
    (tmp_path / 'a.csv').write_text('price,label\n' + '\n'.join(rows) + '\n')
    with refused('data/not-a-number', 'a.csv', 'record 17', 'line 19', 'price', cell):
        open_data(f'csv:{tmp_path}/a.csv')


@pytest.mark.parametrize('cell', ['', 'NA', 'NaN', 'null', 'NULL', '?', 'None'])
def test_an_empty_cell_in_a_column_of_numbers_is_filled(tmp_path, cell):
    rows = [f'{i},{i % 2}' for i in range(30)]
    rows[17] = f'{cell},1'
    (tmp_path / 'a.csv').write_text('price,label\n' + '\n'.join(rows) + '\n')
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0)
    assert splits.train.arrays['x'][17, 0] == np.float32(np.mean([i for i in range(30) if i != 17]))
    assert '1 empty in price' in splits.info['found'][-1]


@pytest.mark.parametrize('kind', ['csv', 'jsonl'])
def test_a_held_out_record_does_not_fill_an_empty_cell(tmp_path, kind):
    """Cells are filled from the records that are trained on: here the held-out ones have another mean and another town."""
    blank = open_data_of(tmp_path, kind, [float(i) for i in range(40)], ['a', 'b'] * 20)
    held = {int(v) for v in blank.evals['val'].arrays['x'][:, 0]}
    empty = next(i for i in range(40) if i not in held)
    price = [None if i == empty else 1e6 if i in held else float(i) for i in range(40)]
    town = [None if i == empty else 'b' if i in held or i % 3 == 0 else 'a' for i in range(40)]
    splits = open_data_of(tmp_path, kind, price, town)
    kept = [p for i, p in enumerate(price) if i not in held and p is not None]
    train = splits.train.arrays['x']
    assert np.float32(np.mean(kept)) in train[:, 0] and train[:, 0].max() < 1e6
    schema = {c['name']: c for c in splits.info['schema']['columns']}
    assert schema['price']['fill'] == np.mean(kept) and schema['town']['fill'] == 'a'


def open_data_of(tmp_path, kind, price, town):
    """A file of two columns and a target, with a held-out part."""
    path = tmp_path / f'own.{kind}'
    if kind == 'csv':
        cell = lambda v: '' if v is None else str(v)
        path.write_text('price,town,target\n' + ''.join(f'{cell(p)},{cell(t)},0.5\n' for p, t in zip(price, town, strict=True)))
    else:
        records = [{'price': p, 'town': t, 'target': 0.5} for p, t in zip(price, town, strict=True)]
        path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return open_data(f'{kind}:{path}')


def test_columns_of_numbers_in_another_notation_are_refused(tmp_path):
    (tmp_path / 'a.csv').write_text('price,label\n' + ''.join(f'"{i},500",{i % 2}\n' for i in range(30)))
    with refused('data/not-a-number', 'record 0', '0,500'):
        open_data(f'csv:{tmp_path}/a.csv')


def test_a_target_is_a_number_in_every_record(tmp_path):
    splits = opened(tmp_path, 'csv', {'a': [1, 2, 3], 'Target': [1, 2.5, 3]})
    assert splits.train.arrays['target'].dtype == np.float32 and 'classes' not in splits.info
    with refused('data/no-target', 'record 1'):
        opened(tmp_path, 'csv', {'a': [1, 2, 3], 'target': [1, None, 3]})


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with refused('data/not-finite', 'record 1', 'inf'):
        opened(tmp_path, 'npz', {'x': [[1.0, 2], [np.inf, 3]], 'label': [0, 1]})
    with refused('data/not-finite', 'record 0', 'nan'):
        opened(tmp_path, 'npz', {'x': [[1.0, np.nan], [1, 3]], 'label': [0, 1]})


# -- the schema as data -----------------------------------------------------------------------------------------------

ROWS = {'age': [10.0, None, 30.0, 20.0] * 3, 'colour': ['red', 'blue', None, 'red'] * 3, 'name': [f'n{i}' for i in range(12)],
        'label': ['yes', 'no', 'no', 'yes'] * 3}


@pytest.mark.parametrize('kind', FORMATS[:3])
def test_a_row_is_read_as_the_table_was(tmp_path, kind):
    splits = opened(tmp_path, kind, ROWS)
    schema = Schema.from_json(json.loads(json.dumps(splits.info['schema'])))
    for i in range(12):
        row = {name: values[i] for name, values in ROWS.items()}
        example = schema.example(row)
        np.testing.assert_array_equal(example['x'], splits.train.arrays['x'][i])
        assert example['label'] == splits.train.arrays['label'][i]
        typed = schema.example({name: '' if value is None else str(value) for name, value in row.items() if name != 'label'})
        np.testing.assert_array_equal(typed['x'], example['x'])
        assert 'label' not in typed


def test_a_file_without_labels_is_read_by_the_schema_of_a_run(tmp_path):
    schema = Schema.from_json(opened(tmp_path, 'csv', ROWS).info['schema'])
    raw = tables.csv(write(tmp_path / 'new.csv', {'colour': ['blue'], 'age': [7]}))
    arrays, _ = schema.encode(raw, labelled=False)
    np.testing.assert_array_equal(arrays['x'], [[7, 0]])
    with refused('data/missing-column', 'label'):
        schema.encode(raw)


@pytest.mark.parametrize('row, code, names', [
    ({'age': 3}, 'data/missing-column', ['colour']), ({'age': 'x', 'colour': 'red'}, 'data/column-kind', ['age', "'x'"]),
    ({'age': [1, 2], 'colour': 'red'}, 'data/column-kind', ['age']),
    ({'age': {}, 'colour': 'red'}, 'data/column-kind', ['age']),
    ({'age': 1, 'colour': 'red', 'label': 'maybe'}, 'data/unknown-class', ['maybe', 'no, yes'])])
def test_a_row_that_does_not_fit_is_refused(tmp_path, row, code, names):
    schema = Schema.from_json(opened(tmp_path, 'csv', ROWS).info['schema'])
    with refused(code, *names):
        schema.example(row)


@pytest.mark.parametrize('data', [{}, {'columns': 3, 'folded': True}, {'columns': [{'name': 'a'}], 'folded': True}, []])
def test_a_schema_of_another_form_is_refused(data):
    with refused('data/schema'):
        Schema.from_json(data)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)), st.sampled_from(['a', 'b', 'ü', None])),
                min_size=8, max_size=30))
def test_rows_and_tables_agree(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp('any')
    columns = {'n': [r[0] for r in rows], 'c': [r[1] for r in rows], 'label': [i % 2 for i in range(len(rows))]}
    raw = tables.csv(write(folder / 'a.csv', columns))
    schema = Schema.fit(raw)
    arrays, _ = schema.encode(raw)
    for i, (number, text) in enumerate(rows):
        if schema.features:
            np.testing.assert_allclose(schema.example({'n': number, 'c': text})['x'], arrays['x'][i], rtol=1e-6)


def test_a_file_given_to_predict_is_read_as_the_table_was(tmp_path):
    """The separator and the names are found the same way."""
    from bigjax.predict import inputs
    rows = ''.join(f'{i};{"uv"[i % 2]} ;{i % 2}\n' for i in range(20))
    (tmp_path / 'a.csv').write_text('\ufeffage; kind ;Label\n' + rows, encoding='utf-8')
    splits = open_data(f'csv:{tmp_path}/a.csv', val_fraction=0)
    schema = Schema.from_json(splits.info['schema'])
    read = [schema.example(row) for _, row in inputs.expanded([str(tmp_path / 'a.csv')], ('.csv',))]
    np.testing.assert_array_equal([example['x'] for example in read], splits.train.arrays['x'])
    np.testing.assert_array_equal([example['label'] for example in read], splits.train.arrays['label'])
