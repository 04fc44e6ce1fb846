"""Tokenizers: what all of them can do, and those that need no library: characters, bytes and words."""
import abc
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bigjax.data.text import CharVocabulary
from bigjax.errors import UserError
from bigjax.io import storage

OWN_FILE = 'bigjax_tokenizer.json'
PAD_WORD, UNKNOWN_WORD = '<pad>', '<unk>'
CONTRACTION = r"n't|'(?:s|ve|re|d|ll)"
ENGLISH = rf"(?:{CONTRACTION})?(?:(?!{CONTRACTION})[\w'`])+|{CONTRACTION}|[,!()?]"
"""The words of Kim 2014 (`clean_str` of yoonkim/CNN_sentence) with the letters of every language: "isn't" is is + n't, and of
the punctuation , ! ( ) ? are kept."""


class Tokenizer(abc.ABC):
    """Text <-> numbers 0 … vocab_size - 1.

    Attributes:
      kind: one of `bigjax.data.tokenizers.KINDS`.
      vocab_size: one more than the largest number.
      pad, bos, eos, unk, mask: the numbers of special tokens, None where there is none.
      cuttable: whether a text may be cut after a line end between two other characters, and its parts encoded one
        by one, with the numbers of the whole as the result.
    """

    kind: str
    vocab_size: int
    pad: int | None = None
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    mask: int | None = None
    cuttable = False

    @abc.abstractmethod
    def encode(self, text: str, special: bool = False, template: bool = False) -> list[int]:
        """The numbers of a text.

        Args:
          special: the names of special tokens in the text are those tokens.
          template: add what the tokenizer puts around one text ('[CLS] … [SEP]'), where it has such a template.
        """

    def encode_batch(self, texts: Sequence[str], template: bool = False) -> list[list[int]]:
        """`encode` of many texts."""
        return [self.encode(text, template=template) for text in texts]

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of numbers; special tokens are left out unless `special`.

        Raises:
          UserError: a number outside the vocabulary.
        """

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """{file name: contents}, from which `from_files` makes the same tokenizer."""

    @functools.cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that identify the tokenizer."""
        digest = hashlib.sha256()
        for name, data in sorted(self.files().items()):
            digest.update(f'{name} {len(data)} '.encode() + data)
        return digest.hexdigest()[:12]

    @property
    def facts(self) -> dict[str, Any]:
        """{'kind', 'vocabulary', 'hash'}: JSON, for the record of a run."""
        return {'kind': self.kind, 'vocabulary': self.vocab_size, 'hash': self.hash}

    def save(self, folder) -> None:
        """Writes `files` into a folder, of this machine or of a store."""
        place = storage.place(folder)
        storage.make(place)
        for name, data in self.files().items():
            storage.write(place / name, data)

    def check_vocabulary(self, size: int, what: str = 'the model') -> None:
        """Raises UserError where the model (or the data) was made with another number of tokens."""
        if size != self.vocab_size:
            raise UserError(f'{what}: got {size} tokens, expected the {self.vocab_size} of the tokenizer ({self.kind}, '
                            f'{self.hash}); fix: use the tokenizer that it was made with', code='tokenizer/other-vocabulary')

    def _check_ids(self, ids: Iterable[int]) -> list[int]:
        ids = [int(i) for i in ids]
        wrong = next((place for place, i in enumerate(ids) if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise UserError(f'decoding: got token {ids[wrong]} at place {wrong}, expected 0 to {self.vocab_size - 1}; fix: '
                            'decode with the tokenizer that encoded', code='tokenizer/token-range')
        return ids


class Characters(Tokenizer):
    """One token per character: `CharVocabulary`, and with `unknown` one more token for all other characters."""

    kind, cuttable = 'char', True

    def __init__(self, chars: str, unknown: bool = False):
        self.vocabulary = CharVocabulary(chars)
        self.vocab_size = len(chars) + unknown
        self.unk = len(chars) if unknown else None

    @classmethod
    def train(cls, texts: Iterable[str], unknown: bool = False) -> 'Characters':
        """The characters of texts, sorted."""
        return cls(''.join(sorted(set().union(*map(set, texts)))), unknown)

    def encode(self, text, special=False, template=False):
        if self.unk is None:
            return self.vocabulary.encode(text).tolist()
        return [self._numbers.get(c, self.unk) for c in text]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.vocabulary.chars)}

    def decode(self, ids, special=False):
        return ''.join('\ufffd' if i == self.unk else self.vocabulary.chars[i] for i in self._check_ids(ids))

    def files(self):
        return {OWN_FILE: as_json({'kind': 'char', 'chars': self.vocabulary.chars, 'unknown': self.unk is not None})}


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8, and after them the special tokens <pad>, <s> and </s>."""

    kind, vocab_size, cuttable = 'byte', 259, True
    pad, bos, eos = 256, 257, 258
    _names = ('<pad>', '<s>', '</s>')

    def encode(self, text, special=False, template=False):
        if not special:
            return list(text.encode())
        ids = []
        for part in re.split('(<pad>|</?s>)', text):
            ids += [256 + self._names.index(part)] if part in self._names else list(part.encode())
        return ids

    def decode(self, ids, special=False):
        parts = [bytes([i]) if i < 256 else self._names[i - 256].encode() if special else b'' for i in self._check_ids(ids)]
        return b''.join(parts).decode('utf-8', 'replace')

    def files(self):
        return {OWN_FILE: as_json({'kind': 'byte'})}


class Words(Tokenizer):
    """Words by a regular expression: 0 is padding, 1 an unknown word, then the words by frequency.

    Args:
      words: in the order of their numbers, from 2 on.
      pattern: what a word is; all else separates words.
      lower: capitals are read as small letters.
    """

    kind, cuttable = 'word', True
    pad, unk = 0, 1

    def __init__(self, words: Sequence[str], pattern: str = ENGLISH, lower: bool = True):
        self.words, self.pattern, self.lower = list(words), pattern, lower
        self.vocab_size = len(self.words) + 2
        self._numbers = {word: i for i, word in enumerate(self.words, 2)}
        self._find = re.compile(pattern).findall

    @classmethod
    def train(cls, texts: Iterable[str], min_count: int = 1, size: int = 0, pattern: str = ENGLISH,
              lower: bool = True) -> 'Words':
        """The words that occur `min_count` times or more in texts, at most `size` of them (0: all), the most frequent first."""
        find, counts = re.compile(pattern).findall, Counter()
        for text in texts:
            counts.update(find(text.lower() if lower else text))
        frequent = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        return cls(frequent[:max(0, size - 2)] if size else frequent, pattern, lower)

    def encode(self, text, special=False, template=False):
        found = self._find(text.lower() if self.lower else text)
        return [self._numbers.get(word, self.unk) for word in found]

    def decode(self, ids, special=False):
        names = (PAD_WORD, UNKNOWN_WORD)
        return ' '.join(self.words[i - 2] if i > 1 else names[i] for i in self._check_ids(ids) if i > 1 or special)

    def files(self):
        return {OWN_FILE: as_json({'kind': 'word', 'pattern': self.pattern, 'lower': self.lower, 'words': self.words})}


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode('utf-8', 'surrogatepass')


def padded(rows: Sequence[Sequence[int]], length: int, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32 [N, length] filled up with `pad`, lengths int32 [N]); a longer row is cut."""
    tokens, lengths = np.full((len(rows), length), pad, np.int32), np.zeros(len(rows), np.int32)
    for i, row in enumerate(rows):
        row = row[:length]
        tokens[i, :len(row)], lengths[i] = row, len(row)
    return tokens, lengths
