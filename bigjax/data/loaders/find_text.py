"""Where the named sets of texts are found on this machine; the contract is that of find.py.

A source has 'text' (an object array of str) and 'label'. `bigjax.data.texts` makes tokens of them.
"""
import pathlib
from collections.abc import Sequence

import numpy as np

from bigjax.data.loaders import formats
from bigjax.data.sources import ArraySource, Splits, held_out
from bigjax.errors import UserError
from bigjax.io.text import printable

FOLDS = 10
MR_TEST, MR_VAL = 1066, 960  # of 10,662 sentences; every fold has as many, so that folds train side by side
VAL = 0.1  # of train, of every class, where there is no official validation part
FILES = {  # variant: (encoding, {split: file})
    'mr': ('latin-1', {'train': 'rt-polarity.all'}),
    'sst2': ('utf-8', {'train': 'stsa.binary.train', 'val': 'stsa.binary.dev', 'test': 'stsa.binary.test'}),
    'trec': ('latin-1', {'train': 'TREC.train.all', 'test': 'TREC.test.all'}),
}


def sentiment_files(named, name: str, variant: str, data_dir: str, *, split: int = 0) -> Splits | None:
    """`data_dir/sentiment/`: one example per line, the number of its class first, as yoonkim/CNN_sentence has them."""
    encoding, files = FILES[variant]
    paths = {part: formats.find(pathlib.Path(data_dir) / 'sentiment', file) for part, file in files.items()} if data_dir else {}
    if not paths or None in paths.values():
        return None
    classes = len(named.info(variant)['classes'])
    parts = {part: lines(path, encoding, classes) for part, path in paths.items()}
    if variant == 'mr':
        parts = fold(parts['train'], split, name)
    elif 'val' not in parts:
        parts = with_val(parts)
    return _splits(named, name, variant, pathlib.Path(data_dir) / 'sentiment', parts)


def lines(path: pathlib.Path, encoding: str, classes: int) -> dict[str, np.ndarray]:
    """A file of 'LABEL text' lines.

    Raises:
      UserError: a byte that the encoding does not have; a line without a class, or without a text.
    """
    data = formats.read(path)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: byte {error.start} is not {encoding}; fix: fetch it again', code='data/not-utf8') from error
    texts, labels = [], []
    for number, line in enumerate(text.split('\n'), 1):
        label, _, rest = line.strip('\r').partition(' ')
        if not label and not rest.strip():
            continue
        if not (label.isascii() and label.isdigit() and int(label) < classes and rest.strip()):
            raise UserError(f'{path}: line {number}: got {printable(line[:40])!r}, expected a class from 0 to {classes - 1} '
                            'and a text; fix: fetch it again', code='data/table-line')
        texts.append(rest.strip())
        labels.append(int(label))
    if not texts:
        raise UserError(f'{path}: got no records; fix: fetch it again', code='data/empty')
    return _arrays(texts, labels)


def _arrays(texts: Sequence[str], labels: Sequence[int]) -> dict[str, np.ndarray]:
    held = np.empty(len(texts), object)
    held[:] = texts
    return {'text': held, 'label': np.asarray(labels, np.int32)}


def fold(arrays: dict, split: int, name: str) -> dict[str, dict]:
    """Fold number `split` of ten: a tenth to test on, a tenth of the rest to validate with.

    Raises:
      UserError: there is no such fold.
    """
    if not 0 <= split < FOLDS:
        raise UserError(f'{name}: got split {split}, expected 0 to {FOLDS - 1}; fix: choose one of them', code='data/no-split')
    order = np.random.default_rng(0).permutation(len(arrays['label']))
    test = order[split * MR_TEST:(split + 1) * MR_TEST]
    rest = np.random.default_rng(split + 1).permutation(np.setdiff1d(order, test))
    rows = {'train': np.sort(rest[MR_VAL:]), 'val': np.sort(rest[:MR_VAL]), 'test': np.sort(test)}
    return {part: {key: array[chosen] for key, array in arrays.items()} for part, chosen in rows.items()}


def with_val(parts: dict[str, dict]) -> dict[str, dict]:
    """The same with a part of every class of train held out, the same one every time."""
    label = parts['train']['label']
    kept, held = held_out(len(label), VAL, 0, label)
    pick = lambda rows: {key: array[rows] for key, array in parts['train'].items()}
    return {'train': pick(kept), 'val': pick(held), 'test': parts['test']}


def reuters_files(named, name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/reuters/reuters-VARIANT-{train,test}.tab`: three lines of header, then 'class TAB text'."""
    folder = pathlib.Path(data_dir) / 'reuters'
    paths = {part: formats.find(folder, f'reuters-{variant}-{part}.tab') for part in ('train', 'test')} if data_dir else {}
    if not paths or None in paths.values():
        return None
    classes, parts = named.info(variant)['classes'], {}
    for part, path in paths.items():
        texts, labels = [], []
        for number, line in enumerate(formats.text(path).split('\n')[3:], 4):
            label, tab, text = line.partition('\t')
            if not line.strip():
                continue
            if not tab or label not in classes or not text.strip():
                raise UserError(f'{path}: line {number}: got {printable(line[:40])!r}, expected one of the {len(classes)} '
                                'classes, a tab and a text; fix: fetch it again', code='data/table-line')
            texts.append(text.strip())
            labels.append(classes.index(label))
        parts[part] = _arrays(texts, labels)
    return _splits(named, name, variant, folder, with_val(parts))


def _splits(named, name: str, variant: str, found, parts: dict[str, dict]) -> Splits:
    sources = {part: ArraySource(arrays) for part, arrays in parts.items()}
    info = {**named.info(variant), 'name': name, 'source': str(found),
            'records': {part: len(source) for part, source in sources.items()}}
    return Splits(sources.pop('train'), sources, info)
