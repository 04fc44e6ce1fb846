"""The lines that report what opening data found, and the check that an experiment can read it."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.data import sources
from bigjax.data.columns import Column
from bigjax.data.fake import TEXT
from bigjax.data.loaders import registry
from bigjax.data.schema import Schema
from bigjax.data.sources import ArraySource, Map, Splits
from bigjax.errors import UserError
from bigjax.io.text import nearest, printable

MAX_SHOWN = 12  # columns or classes that a line names
LIKELY_ROLES = ('class', 'classes', 'category', 'labels', 'species', 'outcome', 'targets', 'y')
LIKELY_TEXTS = ('text', 'sentence', 'review', 'document', 'comment', 'content', 'question', 'body')
EXPERIMENTS = {  # what a record holds: the commands that read it, the nearest first
    ('image', 'label'): ('mnist', 'fashion_mnist', 'cifar10', 'resnet_imagenet', 'vit_imagenet'),
    ('audio', 'label', 'length'): ('spoken_digits',),
    ('audio', 'length', 'text', 'text_length'): ('spoken_digits --variant=conformer', 'librispeech'),
    ('label', 'series'): ('mnist1d', 'ucr'),
    ('label', 'x'): ('uci --variant=breast_cancer,mlp', 'mnist1d', 'ucr'),
    ('target', 'x'): ('uci',),
    ('label', 'text'): ('sentiment', 'reuters'),
    ('chars', 'stream'): ('tiny_shakespeare',),
    ('stream',): ('gpt2_openwebtext', 'llama2'),
}
TEXT_TABLES = {  # columns of a table of texts: the experiments that read it
    ('question', 'context', 'answers'): ('squad',), ('source', 'target'): ('multi30k', 'wmt14'),
    ('text', 'summary'): ('cnn_dailymail',), ('word', 'phonemes'): ('g2p',)}
TWO_CLASSES = ('uci --variant=breast_cancer,mlp',)  # their output is one logit
MEANING = {'image': 'image [height, width, channels]', 'label': 'label (the number or name of a class)',
           'audio': 'audio (a sound file)', 'text': 'text (a text, or what is said in a sound)',
           'target': 'target (a number)', 'x': 'x (columns of numbers)', 'series': 'x [time, channels] or columns of numbers',
           'stream': 'a text or a row of tokens', 'chars': 'a text, as text:FILE', 'source': 'source (word numbers)'}


# -- the lines --------------------------------------------------------------------------------------------------------

def lines(splits: Splits, schema: Schema | None, notes: Mapping[str, list[str]]) -> list[str]:
    """The lines to print: records per split, the columns with their types, the classes, and what was left out or filled.

    Args:
      splits: the data; info has 'name', 'records', and 'held_out' where a part of train was held out.
      schema: the decisions about the columns, where it is a table.
      notes: {split: what was left out, filled or assumed}.
    """
    info = splits.info
    records = ', '.join(f'{split} {count:,}' for split, count in info['records'].items())
    held = ' (made up)' if str(info.get('source', '')).startswith('made up') else ''
    held += f' (val: {info["held_out"]:.0%} of train, held out)' if info.get('held_out') else ''
    found = [f'{printable(info["name"])}: {records} records{held}', f'holds: {_columns(splits, schema)}']
    if info.get('classes'):
        found.append(f'classes: {_classes(splits)}')
    left_out = [f'{printable(c.name)} ({c.why})' for c in (schema.columns if schema else ()) if c.kind == 'left out']
    # A sentence per split only where it differs from train's
    for split, said in notes.items():
        left_out += [f'{split}: {note}' if split != 'train' else note for note in said if split == 'train' or
                     note not in notes.get('train', ())]
    return [*found, f'left out, filled or assumed: {_some(left_out)}' if left_out else 'left out: nothing']


def _some(names) -> str:
    names = list(names)
    more = f', and {len(names) - MAX_SHOWN} more' if len(names) > MAX_SHOWN else ''
    return ', '.join(map(printable, names[:MAX_SHOWN])) + more


def _columns(splits: Splits, schema: Schema | None) -> str:
    spec = shapes(splits.train)
    parts = [f'{name} {np.dtype(dtype).name}{list(shape)}' if dtype != 'text' else f'{printable(name)} text'
             for name, (shape, dtype) in spec.items()]
    if schema is None or not schema.features:
        return ', '.join(parts)
    groups = []
    for kind, words in (('number', 'numbers'), ('category', 'categories, one-hot'), ('ordinal', 'categories, by frequency')):
        names = [c.name for c in schema.columns if c.kind == kind and c.name not in ('label', 'target')]
        groups += [f'{words}: {_some(names)}'] if names else []
    return f'{", ".join(parts)}; in x are {"; ".join(groups)}'


def _classes(splits: Splits) -> str:
    closed = isinstance(splits.train, sources.LazySource)  # counting would open it
    classes, label = splits.info['classes'], None if closed else sources.labels(splits.train)
    if label is None or getattr(label, 'ndim', 0) != 1 or label.dtype.kind not in 'iu':
        return f'{len(classes)}: {_some(classes)}'
    counts = np.bincount(label, minlength=len(classes))
    shown = [f'{name} ({count:,})' for name, count in zip(classes, counts, strict=False)]
    absent = int((counts == 0).sum())
    return f'{len(classes)}: {_some(shown)}' + (f'; {absent} of them in no training record' if absent else '')


def shapes(source: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """{name: (shape of one example, dtype)}; 'text' is the dtype of text. Reads a record where nothing else helps."""
    spec = sources.shapes(source)
    if spec is not None:
        return {name: (tuple(s.shape), 'text' if s.dtype == object else s.dtype) for name, s in spec.items()}
    example = sources.first(source) if len(source) else {}
    return {name: ((), 'text') if isinstance(value, str | bytes) else (np.shape(value), np.asarray(value).dtype)
            for name, value in example.items()}


# -- what an experiment reads -----------------------------------------------------------------------------------------

def wanted(like: str) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """(what a record must hold: keys of EXPERIMENTS, the shapes of the named set)."""
    spec, variant = registry.lookup(like)
    if spec.variants and variant not in spec.variants:  # a set of an open family, whose records are like those of the others
        variant = spec.variants[0]
    known = spec.shapes(variant)
    keys = {'series' if name == 'x' and len(shape[0]) == 2 else name for name, shape in known.items()}
    if 'chars' in spec.info(variant):
        keys.add('chars')
    return tuple(sorted(keys)), known


def fit_to(splits: Splits, like: str, schema: Schema | None) -> Splits:
    """The splits as an experiment for the set `like` reads them, without what it does not read.

    Columns of a table become a series [time, 1] where the experiment reads series, and an image where they are as many
    whole numbers in 0 … 255 as its images have pixels.

    Raises:
      UserError: a record lacks what the experiment reads; names what there is, and the experiments that read that.
    """
    keys, known = wanted(like)
    got = shapes(splits.train)
    if 'stream' in keys:
        if 'tokens' not in got or ('chars' in keys and 'chars' not in splits.info):
            raise _misfit(splits, got, keys, schema)
        return splits
    takes = {}
    for name, (shape, dtype, _) in known.items():
        takes[name] = _reader(name, shape, dtype, got, splits.train)
        if takes[name] is None:
            raise _misfit(splits, got, keys, schema, name if name in got else '')
    if set(takes) == set(got) and all(f is _same for f in takes.values()):
        return splits
    apply = lambda source: _convert(source, takes)
    return Splits(apply(splits.train), {split: apply(source) for split, source in splits.evals.items()}, splits.info)


def _same(array):
    return array


def _as_series(array):
    return array[..., None]


def _as_table(array):
    return array[..., 0]


class _AsImage:
    """Pixels [H * W * C] as an image; a class, so that a worker process can receive it."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def __call__(self, array):
        return np.asarray(array).astype(np.uint8).reshape(*np.shape(array)[:-1], *self.shape)


def _reader(name: str, shape: tuple[int, ...], dtype: str, got: Mapping[str, Any], train: Any):
    """How the experiment's array is made of what there is, or None."""
    have, kind = got.get(name, ((), 'text'))
    if name == 'image' and name not in got and got.get('x', ((), ''))[0] == (math.prod(shape),):
        pixels = getattr(train, 'arrays', {}).get('x')
        whole = pixels is not None and pixels.min() >= 0 and pixels.max() <= 255 and (pixels == np.floor(pixels)).all()
        return _AsImage(shape) if whole else None
    if dtype == TEXT:
        return _same if name in got and kind == 'text' else None
    if kind == 'text' or (np.dtype(dtype).kind in 'iu' and np.dtype(kind).kind not in 'iub'):
        return None
    if len(have) == len(shape):
        return _same
    if name == 'x' and len(shape) == 2 and len(have) == 1:
        return _as_series
    if name == 'x' and len(shape) == 1 and len(have) == 2 and have[-1] == 1:
        return _as_table
    return None


class _Convert:
    """`example -> example` with the arrays that an experiment reads."""

    def __init__(self, takes: Mapping[str, Any]):
        self.takes = takes

    def __call__(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {name: f(example[name if name in example else 'x']) for name, f in self.takes.items()}


def _convert(source: Any, takes: Mapping[str, Any]) -> Any:
    made = _Convert(takes)
    return ArraySource(made(source.arrays)) if isinstance(source, ArraySource) else Map(source, made)


def _misfit(splits: Splits, got: Mapping[str, Any], keys: tuple[str, ...], schema: Schema | None,
            misshaped: str = '') -> UserError:
    """The error; `misshaped` is an array that is there, in a form that no experiment with an array of this meaning reads."""
    names = [f'{name} {"text" if dtype == "text" else f"{np.dtype(dtype).name}{list(shape)}"}'
             for name, (shape, dtype) in got.items()]
    left_out = [f'{c.name}: {c.why}' for c in (schema.columns if schema else ()) if c.kind == 'left out']
    have = _some(names) + (f' (left out: {_some(left_out)})' if left_out else '')
    expected = ' and '.join(MEANING[key] for key in keys if key in MEANING and not (key == 'stream' and 'chars' in keys))
    kinds = _kinds(got, splits.info)
    reads = () if misshaped and misshaped in kinds and misshaped in keys else EXPERIMENTS.get(kinds, ())
    columns = {c.name for c in (schema.columns if schema else ())}
    reads = next((TEXT_TABLES[key] for key in TEXT_TABLES if {*key} <= columns), reads)
    if len(splits.info.get('classes', ())) > 2:
        reads = tuple(command for command in reads if command not in TWO_CLASSES)
    renamed = _near(keys, schema)
    fix = (f'call the column {printable(renamed[0])!r} {renamed[1]}' if renamed else
           f'python -m experiments.{reads[0]} --config.data={printable(splits.info["name"])}' if reads else
           f'write {misshaped} so' if misshaped else 'name the columns so, or write an experiment that reads these')
    also = f'; experiments that read it: {", ".join(reads)}' if reads else ''
    return UserError(f'config.data={printable(splits.info["name"])}: got {have}, expected {expected}{also}; fix: {fix}',
                     code='data/misfit')


def check_columns(spec: str, tables: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Checks that tables of texts (`bigjax.data.loaders.text_tables`) have some columns.

    Raises:
      UserError: one is missing; names what there is, the nearest name, and the experiments that read that.
    """
    for split, table in tables.items():
        missing = [name for name in columns if name not in table.names]
        if not missing:
            continue
        near = nearest(missing[0], [name for name in table.names if name not in columns])
        both = {**TEXT_TABLES, **EXPERIMENTS}
        reads = next((both[key] for key in both if {*key} <= {*table.names}), ())
        also = f'; experiments that read it: {", ".join(reads)}' if reads else ''
        fix = (f'python -m experiments.{reads[0]} --config.data={printable(spec)}' if reads else
               f'call the column {printable(near)!r} {missing[0]}' if near else 'name the columns so')
        part = '' if split == 'train' else f' ({split})'
        raise UserError(f'config.data={printable(spec)}{part}: got the columns {_some(table.names)}, expected '
                        f'{", ".join(columns)}{also}; fix: {fix}', code='data/misfit')


def _near(keys: tuple[str, ...], schema: Schema | None) -> tuple[str, str] | None:
    """(a column that probably is what is missing, under another name, and that name)."""
    columns: tuple[Column, ...] = schema.columns if schema else ()
    names = {c.name for c in columns}
    if 'text' in keys and 'text' not in names:
        likely = [c.name for c in columns if c.name.lower() in LIKELY_TEXTS]
        return (likely[0], 'text') if likely else None
    role = 'label' if 'label' in keys else 'target' if 'target' in keys else ''
    if role and not names & {'label', 'target'}:
        likely = [c.name for c in columns if c.name.lower() in LIKELY_ROLES]
        return (likely[0], role) if likely else None
    arrays = [c.name for c in columns if c.kind == 'array' and c.name not in ('label', 'target', 'image')]
    return (arrays[0], 'x') if len(arrays) == 1 and 'x' not in names and {'x', 'series'} & set(keys) and role in names else None


def _kinds(got: Mapping[str, Any], info: Mapping[str, Any]) -> tuple[str, ...]:
    if 'tokens' in got:
        return ('chars', 'stream') if 'chars' in info else ('stream',)
    kinds = {'series' if name == 'x' and len(shape) == 2 else name for name, (shape, _) in got.items()}
    return next((key for key in EXPERIMENTS if set(key) <= kinds), ())
