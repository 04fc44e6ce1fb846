"""Text files as tokens for a language model, and tokenizers trained from text.

  python -m bigjax.data.tokenize --in FILES… --out=FOLDER --tokenizer=gpt2:FOLDER
  python -m bigjax.data.tokenize train --kind=bpe --size=8000 --in FILES… --out=FOLDER

The first one writes train.bin, val.bin, manifest.json and tokenizer/, which `--config.data=tokens:FOLDER` reads. It runs in
parallel processes, and the same command resumes where it was interrupted. The tokens of each split are one file: uint16 (.bin,
as nanoGPT has it), or uint32 (.npy) for more than 65,536 tokens. Every document is followed by the tokenizer's end token, where
it has one. A .txt file is a document, and so is a line of a .jsonl file.
"""
import argparse
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.data import corpus, tokenizers
from bigjax.data.text import MANIFEST
from bigjax.errors import DONE, PREEMPTED, UserError, command
from bigjax.io import atomic
from bigjax.io.text import counted, first_line, printable

PARTS = '.parts'  # the folder of what is finished so far
TRAINED = ('word', 'char', 'bpe', 'wordpiece', 'unigram')  # kinds that the texts themselves decide
USUAL_TOKENS = 8000
KINDS = ('bpe', 'wordpiece', 'unigram', 'word', 'char', 'byte')
NARROW_TOKENS = 2**16  # up to so many tokens fit in uint16

_worker: dict[str, Any] = {}  # of a process: its tokenizer


def write(places: Sequence[str], to: str, tokenizer: tokenizers.Tokenizer, *, val: Sequence[str] = (),
          val_fraction: float = 0.1, key: str = 'text', jobs: int = 1, part_bytes: int = corpus.PART_BYTES,
          quiet: bool = False) -> dict[str, Any]:
    """Writes the tokens of text files; returns the manifest.

    Args:
      places: files and folders to train on, see `bigjax.data.corpus`.
      to: the folder.
      val: files and folders to validate with; none: the last `val_fraction` of the text.
      key: of the text in a record of .jsonl.
      jobs: processes.
      part_bytes: the size of what one process does at a time.
      quiet: no progress bar.

    Raises:
      UserError: a file is missing, empty or not UTF-8; the folder holds other tokens.
    """
    folder, cuttable = pathlib.Path(to).expanduser(), tokenizer.cuttable
    units = {'train': _parts('--in', places, cuttable, part_bytes)}
    if val:
        units['val'] = _parts('--val', val, cuttable, part_bytes)
    else:
        if not 0 < val_fraction < 1:
            raise UserError(f'--val_fraction: got {val_fraction}, expected a number between 0 and 1; fix: such as 0.1',
                            code='data/held-out')
        units['train'], units['val'] = corpus.divided(units['train'], val_fraction, cuttable)
    names = {split: _names(found, tokenizer, key) for split, found in units.items()}
    digest = _digest(names)
    if (finished := _begin(folder, digest)) is not None:
        return finished
    facts = _encode_all(units, names, folder / PARTS, tokenizer, key, jobs, quiet)
    tokenizer.save(folder / tokenizers.FOLDER)
    splits = {split: _joined(folder, split, found, facts[split], tokenizer.vocab_size) for split, found in names.items()}
    manifest = {'tokenizer': tokenizer.facts, 'splits': splits, 'input': digest}
    atomic.write_json(folder / MANIFEST, manifest)
    shutil.rmtree(folder / PARTS)
    return manifest


def _parts(flag: str, places: Sequence[str], cuttable: bool, size: int) -> list[corpus.Part]:
    """The parts of the files of places.

    Raises:
      UserError: they are all empty.
    """
    found = corpus.parts(corpus.found(places), cuttable, size)
    if not found:
        raise UserError(f'{flag}={printable(", ".join(map(str, places)))}: got no byte, expected a text; fix: name files that '
                        'are not empty', code='data/empty')
    return found


def _digest(facts) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _names(units: Sequence[corpus.Part], tokenizer: tokenizers.Tokenizer, key: str) -> list[str]:
    """The name of the file of each part's tokens.

    It is a digest of all that decides the tokens (the tokenizer, the file with its size and time of change, the bytes), so that
    after a kill, or a file that had to be corrected, what is found under a name is what would be computed.
    """
    stamps = {path: (os.path.getsize(path), os.path.getmtime(path)) for path in {unit.path for unit in units}}
    return [_digest([tokenizer.facts, key, stamps[unit.path], unit]) for unit in units]


def _begin(folder: pathlib.Path, digest: str) -> dict | None:
    """Makes the folder of parts; the manifest where all is done already.

    Raises:
      UserError: other tokens are there.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        return None
    if manifest.get('input') != digest:
        raise UserError(f'--out={folder}: got a folder with other tokens, expected a new one; fix: another --out',
                        code='tokenize/other-tokens')
    return manifest


def _encode_all(units: Mapping[str, Sequence[corpus.Part]], names: Mapping[str, Sequence[str]], parts: pathlib.Path,
                tokenizer: tokenizers.Tokenizer, key: str, jobs: int, quiet: bool) -> dict[str, dict[str, int]]:
    """{split: {'tokens', 'documents', 'bytes'}}; every part becomes a file, which the next command finds after a kill."""
    work = [(split, *each) for split, found in units.items() for each in zip(names[split], found, strict=True)]
    facts = {split: dict.fromkeys(('tokens', 'documents', 'bytes'), 0) for split in units}
    with _Bar(sum(unit.end - unit.start for *_, unit in work), quiet) as bar:
        for split, count in _each(work, parts, tokenizer, key, jobs):
            for name, value in count.items():
                facts[split][name] += value
            bar(count['bytes'])
    for split, found in facts.items():
        if not found['tokens']:
            raise UserError(f'{split}: got no token, expected a text; fix: name files that are not empty', code='data/empty')
    return facts


def _each(work, parts, tokenizer, key, jobs) -> Iterator[tuple[str, dict[str, int]]]:
    given = (str(parts), tokenizer.files(), key)
    if jobs <= 1 or len(work) < 2:
        _start(*given)
        yield from map(_one, work)
        return
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(work)), multiprocessing.get_context('spawn'), _start,
                                                given) as pool:
        try:
            yield from pool.map(_one, work)
        except BaseException:  # what has not begun is left to the next command
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start(parts: str, files: Mapping[str, bytes], key: str) -> None:
    """Runs first in a process."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker that is interrupted with a queue in its hands blocks the others
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'  # there is a process for each core
    _worker.update(parts=pathlib.Path(parts), tokenizer=tokenizers.from_files(files, 'the tokenizer'), key=key)


def _one(job: tuple[str, str, corpus.Part]) -> tuple[str, dict[str, int]]:
    """Encodes a part, or takes the file that an earlier command has left."""
    (split, name, unit), tokenizer = job, _worker['tokenizer']
    unit = corpus.Part(*unit)
    path = _worker['parts'] / f'{name}.npy'
    done = path.with_suffix('.json')  # written after the tokens
    if done.exists():
        return split, json.loads(done.read_text(encoding='utf-8'))
    rows, documents = [], 0
    for text, ends in corpus.texts(unit, _worker['key']):
        rows.append(np.asarray(tokenizer.encode(text), np.uint32))
        if ends:
            documents += 1
            rows += [np.array([tokenizer.eos], np.uint32)] if tokenizer.eos is not None else []
    tokens = np.concatenate(rows) if rows else np.zeros(0, np.uint32)
    tokens = tokens.astype(_dtype(tokenizer.vocab_size))
    with open(path, 'wb') as file:
        np.save(file, tokens)
    count = {'tokens': len(tokens), 'documents': documents, 'bytes': unit.end - unit.start}
    atomic.write_json(done, count)
    return split, count


def _dtype(vocabulary: int):
    return np.uint16 if vocabulary <= NARROW_TOKENS else np.uint32


def _joined(folder: pathlib.Path, split: str, names: Sequence[str], facts: Mapping[str, int],
            vocabulary: int) -> dict[str, Any]:
    """Joins the parts of a split to one file, and describes it."""
    narrow = _dtype(vocabulary) is np.uint16
    path = folder / f'{split}.{"bin" if narrow else "npy"}'
    temporary, digest = path.with_name(f'.{path.name}.tmp'), hashlib.sha256()
    with open(temporary, 'wb') as file:
        if not narrow:
            np.lib.format.write_array_header_1_0(file, {'descr': '<u4', 'fortran_order': False, 'shape': (facts['tokens'],)})
        for name in names:
            data = np.load(folder / PARTS / f'{name}.npy', allow_pickle=False).tobytes()
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return {'file': path.name, **facts, 'sha256': digest.hexdigest()}


class _Bar:
    """A progress bar of bytes on a terminal, nothing elsewhere."""

    def __init__(self, total: int, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
        console = Console(stderr=True)
        self._bar = Progress('tokenizing', BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console,
                             disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task('tokenizing', total=total)

    def __enter__(self):
        self._bar.start()
        return lambda done: self._bar.advance(self._task, done)

    def __exit__(self, *_):
        self._bar.stop()


def train(places: Sequence[str], *, kind: str, size: int = 0, min_count: int = 1, key: str = 'text') -> tokenizers.Tokenizer:
    """A tokenizer trained from text files.

    Args:
      places: files and folders, see `bigjax.data.corpus`.
      kind: 'bpe' (of bytes, as GPT-2's), 'wordpiece' (as BERT's), 'unigram' (as T5's), 'word', 'char' or 'byte'.
      size: tokens, special ones included; 0 for all words.
      min_count: of a word, or of a pair that is merged.
      key: of the text in a record of .jsonl.

    Raises:
      UserError: an unknown kind, a size that is too small, as `corpus.texts`.
    """
    texts = (text for unit in corpus.parts(corpus.found(places), True) for text, _ in corpus.texts(unit, key))
    return learned(kind, texts, size, min_count)


def learned(kind: str, texts: Iterable[str], size: int = 0, min_count: int = 1) -> tokenizers.Tokenizer:
    """`train` on texts that are in memory."""
    if kind == 'byte':
        return tokenizers.Bytes()
    if kind == 'char':
        return tokenizers.Characters.train(texts)
    if kind == 'word':
        return tokenizers.Words.train(texts, min_count, size)
    if kind not in KINDS:
        raise UserError(f'--kind: got {printable(kind)}, expected one of {", ".join(KINDS)}', code='tokenizer/kind')
    if size < 300 and not (kind != 'bpe' and size >= 30):
        raise UserError(f'--size: got {size}, expected at least {300 if kind == "bpe" else 30} tokens for {kind}; fix: such as '
                        '8000', code='tokenizer/size')
    model, trainer, names = _learner(kind, size, min_count)
    try:
        model.train_from_iterator(texts, trainer)
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself, where there is no text
        raise UserError(f'a tokenizer of the kind {kind}: cannot be trained ({first_line(error)}); fix: more text',
                        code='tokenizer/train') from error
    if kind == 'wordpiece':
        from tokenizers import processors
        ends = [(name, model.token_to_id(name)) for name in ('[CLS]', '[SEP]')]
        model.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
                                                             special_tokens=ends)
    return tokenizers.HuggingFace(model.to_str().encode(), names)


def of_texts(spec: str, texts: Iterable[str]) -> tokenizers.Tokenizer:
    """The tokenizer of `config.tokenizer`: one that these texts decide, or that of a place.

    Args:
      spec: 'word', 'word:2' (words that occur twice or more), 'char', 'bpe:8000', 'wordpiece:8000' or 'unigram:8000' (so many
        tokens, 8,000 without a number), or a place of `tokenizers.load`.
      texts: of the training records.

    Raises:
      UserError: as `learned` and `tokenizers.load`; something else than a number after the colon.
    """
    kind, _, rest = str(spec).partition(':')
    if kind not in TRAINED or (kind == 'char' and rest):
        return tokenizers.load(spec)
    if rest and not rest.isdigit():
        what = 'how often a word occurs at least; fix: word:2' if kind == 'word' else f'a number of tokens; fix: {kind}:8000'
        raise UserError(f'config.tokenizer={printable(spec)}: got {printable(rest)} after the colon, expected {what}',
                        code='tokenizer/kind')
    if kind == 'char':
        return tokenizers.Characters.train(texts, unknown=True)
    if kind == 'word':
        return tokenizers.Words.train(texts, int(rest or 1))
    return learned(kind, texts, int(rest or USUAL_TOKENS))


def _learner(kind: str, size: int, min_count: int) -> tuple[Any, Any, dict[str, str]]:
    """(an untrained tokenizer, its trainer, {role: special token})."""
    try:
        import tokenizers as library
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise UserError("training a tokenizer needs the package tokenizers; fix: pip install 'bigjax[text]'",
                        code='tokenizer/package') from error
    options = {'vocab_size': size, 'show_progress': False}
    if kind == 'bpe':
        model, end = library.Tokenizer(models.BPE()), '<|endoftext|>'
        model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(special_tokens=[end], min_frequency=max(min_count, 2),
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
        return model, trainer, {'bos': end, 'eos': end}
    if kind == 'wordpiece':
        model, special = library.Tokenizer(models.WordPiece(unk_token='[UNK]')), ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
        model.normalizer, model.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        model.decoder = decoders.WordPiece()
        return model, trainers.WordPieceTrainer(special_tokens=special, min_frequency=min_count, **options), {}
    model, special = library.Tokenizer(models.Unigram()), ['<pad>', '</s>', '<unk>']
    model.normalizer, model.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    return model, trainers.UnigramTrainer(special_tokens=special, unk_token='<unk>', **options), {}


@command('tokenize')
def main(argv: Sequence[str] | None = None) -> int:
    """The commands at the top of this file; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    training = argv[:1] == ['train']
    parser = argparse.ArgumentParser(prog=f'python -m bigjax.data.tokenize{" train" if training else ""}',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--in', dest='places', nargs='+', required=True, help='.txt and .jsonl files (also .gz), and folders')
    parser.add_argument('--out', '--to', dest='to', required=True, help='the folder to write')
    parser.add_argument('--key', default='text', help='of the text in a record of .jsonl')
    if training:
        parser.add_argument('--kind', required=True, help=', '.join(KINDS))
        parser.add_argument('--size', type=int, default=0, help='tokens')
        parser.add_argument('--min_count', type=int, default=1, help='of a word')
        options = parser.parse_args(argv[1:])
        made = train(options.places, kind=options.kind, size=options.size, min_count=options.min_count, key=options.key)
        made.save(options.to)
        print(f'{options.to}: {options.kind}, {made.vocab_size:,} tokens, {made.hash}')
        return DONE
    parser.add_argument('--tokenizer', required=True, help='byte, or KIND:PLACE; see bigjax/data/tokenizers.py')
    parser.add_argument('--val', nargs='+', default=[], help='files and folders of the validation text')
    parser.add_argument('--val_fraction', type=float, default=0.1, help='the last part of the text, without --val')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='processes')
    options = parser.parse_args(argv)
    try:
        manifest = write(options.places, options.to, tokenizers.load(options.tokenizer), val=options.val,
                         val_fraction=options.val_fraction, key=options.key, jobs=options.jobs)
    except KeyboardInterrupt:
        print(f'{options.to}: interrupted; what is written stays, and the same command writes the rest', file=sys.stderr)
        return PREEMPTED
    for facts in manifest['splits'].values():
        ends = counted(facts['documents'], 'document') if facts['documents'] else 'a document that val continues'
        print(f'{options.to}/{facts["file"]}: {facts["tokens"]:,} tokens of {ends}')
    return DONE


if __name__ == '__main__':
    sys.exit(main())
