"""Characters as numbers, and the two streams of a character language model."""
import numpy as np
import pytest

from bigjax.data.text import CharVocabulary, char_splits, cleaned, token_splits
from bigjax.data.windows import IGNORE
from tests.refused import refused

TEXT = 'To be, or not to be — that is the question: 你好 \U0001f600\n' * 20


def test_round_trip_is_the_definition():
    vocabulary = CharVocabulary.of(TEXT)
    assert vocabulary.chars == ''.join(sorted(set(TEXT)))
    ids = vocabulary.encode(TEXT)
    np.testing.assert_array_equal(ids, [vocabulary.chars.index(c) for c in TEXT])
    assert ids.dtype == np.int32 and vocabulary.decode(ids) == TEXT and len(vocabulary) == len(set(TEXT))


def test_order_of_the_vocabulary_is_kept():
    vocabulary = CharVocabulary('zaq')
    np.testing.assert_array_equal(vocabulary.encode('aqz'), [1, 2, 0])
    assert vocabulary.decode([0, 1]) == 'za'
    assert len(vocabulary.encode('')) == 0


@pytest.mark.parametrize(('call', 'code', 'names'), [
    (lambda: CharVocabulary('abc').encode('abXc'), 'data/character', ["character 2", "'X'", '3']),
    (lambda: CharVocabulary('').encode('a'), 'data/character', ["character 0"]),
    (lambda: CharVocabulary('aba'), 'data/vocabulary', ['aba']),
    (lambda: CharVocabulary('abc').decode([0, 3]), 'data/character', ['0 to 3', '0 to 2']),
    (lambda: CharVocabulary('abc').decode([-1]), 'data/character', ['-1']),
    (lambda: char_splits(TEXT, length=16, name='mine', found='', val_fraction=1.5), 'data/held-out', ['1.5']),
    (lambda: char_splits('short', length=16, name='mine', found=''), 'data/too-short', ['16'])])
def test_refuses(call, code, names):
    with refused(code, *names):
        call()


@pytest.mark.parametrize('end', ['\r\n', '\r', '\n'])
@pytest.mark.parametrize('mark', ['\ufeff', ''])
def test_ends_of_lines_and_a_byte_order_mark_are_no_characters(end, mark):
    text = mark + TEXT.replace('\n', end)
    assert cleaned(text) == TEXT
    made, plain = (char_splits(t, length=16, name='mine', found='') for t in (text, TEXT))
    assert made.info == plain.info
    np.testing.assert_array_equal(made.train.arrays['stream'], plain.train.arrays['stream'])


@pytest.mark.parametrize(('files', 'code'), [
    ({}, None), ({'train.bin': b'ab' * 20}, 'data/no-validation'),
    ({'train.bin': b'abc', 'val.bin': b'ab' * 20}, 'data/damaged'),
    ({'train.npy': b'no', 'val.bin': b'ab' * 20}, 'data/damaged'),
    ({'train.bin': b'ab' * 20, 'val.bin': b'ab'}, 'data/too-short')])
def test_token_files(tmp_path, files, code):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    if code is None:
        assert token_splits(tmp_path, length=4, name='mine') is None
        return
    with refused(code, str(tmp_path) if code != 'data/too-short' else '1 tokens'):
        token_splits(tmp_path, length=4, name='mine')


def test_char_splits_cut_as_nanogpt():
    splits = char_splits(TEXT, length=16, name='mine', found='/x')
    vocabulary, cut = CharVocabulary(splits.info['chars']), int(0.9 * len(TEXT))
    stream = vocabulary.encode(TEXT)
    np.testing.assert_array_equal(splits.train.arrays['stream'], stream[:cut])
    np.testing.assert_array_equal(splits.train[5]['targets'], stream[6:22])
    val = splits.evals['val']
    seen = np.concatenate([val[i]['targets'] for i in range(len(val))])
    np.testing.assert_array_equal(seen[seen != IGNORE], stream[cut + 1:])  # every held-out character once, in order
    assert splits.info['records'] == {'train': len(splits.train), 'val': len(val)}
    assert splits.info['source'] == '/x' and splits.info['vocabulary'] == len(vocabulary)
