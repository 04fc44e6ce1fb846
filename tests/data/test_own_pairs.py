"""Tables of texts of the user's own: sources and targets, texts and summaries, questions, contexts and answers."""
import csv
import json

import numpy as np
import pytest

from bigjax.data.datasets import open_data
from bigjax.data.loaders import questions, text_tables
from bigjax.metrics import squad
from tests.data.test_questions import WordsAndMarks
from tests.refused import refused

PAIRS = [{'source': f'the {a} {b}', 'target': f'{b} {a} das', 'id': i} for i, (a, b) in enumerate(
    (a, b) for a in ('red', 'old', 'new') for b in ('dog', 'cat', 'man', 'car'))]
CONTEXTS = [f'{name} lives in {place}. The sky is blue.' for name in ('Ada', 'Bob', 'Eve') for place in ('Rome', 'Oslo')]
ASKED = [{'question': question, 'context': context, 'answers': answer} for context in CONTEXTS for question, answer in (
    ('Where?', {'text': [context.split()[3][:-1]], 'answer_start': [context.index(' in ') + 4]}),
    ('Who?', [context.split()[0]]), ('What is blue?', 'sky'), ('Why?', None))]


def written(path, rows):
    if path.suffix == '.jsonl':
        path.write_text('\n'.join(map(json.dumps, rows)))
    elif path.suffix == '.csv':
        with open(path, 'w', newline='') as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == '.parquet':
        import pyarrow as pa
        import pyarrow.parquet
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return f'{path.suffix[1:]}:{path}'


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'parquet', 'hf'])
def test_pairs_of_every_kind_of_table(kind, tmp_path, monkeypatch):
    if kind == 'hf':
        from bigjax.data.loaders import tfds_hf
        monkeypatch.setattr(tfds_hf, 'hf', lambda place: {'train': Columns(PAIRS)})
        spec = 'hf:someone/pairs'
    else:
        spec = written(tmp_path / f'a.{kind}', PAIRS)
    splits = open_data(spec, like='multi30k/en-de', tokenizer='word')
    val = splits.evals['val']
    assert splits.info['records'] == {'train': 11, 'val': 1} and splits.train[0]['source'].shape == (64,)
    assert splits.info['found'][0] == f'{spec}: train 11, val 1 records (val: 10% of train, held out)'
    assert splits.info['found'][-1].endswith(': id'), 'a column that nothing reads is named'
    assert {*splits.train.texts, *val.texts} == {(row['source'], row['target']) for row in PAIRS}
    assert [*map(splits.train.coding.text, splits.train.arrays['target'])] == [target for _, target in splits.train.texts]
    assert splits.train.arrays['target'].max() < splits.info['vocabulary']


class Columns:
    """A split of a Hugging Face data set."""

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])

    def __getitem__(self, name):
        return [row[name] for row in self.rows]


def test_files_per_split_and_what_is_cut(tmp_path):
    written(tmp_path / 'train.jsonl', PAIRS[:8])
    written(tmp_path / 'test.jsonl', [*PAIRS[8:], {'source': 'red ' * 80, 'target': 'a', 'id': 9}])
    splits = open_data(f'jsonl:{tmp_path}', like='multi30k/en-de', tokenizer='word')
    assert splits.info['records'] == {'train': 8, 'test': 5} and splits.info['cut'] == {'train': 0, 'test': 1}
    assert '1 of 5 sources cut to 64 tokens' in splits.info['found'][-1]
    rows = [{'text': 'a b c', 'summary': 'b'}, {'text': 'd e', 'summary': 'd'}]
    made = open_data(written(tmp_path / 'news.csv', rows), like='cnn_dailymail', tokenizer='word', val_fraction=0.5)
    assert made.train[0]['source'].shape == (512,) and made.train[0]['target'].shape == (128,)
    assert len(made.train) == len(made.evals['val']) == 1


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'parquet'])
def test_questions_of_every_kind_of_table(kind, tmp_path, monkeypatch):
    monkeypatch.setattr('bigjax.data.tokenize.of_texts', lambda spec, texts: WordsAndMarks())
    rows = ASKED if kind == 'jsonl' else [{**row, 'answers': squad_text(row['answers'])} for row in ASKED]
    if kind == 'parquet':
        rows = [{**row, 'answers': {'text': [row['answers']] * bool(row['answers'])}} for row in rows]
    splits = open_data(written(tmp_path / f'a.{kind}', rows), like='squad/v1', tokenizer='x', length=14, stride=4)
    given = {split: source.questions for split, source in (('train', splits.train), *splits.evals.items())}
    assert {q.context for q in given['train']}.isdisjoint(q.context for q in given['val'])
    assert sum(map(len, given.values())) == len(ASKED) and splits.info['unanswered']
    for source in (splits.train, *splits.evals.values()):
        held = source.arrays['start'] > 0
        for row in np.flatnonzero(held):
            question = source.questions[source.of[row]]
            first, last = (source.places[row][source.arrays[end][row]] for end in ('start', 'end'))
            assert question.context[first[0]:last[1]] == question.answers[0][0]
        assert held.any()


def squad_text(answers):
    """One answer as the cell of a table of texts."""
    return '' if answers is None else answers if isinstance(answers, str) else (
        answers[0] if isinstance(answers, list) else answers['text'][0])


@pytest.mark.parametrize('like, rows, code, names', [
    ('multi30k/en-de', [{'source': 'a', 'target': 'b'}, {'source': ' ', 'target': 'b'}], 'data/empty-text', ('(line 2)',)),
    ('multi30k/en-de', [{'source': 'a', 'target': 'b'}, {'source': 'a', 'target': ''}], 'data/no-target', ('record 1',)),
    ('multi30k/en-de', [{'source': 'a', 'target': None}], 'data/no-target', ('record 0',)),
    ('cnn_dailymail', [{'text': 'a', 'summary': 7}], 'data/not-text', ('record 0', 'summary', '7')),
    ('multi30k/en-de', [{'source': 'a', 'targets': 'b'}], 'data/misfit', ("'targets' target",)),
    ('squad/v1', [{'text': 'a', 'label': 'b'}], 'data/misfit', ('experiments.sentiment',)),
    ('sentiment/trec', PAIRS, 'data/misfit', ('multi30k',)),
    ('squad/v1', [{**ASKED[0], 'answers': 'Paris'}], 'data/answers', ("'Paris'", 'record 0')),
    ('squad/v1', [{**ASKED[0], 'answers': {'text': ['Ada'], 'answer_start': [3]}}], 'data/answers', ('at character 3',)),
    ('squad/v1', [{**ASKED[0], 'answers': {'texts': 'Ada'}}], 'data/answers', ('texts',)),
    ('squad/v1', [{**ASKED[0], 'answers': 5}], 'data/answers', ('5',)),
    ('squad/v1', [{**ASKED[0], 'context': ''}], 'data/empty-text', ('context',)),
    ('squad/v1', ASKED, 'data/no-tokenizer', ('wordpiece:8000',))])
def test_other_tables_are_refused(like, rows, code, names, tmp_path):
    spec = written(tmp_path / 'a.jsonl', rows)
    options = {} if like.startswith(('squad', 'sentiment')) else {'tokenizer': 'word'}
    with refused(code, 'a.jsonl' if code != 'data/no-tokenizer' else '', *names):
        open_data(spec, like=like, val_fraction=0, **options)


def test_records_keep_their_place_where_some_are_held_out():
    table = text_tables.TextTable('f', ('source', 'target'), {'source': list('abcdefghij'), 'target': list('0123456789')}, 1)
    parts = text_tables.hold_out({'train': table}, 0.3, 0)
    for part in parts.values():
        for i in range(len(part)):
            record = ord(part.columns['source'][i]) - ord('a')
            assert part.record(i) == f'f: record {record} (line {record + 1})' and part.columns['target'][i] == str(record)
    assert len(parts['train']) == 7 and len(parts['val']) == 3


def test_answers_are_those_that_squad_judges():
    found = questions._answers({'text': ['sky', 'The sky'], 'answer_start': [4, 0]}, 'The sky.', 'here')
    assert found == (('sky', 4), ('The sky', 0)) and squad.scores(['the sky'], [[text for text, _ in found]])['exact_match']
