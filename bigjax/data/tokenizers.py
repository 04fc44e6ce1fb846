"""Text <-> numbers of tokens: characters, bytes, words, and the tokenizers of other libraries.

    load('char:FILE'), load('byte')       every character of a vocabulary; the 256 bytes of UTF-8
    load('hf:FOLDER')                     tokenizer.json of Hugging Face, or a BERT's vocab.txt
    load('gpt2:FOLDER')                   encoder.json and vocab.bpe, or vocab.json and merges.txt; .gz as well
    load('sp:FILE')                       a model of SentencePiece
    load(FOLDER)                          what `save`, a run (WORKDIR/tokenizer) or `python -m bigjax.data.tokenize train` wrote

Text that looks like a special token ('<|endoftext|>') is text, unless `special=True`. `tokenizers` and `sentencepiece` are
imported where they are used, by the extra `text`.
"""
import re
from collections.abc import Mapping

from bigjax.data.foreign_tokenizers import (
    HF_CONFIG,
    HF_FILE,
    SP_FILE,
    HuggingFace,
    SentencePiece,
    bert,
    damaged,
    gpt2,
    role_names,
)
from bigjax.data.loaders import formats
from bigjax.data.vocabularies import OWN_FILE, Bytes, Characters, Tokenizer, Words, padded
from bigjax.errors import UserError
from bigjax.io import safe_read, storage
from bigjax.io.text import printable

__all__ = ['Bytes', 'Characters', 'HuggingFace', 'SentencePiece', 'Tokenizer', 'Words', 'from_files', 'keep', 'load', 'of_run',
           'of_splits', 'of_stream', 'padded']

KINDS = ('char', 'byte', 'word', 'hf', 'gpt2', 'sp')
FOLDER = 'tokenizer'  # of a run's workdir


def load(place: str) -> Tokenizer:
    """The tokenizer of a place; see the top of this file.

    Raises:
      UserError: an unknown kind, a missing or damaged file, a missing package (with the extra that brings it).
    """
    kind, colon, path = str(place).partition(':')
    if kind == 'byte' and not path:
        return Bytes()
    if not colon or kind not in KINDS:
        if not colon or '//' in path:
            return _opened(str(place))
        raise UserError(f'tokenizer {printable(place)}: there is no kind {printable(kind)!r}; there are {", ".join(KINDS)}',
                        code='tokenizer/kind')
    if not path:
        raise UserError(f'tokenizer {printable(place)}: got nothing after the colon, expected a place; fix: {kind}:PLACE',
                        code='tokenizer/no-place')
    if kind == 'sp':
        return SentencePiece(_content(path), path)
    if kind == 'gpt2':
        return gpt2(path)
    found = _opened(path)
    if found.kind != kind:
        raise UserError(f'tokenizer {printable(place)}: got one of the kind {found.kind}, expected {kind}; fix: '
                        f'{found.kind}:{path}', code='tokenizer/kind')
    return found


def from_files(files: Mapping[str, bytes], where: str) -> Tokenizer:
    """The tokenizer whose `files` these are.

    Raises:
      UserError: they are not those of a tokenizer, or damaged.
    """
    if OWN_FILE in files:
        return _own(files[OWN_FILE], f'{where}/{OWN_FILE}')
    if HF_FILE in files:
        names = role_names(files.get(HF_CONFIG) or b'{}', f'{where}/{HF_CONFIG}')
        return HuggingFace(files[HF_FILE], names, f'{where}/{HF_FILE}')
    if 'vocab.txt' in files:
        return bert(files['vocab.txt'], files.get(HF_CONFIG) or b'{}', where)
    if SP_FILE in files:
        return SentencePiece(files[SP_FILE], f'{where}/{SP_FILE}')
    raise UserError(f'{where}: got no {OWN_FILE}, {HF_FILE}, vocab.txt or {SP_FILE}, expected one; fix: name the folder of a '
                    'tokenizer', code='tokenizer/no-file')


def of_run(workdir) -> Tokenizer:
    """The tokenizer that a run has saved in its workdir."""
    return _opened(str(storage.place(workdir) / FOLDER))


def of_splits(splits) -> Tokenizer | None:
    """The tokenizer of splits of texts: that of the run, where its data is described alone, else of the training source; None
    of data that was tokenised elsewhere.

    Raises:
      UserError: the tokenizer in the workdir is another one than the run states.
    """
    info = splits.info
    if 'recorded' not in info or not info.get('tokenizer'):
        return getattr(splits.train, 'tokenizer', None)
    saved = of_run(info['recorded'])
    if saved.facts != info['tokenizer']:
        raise UserError(f'{info["recorded"]}: got the tokenizer {saved.facts}, expected {info["tokenizer"]} as in run.json; '
                        'fix: the tokenizer/ folder of the run', code='tokenizer/other-than-run')
    return saved


def of_stream(info: Mapping) -> Tokenizer | None:
    """The tokenizer of a stream of tokens, by the facts of the data: that of the run, or of the folder; None where the stream
    has none.

    Raises:
      UserError: the tokenizer is another one than the manifest of the tokens, or the run, states.
    """
    if not info.get('tokenizer'):
        return None
    place = str(storage.place(info['recorded']) / FOLDER) if 'recorded' in info else info['tokenizer_folder']
    found = _opened(place)
    if found.facts != dict(info['tokenizer']):
        raise UserError(f'{place}: got the tokenizer {found.facts}, expected {dict(info["tokenizer"])}; fix: the tokenizer '
                        'that encoded the text', code='tokenizer/other-than-run')
    return found


def keep(tokenizer: Tokenizer, workdir) -> None:
    """Saves the tokenizer of a run in its workdir, once.

    Raises:
      UserError: the run has another one already: its weights would read other tokens.
    """
    folder = storage.place(workdir) / FOLDER
    if storage.children(folder):
        before = _opened(str(folder))
        if before.hash != tokenizer.hash:
            raise UserError(f'{folder}: got the tokenizer {before.kind} {before.hash} of {before.vocab_size} tokens, expected '
                            f'{tokenizer.kind} {tokenizer.hash} of {tokenizer.vocab_size}; fix: another --workdir, or the data '
                            'and the tokenizer of the run', code='tokenizer/other-than-run')
        return
    tokenizer.save(folder)


def _opened(path: str) -> Tokenizer:
    """The tokenizer of a folder, or of one of its files."""
    place = storage.place(path)
    names = storage.children(place)
    if names:
        wanted = (OWN_FILE, HF_FILE, HF_CONFIG, SP_FILE, 'vocab.txt')
        return from_files({name: storage.read(place / name) for name in wanted if name in names}, str(path))
    if str(path).endswith('.model'):
        return SentencePiece(_content(path), path)
    data = _content(path)
    if str(path).endswith('.json'):
        return from_files({(OWN_FILE if str(path).endswith(OWN_FILE) else HF_FILE): data}, path)
    return from_files({'vocab.txt': data} if str(path).endswith('vocab.txt') else {}, path)


def _content(path: str) -> bytes:
    if storage.remote(place := storage.place(path)):
        return storage.read(place)
    return formats.read(place)


def _own(data: bytes, where: str) -> Tokenizer:
    try:
        state = safe_read.parsed(data)
        kind = state['kind']
        if kind == 'byte':
            return Bytes()
        if kind == 'char':
            return Characters(str(state['chars']), bool(state['unknown']))
        if kind == 'word':
            return Words(list(map(str, state['words'])), str(state['pattern']), bool(state['lower']))
    except (ValueError, KeyError, TypeError, re.error) as error:
        raise damaged(where, error) from error
    raise UserError(f'{where}: got the kind {printable(kind)}, expected char, byte or word; fix: a newer version of bigjax',
                    code='tokenizer/kind')
