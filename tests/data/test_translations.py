"""Sentences and translations as rows of tokens of both languages, and back."""
import gzip
from typing import ClassVar

import numpy as np
import pytest

from bigjax.data.loaders import registry, translations
from tests.refused import refused

ENGLISH = ['A dog runs.', 'Two men sit on a bench.', 'A dog sits on a bench.', '']
GERMAN = ['Ein Hund läuft.', 'Zwei Männer sitzen auf einer Bank.', 'Ein Hund sitzt auf einer Bank.', 'Nichts.']


class Letters:
    """A tokenizer whose numbers are those of characters, after an end token 0."""

    facts: ClassVar = {'kind': 'letters'}

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
    made, cut = translations.rows(['abc', 'abcd', ''], Letters(), 4)
    np.testing.assert_array_equal(made, [[98, 99, 100, 1], [98, 99, 100, 1], [1, 0, 0, 0]])
    assert cut == 1 and [translations.text(row, Letters()) for row in made] == ['abc', 'abc', '']
    assert translations.text([98, 0, 1, 99], Letters()) == 'a', 'nothing after the end, and no padding'


@pytest.mark.parametrize('pair', ['en-de', 'de-en'])
def test_files_are_read_line_by_line(tmp_path, monkeypatch, pair):
    written(tmp_path)
    monkeypatch.setattr('bigjax.data.tokenize.train', lambda places, kind, size: Letters())
    splits = registry.load(f'multi30k/{pair}', str(tmp_path))
    source, target = (ENGLISH, GERMAN) if pair == 'en-de' else (GERMAN, ENGLISH)
    assert splits.info['records'] == {'train': 4, 'val': 4, 'test': 4} and splits.train[1]['source'].shape == (64,)
    assert splits.evals['test'].texts[1] == (source[1], target[1])
    assert translations.text(splits.train[1]['target'], Letters()) == target[1]
    monkeypatch.setattr('bigjax.metrics.translation.scores', lambda found, true: {'bleu': float(found == true)})
    test = splits.evals['test']
    assert test.judge(test.arrays['target'], {})['bleu'] == 1.0
    assert f'{source[0]}\n  is     {target[0]}\n  given  {target[1]}' in test.judge(test.arrays['target'][[1, 1, 2, 3]], {})[
        'translations']


def test_other_files_are_refused(tmp_path, monkeypatch):
    written(tmp_path, de=GERMAN[:3])
    monkeypatch.setattr('bigjax.data.tokenize.train', lambda places, kind, size: Letters())
    with refused('data/damaged', 'train.en.gz', '4 and 3'):
        registry.load('multi30k/en-de', str(tmp_path))


def test_byte_pairs_keep_every_letter(tmp_path):
    pytest.importorskip('tokenizers', reason="the extra 'text'")
    written(tmp_path, en=ENGLISH * 40, de=GERMAN * 40)
    splits = registry.load('multi30k/en-de', str(tmp_path))
    assert [translations.text(row, splits.train.tokenizer) for row in splits.train.arrays['target'][:4]] == GERMAN
    assert splits.train.arrays['source'].max() <= splits.train.tokenizer.vocab_size < splits.info['vocabulary']
