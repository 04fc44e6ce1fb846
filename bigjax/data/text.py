"""Text as numbers: a vocabulary of characters, and the token streams of a language model."""
import pathlib
from typing import Any

import numpy as np

from bigjax.data.sources import Splits
from bigjax.data.windows import WindowSource
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line

MANIFEST = 'manifest.json'  # of a folder of tokens, written by `bigjax.data.tokenize`


class CharVocabulary:
    """Characters <-> numbers 0 … K-1.

    Args:
      chars: the K characters in the order of their numbers; `CharVocabulary.of(text)` sorts those of a text.

    Raises:
      UserError: a character occurs twice.
    """

    def __init__(self, chars: str):
        if len(set(chars)) != len(chars):
            raise UserError(f'a vocabulary: got {chars[:40]!r} with a character twice, expected each once; fix: remove one',
                            code='data/vocabulary')
        self.chars = chars
        codes = np.array([ord(c) for c in chars], np.int64)
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    @classmethod
    def of(cls, text: str) -> 'CharVocabulary':
        return cls(''.join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        """int32 [len(text)].

        Raises:
          UserError: names the first character that is not in the vocabulary, and its place.
        """
        codes = np.frombuffer(text.encode('utf-32-le'), '<u4').astype(np.int64)
        if not len(self.chars):
            found = np.zeros(len(codes), np.int64), np.zeros(len(codes), bool)
        else:
            at = np.minimum(np.searchsorted(self._codes, codes), len(self.chars) - 1)
            found = self._order[at], self._codes[at] == codes
        if not found[1].all():
            place = int(np.argmin(found[1]))
            raise UserError(f'a text: got {text[place]!r} as character {place}, expected one of the {len(self)} of the '
                            'vocabulary; fix: remove it, or build the vocabulary from this text', code='data/character')
        return found[0].astype(np.int32)

    def decode(self, ids) -> str:
        """The text of numbers [T].

        Raises:
          UserError: a number outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise UserError(f'decoding: got numbers from {ids.min()} to {ids.max()}, expected 0 to {len(self) - 1}; fix: '
                            'decode with the vocabulary that encoded', code='data/character')
        return ''.join(self.chars[i] for i in ids)


def cleaned(text: str) -> str:
    r"""The text without a byte-order mark at its start, and with every line ended by one '\n'.

    A file written on Windows would otherwise give the model two more characters, which its prompts never contain.
    """
    return text.removeprefix('\ufeff').replace('\r\n', '\n').replace('\r', '\n')


def char_splits(text: str, *, length: int, name: str, found: str, val_fraction: float = 0.1) -> Splits:
    """A character language model's data: the first part to train on, the last `val_fraction` held out.

    The cut is at int(0.9 n) characters for val_fraction 0.1, as in nanoGPT. Training windows start at every character;
    validation windows are side by side, so every held-out character but the first is predicted once.

    Args:
      text: the whole text, as `cleaned` returns it.
      length: characters in a window.
      name, found: for info: the data set's name, and where it was found.

    Returns:
      Splits of WindowSources; info has 'chars', the vocabulary in order.

    Raises:
      UserError: the text is empty, a part of it is shorter than a window, or the fraction is not between 0 and 1.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f'{name}: got val_fraction={val_fraction}, expected a number between 0 and 1; fix: such as 0.1',
                        code='data/held-out')
    text = cleaned(text)
    if not text.strip():
        raise UserError(f'{name}: got an empty text, expected one of more than {length} characters; fix: the path',
                        code='data/empty-text')
    vocabulary = CharVocabulary.of(text)
    tokens = vocabulary.encode(text).astype(np.uint16 if len(vocabulary) < 2**16 else np.int32)
    cut = int((1 - val_fraction) * len(tokens))
    train, val = WindowSource(tokens[:cut], length), WindowSource(tokens[cut:], length, stride=length)
    return Splits(train, {'val': val}, {
        'name': name, 'source': found, 'chars': vocabulary.chars, 'vocabulary': len(vocabulary),
        'records': {'train': len(train), 'val': len(val)}, 'characters': {'train': cut, 'val': len(tokens) - cut}})


def token_splits(folder, *, length: int, name: str, vocabulary: int = 0) -> Splits | None:
    """A language model's data from tokenised files: `train.bin` and `val.bin` (raw uint16, as nanoGPT prepares them), or .npy.

    Files are mapped into memory, not read: a window costs its own bytes. Validation windows are side by side. A folder that
    `bigjax.data.tokenize` wrote has a manifest with the number of tokens of its tokenizer, and of each file.

    Args:
      folder: where the files are.
      length: tokens in a window.
      name: for info, and for the message.
      vocabulary: tokens there may be, 0 for unknown.

    Returns:
      Splits of WindowSources, or None where there is no training file. With a manifest, info has 'tokenizer' (its facts) and
      'tokenizer_folder'.

    Raises:
      UserError: there is no validation file; a file is cut short, damaged or no row of integers; the tokenizer has another
        vocabulary.
    """
    folder = pathlib.Path(folder)
    manifest = _manifest(folder)
    if manifest:
        known = int(manifest['tokenizer']['vocabulary'])
        if vocabulary and vocabulary != known:
            raise UserError(f'{name}: got the tokens of a tokenizer of {known}, expected {vocabulary}; fix: encode the text '
                            'with the tokenizer of the model', code='tokenizer/other-vocabulary')
        vocabulary = known

    def read(split):
        binary, array = (folder / f'{split}.{ending}' for ending in ('bin', 'npy'))
        if array.exists():
            try:
                return np.load(array, mmap_mode='r', allow_pickle=False)
            except Exception as error:  # NumPy's header raises many kinds
                raise UserError(f'{array}: got a damaged file ({first_line(error)}), expected a .npy array; fix: prepare it '
                                'again', code='data/damaged') from error
        if not binary.exists():
            return None
        if binary.stat().st_size % 2 or not binary.stat().st_size:
            raise UserError(f'{binary}: got {binary.stat().st_size} bytes, expected two per token; fix: prepare it again',
                            code='data/damaged')
        return np.memmap(binary, np.uint16, 'r')

    train, val = read('train'), read('val')
    if train is None:
        return None
    if val is None:
        raise UserError(f'{name}: got {folder} with a train file alone, expected val.bin or val.npy beside it; fix: prepare '
                        'both', code='data/no-validation')
    for split, tokens in (('train', train), ('val', val)) if manifest else ():
        if len(tokens) != manifest['splits'][split]['tokens']:
            raise UserError(f'{folder / manifest["splits"][split]["file"]}: got {len(tokens)} tokens, expected '
                            f'{manifest["splits"][split]["tokens"]} as in {MANIFEST}; fix: write it again', code='data/damaged')
    sources = WindowSource(train, length), WindowSource(val, length, stride=length)
    own = {'tokenizer': manifest['tokenizer'], 'tokenizer_folder': str(folder / 'tokenizer')} if manifest else {}
    return Splits(sources[0], {'val': sources[1]}, {
        'name': name, 'source': str(folder), 'vocabulary': vocabulary, **own,
        'records': {'train': len(sources[0]), 'val': len(sources[1])}})


def _manifest(folder: pathlib.Path) -> dict[str, Any] | None:
    """The facts that `bigjax.data.tokenize` wrote about the tokens of a folder, None where there are none."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = safe_read.parsed(safe_read.content(path))
        _ = int(manifest['tokenizer']['vocabulary']), [manifest['splits'][split]['tokens'] for split in ('train', 'val')]
        return manifest
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: got no manifest of tokens ({first_line(error)}), expected one; fix: write the tokens again',
                        code='data/damaged') from error
