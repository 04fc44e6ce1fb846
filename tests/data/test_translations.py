"""Sentences and translations as rows of tokens of both languages, and back."""
import gzip
from typing import ClassVar

import numpy as np
import pytest

from bigjax.data.loaders import registry, translations
from bigjax.data.loaders.translations import Coding
from tests.refused import refused

ENGLISH = ['A dog runs.', 'Two men sit on a bench.', 'A dog sits on a bench.', '']
GERMAN = ['Ein Hund läuft.', 'Zwei Männer sitzen auf einer Bank.', 'Ein Hund sitzt auf einer Bank.', 'Nichts.']


class Letters:
    """A tokenizer whose numbers are those of characters, after an end token 0."""

    facts: ClassVar = {'kind': 'letters'}
    pad, bos, eos, vocab_size = None, None, 0, 256

    def encode_batch(self, texts):
        return [[ord(letter) for letter in text] for text in texts]

    def decode(self, numbers):
        return ''.join(map(chr, numbers))


def written(folder, **sides):
    (folder / 'multi30k').mkdir(exist_ok=True)
    for file, _ in translations.MULTI30K.values():
        for language, lines in {'en': ENGLISH, 'de': GERMAN, **sides}.items():
            with gzip.open(folder / 'multi30k' / f'{file}.{language}.gz', 'wt', encoding='utf-8') as out:
                out.write('\n'.join(lines) + '\n')


def test_rows_end_and_are_cut():
    coding = Coding(Letters(), 4)
    made, cut = coding.rows(['abc', 'abcd', ''])
    np.testing.assert_array_equal(made, [[98, 99, 100, 1], [98, 99, 100, 1], [1, 0, 0, 0]])
    assert cut == 1 and [*map(coding.text, made)] == ['abc', 'abc', '']
    assert coding.text([98, 0, 1, 99]) == 'a', 'nothing after the end, and no padding'


@pytest.mark.parametrize(('roles', 'eos', 'bos', 'row'), [
    ((None, None, None), 1, None, [99, 1]), ((0, None, 1), 1, None, [97, 1]), ((None, None, 0), 2, 1, [1, 99, 2]),
    ((None, None, None), 2, 1, [1, 100, 2]), ((0, 1, 2), 2, 1, [1, 97, 2])])
def test_numbers_of_a_tokenizer_stand_after_the_special_ones_of_the_model(roles, eos, bos, row):
    """Except where it has these itself; every text comes back, also from a model that has more tokens."""
    tokenizer = Letters()
    tokenizer.pad, tokenizer.bos, tokenizer.eos = roles
    coding = Coding(tokenizer, 6, eos, bos)
    assert coding.rows(['a'])[0][0].tolist() == row + [0] * (6 - len(row)) and coding.text(row) == 'a'
    assert coding.vocabulary > max(row) and coding.text([*row[:-1], coding.vocabulary, eos]) == 'a'


@pytest.mark.parametrize('pair', ['en-de', 'de-en'])
def test_files_are_read_line_by_line(tmp_path, monkeypatch, pair):
    written(tmp_path)
    monkeypatch.setattr('bigjax.data.tokenize.of_texts', lambda spec, texts: Letters())
    splits = registry.load(f'multi30k/{pair}', str(tmp_path))
    source, target = (ENGLISH, GERMAN) if pair == 'en-de' else (GERMAN, ENGLISH)
    assert splits.info['records'] == {'train': 4, 'val': 4, 'test': 4} and splits.train[1]['source'].shape == (64,)
    assert splits.evals['test'].texts[1] == (source[1], target[1])
    assert splits.train.coding.text(splits.train[1]['target']) == target[1]
    monkeypatch.setattr('bigjax.metrics.translation.scores', lambda found, true: {'bleu': float(found == true)})
    test = splits.evals['test']
    assert test.judge(test.arrays['target'], {})['bleu'] == 1.0
    assert f'{source[0]}\n  is     {target[0]}\n  given  {target[1]}' in test.judge(test.arrays['target'][[1, 1, 2, 3]], {})[
        'translations']


def test_other_files_are_refused(tmp_path, monkeypatch):
    written(tmp_path, de=GERMAN[:3])
    monkeypatch.setattr('bigjax.data.tokenize.of_texts', lambda spec, texts: Letters())
    with refused('data/damaged', 'train.en.gz', '4 and 3'):
        registry.load('multi30k/en-de', str(tmp_path))


def test_byte_pairs_keep_every_letter(tmp_path):
    pytest.importorskip('tokenizers', reason="the extra 'text'")
    written(tmp_path, en=ENGLISH * 40, de=GERMAN * 40)
    splits = registry.load('multi30k/en-de', str(tmp_path))
    assert [*map(splits.train.coding.text, splits.train.arrays['target'][:4])] == GERMAN
    assert splits.train.arrays['source'].max() <= splits.train.tokenizer.vocab_size == splits.info['vocabulary'] - 1
