"""Texts as rows of tokens: named sets, data of one's own, and what is refused."""
import gzip
import json
import os
import pathlib

import numpy as np
import pytest

from bigjax.data import tokenizers
from bigjax.data.datasets import open_data
from bigjax.data.lazy import LazySource
from bigjax.data.loaders import find_text, named
from bigjax.data.texts import fit, masked, open_texts, parser
from tests.refused import refused

REAL = pathlib.Path(os.environ.get('BIGJAX_DATA', '/nowhere'))
ROWS = [('a fine film', 'good'), ('what a bore !', 'bad'), ('fine , fine', 'good'), ('no no no', 'bad')] * 10


def own(folder, kind='jsonl', rows=ROWS, extra=None):
    """The place of a table of texts."""
    if kind == 'jsonl':
        (folder / 'a.jsonl').write_text('\n'.join(json.dumps({'text': t, 'label': y, **(extra or {})}) for t, y in rows))
    elif kind == 'csv':
        lines = [f'{i},"{t}",{y}' for i, (t, y) in enumerate(rows)]
        (folder / 'a.csv').write_text('\n'.join(['id,text,label', *lines]))
    elif kind == 'parquet':
        import pyarrow as pa
        import pyarrow.parquet
        pa.parquet.write_table(pa.table({'text': [t for t, _ in rows], 'label': [y for _, y in rows]}), folder / 'a.parquet')
    return f'{kind}:{folder}/a.{kind}'


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'parquet'])
def test_a_table_with_text_and_label(kind, tmp_path):
    splits, tokenizer = open_texts(own(tmp_path, kind), like='sentiment/sst2', tokenizer='word', length=3)
    assert splits.info['classes'] == ['bad', 'good'] and set(splits.train.arrays) == {'tokens', 'length', 'label'}
    assert splits.info['records'] == {'train': 36, 'val': 4} and sum(splits.info['cut'].values()) == 10
    assert any('of 36 texts of train cut' in line for line in splits.info['found'])
    arrays = splits.train.arrays
    texts = {tokenizer.decode(row[:n]) for row, n in zip(arrays['tokens'], arrays['length'], strict=True)}
    assert texts == {'a fine film', 'what a bore', 'fine , fine', 'no no no'}
    batch = masked({name: array[:5] for name, array in splits.train.arrays.items()})
    assert batch['mask'].shape == (5, 3) and batch['mask'].all() and batch['tokens'].dtype == np.int32
    assert splits.info['tokenizer'] == tokenizer.facts and splits.info['shapes']['train']['keys']['tokens'] == [[3], 'uint16']


def test_a_part_of_train_and_test_of_their_own(tmp_path):
    for split, rows in (('train', ROWS), ('test', [('a thing unheard of', 'good')])):
        (tmp_path / f'{split}.jsonl').write_text('\n'.join(json.dumps({'text': t, 'label': y}) for t, y in rows))
    splits, tokenizer = open_texts(f'jsonl:{tmp_path}', like='sentiment/trec', length=8)
    assert splits.evals['test'].arrays['tokens'][0].tolist()[:4] == [*tokenizer.encode('a'), 1, 1, 1]


@pytest.mark.parametrize(('rows', 'code', 'names'), [
    ([*ROWS, ('  ', 'good')], 'data/empty-text', ['record']), ([*ROWS, ('', 'good')], 'data/empty-text', ['record'])])
def test_an_empty_text_is_refused(rows, code, names, tmp_path):
    with refused(code, *names):
        open_texts(own(tmp_path, rows=rows), like='sentiment/trec')


@pytest.mark.parametrize(('kind', 'data', 'byte'), [
    ('csv', b'\xef\xbb\xbftext,label\nfine,1\nb\xffad,0\n', 22), ('jsonl', b'{"text": "b\xffad", "label": 1}', 11)])
def test_a_byte_that_is_not_utf8_is_named(kind, data, byte, tmp_path):
    (tmp_path / f'a.{kind}').write_bytes(data)
    with refused('data/not-utf8', f'a.{kind}', f'byte {byte} '):
        open_texts(f'{kind}:{tmp_path}/a.{kind}', like='sentiment/trec')


def test_a_label_that_training_does_not_have_is_refused(tmp_path):
    for split, rows in (('train', ROWS), ('test', [('a', 'odd')])):
        (tmp_path / f'{split}.jsonl').write_text('\n'.join(json.dumps({'text': t, 'label': y}) for t, y in rows))
    with refused('data/unknown-class', 'odd', 'good'):
        open_texts(f'jsonl:{tmp_path}', like='sentiment/trec')


def test_a_column_of_another_name_is_named(tmp_path):
    records = [{'review': f'{t} {i}', 'label': y} for i, (t, y) in enumerate(ROWS)]
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, records)))
    with refused('data/misfit', 'review', "'review' text"):
        open_texts(f'jsonl:{tmp_path}/a.jsonl', like='sentiment/trec')
    with refused('data/misfit', 'experiments.sentiment'):
        open_data(own(tmp_path), like='mnist')


def test_tables_of_numbers_with_a_text_stay_tables(tmp_path):
    place = own(tmp_path, 'csv')
    splits = open_data(place, like='breast_cancer')
    assert splits.train[0]['x'].shape == (1,) and 'text' not in splits.train[0]


@pytest.mark.parametrize(('spec', 'code'), [('word:many', 'tokenizer/kind'), ('spell:x', 'tokenizer/kind')])
def test_tokenizers_are_refused(spec, code, tmp_path):
    with refused(code):
        open_texts(own(tmp_path), like='sentiment/trec', tokenizer=spec)


@pytest.mark.parametrize('spec', ['char', 'byte', 'word:11'])
def test_other_tokenizers(spec, tmp_path):
    splits, tokenizer = open_texts(own(tmp_path), like='sentiment/trec', tokenizer=spec, length=12)
    row, n = splits.train.arrays['tokens'][0], splits.train.arrays['length'][0]
    assert tokenizer.decode(row[:n].tolist()) in {'char': 'a fine film what a bore !', 'byte': 'a fine film what a bore !',
                                                  'word:11': 'fine fine no no no a'}[spec] or spec == 'word:11'


def test_a_cut_text_keeps_its_end_token():
    it = tokenizers.Bytes()
    assert fit([1, 2, 3, it.eos], 3, it) == [1, 2, it.eos] and fit([1, 2, 3, 4], 3, it) == [1, 2, 3] and fit([], 3, it) == [0]


def test_what_an_interface_says_of_a_text():
    parse = parser(tokenizers.Words.train(['a b c']), 3)
    assert parse('a z b c')['_notes'] == ['cut: 3 of 4 tokens', '1 of 4 tokens unknown']
    assert parse({'text': 'b'})['tokens'].tolist() == [3, 0, 0]
    with refused('data/empty-text'):
        parse(' ')


@pytest.mark.parametrize('name', ['sentiment/mr', 'sentiment/trec', 'reuters/r52'])
def test_made_up_and_absent_sets_have_the_published_sizes(name, monkeypatch, tmp_path):
    monkeypatch.delenv('BIGJAX_DATA', raising=False)
    family, _, variant = name.partition('/')
    classes, records, size = {'sentiment': named.SENTIMENT, 'reuters': named.REUTERS}[family][variant]
    made, tokenizer = open_texts('fake', like=name, length=8)
    assert tokenizer.vocab_size == size and made.train.arrays['tokens'].max() < size and made.info['classes'] == classes
    absent, tokenizer = open_texts('', like=name, length=8)
    assert isinstance(absent.train, LazySource) and tokenizer.vocab_size == size
    assert {k: len(s) for k, s in {'train': absent.train, **absent.evals}.items()} == dict(zip(
        ('train', 'val', 'test'), records, strict=True))
    with refused('data/not-found', name):
        absent.train[0]
    with refused('data/not-found', name):
        open_texts('', like=name, tokenizer='char')
    assert open_texts('fake', like=name, tokenizer='hf:/nowhere', vocabulary=300)[1].vocab_size == 300


@pytest.mark.skipif(not (REAL / 'sentiment').is_dir(), reason='the real texts are not at hand')
@pytest.mark.parametrize('variant', named.SENTIMENT)
def test_the_real_sets_have_the_published_sizes(variant):
    _, records, size = named.SENTIMENT[variant]
    splits, tokenizer = open_texts('', like=f'sentiment/{variant}', data_dir=str(REAL), length=64)
    assert tuple(splits.info['records'].values()) == records and tokenizer.vocab_size == size
    assert not any(splits.info['cut'].values())
    if variant == 'mr':  # Kim's own count: words of small English letters alone
        from bigjax.data.vocabularies import ENGLISH
        texts = find_text.lines(REAL / 'sentiment' / 'rt-polarity.all.gz', 'latin-1', 2)['text']
        assert len(tokenizers.Words.train(texts, pattern=ENGLISH.replace(r'\w', 'a-z0-9')).words) == 18_765


def test_folds_share_no_sentence():
    arrays = {'text': np.arange(10662).astype(object), 'label': np.zeros(10662, np.int32)}
    folds = [find_text.fold(arrays, k, 'mr') for k in range(10)]
    for parts in folds[:2]:
        rows = [set(part['text']) for part in parts.values()]
        assert list(map(len, rows)) == [8636, 960, 1066] and len(set.union(*rows)) == 10662
    assert len(set.union(*(set(parts['test']['text']) for parts in folds))) == 10660
    with refused('data/no-split', '10'):
        find_text.fold(arrays, 10, 'mr')


@pytest.mark.parametrize('line', ['9 a film', 'film', '1 '])
def test_lines_of_another_form_are_refused(line, tmp_path):
    with gzip.open(tmp_path / 'a.gz', 'wt') as file:
        file.write(f'1 a fine film\n{line}\n')
    with refused('data/table-line', 'line 2'):
        find_text.lines(tmp_path / 'a.gz', 'utf-8', 2)
