"""Strings of formal languages: labels by the definition of each, letter by letter; lengths; other strings in each split."""
import itertools

import numpy as np
import pytest

from bigjax.data.loaders import formal


def by_definition(name, text):
    if name == 'even_pairs':
        return sum(pair in (('a', 'b'), ('b', 'a')) for pair in itertools.pairwise(text)) % 2
    if name == 'parity_check':
        return text.count('b') % 2
    place = 0
    for step in text:
        place = (place + {'=': 0, '+': 1, '-': -1}[step]) % 5
    return place


@pytest.mark.parametrize('name', formal.LANGUAGES)
def test_labels_and_lengths(name):
    letters = formal.LANGUAGES[name].letters
    splits = formal.splits(name, records=300)
    lengths = {split: (arrays['tokens'] > 0).sum(axis=1) for split, arrays in splits.items()}
    for split, arrays in splits.items():
        tokens = arrays['tokens']
        assert ((tokens > 0) == (np.arange(tokens.shape[1]) < lengths[split][:, None])).all(), 'zeros are at the end alone'
        for row, label in list(zip(tokens, arrays['label'], strict=True))[::7]:
            assert label == by_definition(name, ''.join(letters[token - 1] for token in row if token))
        assert len(np.unique(arrays['label'])) == len(formal.LANGUAGES[name].classes)
    assert set(lengths['train']) == set(lengths['val']) == set(range(1, 41)) and splits['train']['tokens'].shape == (300, 40)
    assert dict(zip(*np.unique(lengths['test'], return_counts=True), strict=True)) == dict.fromkeys(range(41, 501), 4)
    again, other = formal.splits(name, records=300), formal.splits(name, seed=1, records=300)
    np.testing.assert_array_equal(again['test']['tokens'], splits['test']['tokens'])
    assert (other['test']['tokens'] != splits['test']['tokens']).any()
    assert (splits['val']['tokens'][-300:] != splits['train']['tokens']).any()
