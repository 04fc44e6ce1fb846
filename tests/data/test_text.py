"""Characters as numbers, and the two streams of a character language model."""
import numpy as np
import pytest

from bigjax.data.text import CharVocabulary, char_splits
from bigjax.errors import UserError

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


@pytest.mark.parametrize('call, words', [
    (lambda: CharVocabulary('abc').encode('abXc'), ["character 2", "'X'", '3']),
    (lambda: CharVocabulary('').encode('a'), ["character 0"]),
    (lambda: CharVocabulary('aba'), ['twice']),
    (lambda: CharVocabulary('abc').decode([0, 3]), ['0 to 3']),
    (lambda: CharVocabulary('abc').decode([-1]), ['-1'])])
def test_refuses(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert all(word in str(error.value) for word in words)


def test_char_splits_cut_as_nanogpt():
    splits = char_splits(TEXT, length=16, name='mine', found='/x')
    vocabulary, cut = CharVocabulary(splits.info['chars']), int(0.9 * len(TEXT))
    stream = vocabulary.encode(TEXT)
    np.testing.assert_array_equal(splits.train.arrays['stream'], stream[:cut])
    np.testing.assert_array_equal(splits.train[5]['targets'], stream[6:22])
    val = splits.evals['val']
    seen = np.concatenate([val[i]['targets'] for i in range(len(val))])
    np.testing.assert_array_equal(seen, stream[cut + 1:][:len(seen)])  # every held-out character once, in order
    assert len(stream) - cut - 1 - len(seen) < 16
    assert splits.info['records'] == {'train': len(splits.train), 'val': len(val)}
    assert splits.info['source'] == '/x' and splits.info['vocabulary'] == len(vocabulary)
