"""What a person gives to the translator of captions, and when translations are scored."""
import types

import numpy as np

from bigjax.data.loaders.translations import Coding
from bigjax.predict import interfaces
from experiments import multi30k
from tests.data.test_translations import Letters
from tests.refused import refused


def test_a_sentence_becomes_a_row_and_a_row_a_sentence():
    interface = interfaces.pairs(Coding(Letters(), 64))
    row = interface.parse('ab \n')
    np.testing.assert_array_equal(row['source'][:4], [98, 99, 1, 0])
    assert row['source'].shape == (64,) and row['_notes'] == []
    assert interface.parse('a' * 80)['_notes'] == ['cut to 64 tokens']
    assert interface.answer(np.array([98, 99, 1, 5])) == {'text': 'ab'}
    with refused('data/empty-text'):
        interface.parse('  ')


def test_the_test_alone_is_scored_and_at_the_end():
    source = types.SimpleNamespace(judge=lambda outputs, examples: {})
    assert multi30k.judged('test', source).compute is source.judge and multi30k.judged('test', source).every == '100%'
    assert multi30k.judged('val', source).compute is None and multi30k.judged('test', object()).compute is None


def test_training_sentences_are_cut_and_one_token_is_left_at_least():
    rows = {side: np.arange(12).reshape(2, 6) for side in ('source', 'target')}
    short = multi30k.cut(4)({**rows, 'other': 1}, None)
    np.testing.assert_array_equal(short['target'], [[0, 1, 2, 3], [6, 7, 8, 9]])
    assert short['source'].shape == (2, 4) and short['other'] == 1
    with refused('config/value', '0'):
        multi30k.cut(0)
