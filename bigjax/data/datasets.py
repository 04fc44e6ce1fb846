"""`config.data` to splits: a named set, made-up data, or data of the user's own.

The text is a name ('mnist', 'ucr/Coffee'), or KIND:PLACE with one of
  folder  images or sounds, a sub-folder per class   jsonl, csv, parquet  a table, one record per row
  npz     arrays of one length, 'label' among them   text                 one text, for a character language model
  tfds    a name prepared by TFDS                    hf                   a Hugging Face name, or a saved folder
  tokens  a folder with train.bin and val.bin (uint16)
  fake    made-up data like a named set (`fake` alone: like the experiment's own)
A file or folder without a split of its own gets a held-out part, the same every time. A place may also be a folder
with `train` and `val` or `test` in it (in any case, also `training`, `eval`, …): sub-folders for images, train.csv and
test.csv (…) for tables. Every decision about the columns of a table is made from train, see `bigjax.data.schema`.
A place, or the folder of the named sets, may be gs://BUCKET/…: what is needed is copied to this machine's cache, including
the images and sounds that a table names.
"""
import functools
import os
import pathlib
import posixpath
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bigjax.data import audio, found, images, recorded, text
from bigjax.data.loaders import formats, parquet, registry, text_tables
from bigjax.data.loaders.own import OWN, TABLES, OwnData, in_memory, same_size
from bigjax.data.loaders.records import TableSource
from bigjax.data.loaders.registry import load, standardize
from bigjax.data.sources import ArraySource, Splits, check_labels, held_out, labels, subset
from bigjax.data.windows import WindowSource
from bigjax.errors import UserError
from bigjax.io import local_copy, storage, uri
from bigjax.io.text import hint

__all__ = ['Splits', 'hold_out', 'load', 'open_data', 'standardize']


def open_data(spec: str, *, like: str = '', data_dir: str = '', image_size: int | None = None,
              sample_rate: int | None = None, val_fraction: float | None = None, seed: int = 0, fake_records: int = 256,
              encoded: bool = False, **options) -> Splits:
    """The data that `config.data` names.

    Args:
      spec: see the top of this file; '' means `like`.
      like: the named set of the experiment: the data must hold what its records hold, and 'fake' makes up data like it.
      data_dir: holds one folder per named set; '' means the variable BIGJAX_DATA.
      image_size: both sides of every image. None: named sets keep their own, other images all take the shorter side of
        the first.
      sample_rate: in Hz, of every sound. None: that of the first training clip; named sets keep their own.
      val_fraction: how much of train to hold out as 'val'. None: 0.1 where there is no evaluation split, else nothing.
      seed: decides the held-out part, the split of a named set without an official one, and made-up data.
      fake_records: records in every made-up split.
      encoded: images of files stay encoded and of their own size, for a transform that crops them (`images.cropped`).
      **options: of a named set (see `load`), which tables of texts like it take, too; text and tokens take `length`.

    Returns:
      Splits; info has 'name', 'source', 'records', 'found' (the lines to print), 'shapes' (`bigjax.data.recorded`), 'classes'
      where there are labels, 'image_size' for images, 'ground' for grey ones, and 'schema' and 'features' for tables.

    Raises:
      UserError: an unknown kind or name (with the nearest one), data that lacks what `like` holds, or what the reader of
        that kind raises.
    """
    spec = str(spec) or like
    kind, colon, place = spec.partition(':')
    if kind == recorded.KIND:
        return recorded.splits(place)
    if kind not in OWN and ('://' in spec or kind.lower() in uri.OURS + uri.FOREIGN):
        raise UserError(f'config.data={uri.named(spec)}: got a place without its kind, expected KIND:PLACE; fix: write '
                        f'jsonl:{uri.SCHEME}…, or another kind', code='data/no-kind')
    place, remote_folder = _local(kind, place)
    if uri.url(str(data_dir)):
        data_dir = str(storage.place(data_dir))
    schema, notes = None, {}
    if kind == 'fake':
        if not (place or like):
            raise UserError('config.data=fake: got no named set to imitate, expected fake:NAME; fix: write fake:mnist',
                            code='data/fake-like')
        splits = _resized(registry.fake_set(place or like, fake_records, seed, **options), image_size)
    elif not colon:
        splits = _hold_out(_resized(_named(spec, data_dir, options, seed), image_size), val_fraction, seed)
    elif kind not in OWN:
        raise UserError(f'config.data={spec}: there is no kind {kind!r}{hint(kind, OWN)}; there are {", ".join(OWN)}, fake',
                        code='data/kind')
    elif not place:
        raise UserError(f'config.data={spec}: got nothing after the colon, expected a place; fix: write {kind}:PLACE',
                        code='data/no-place')
    elif like and (reader := registry.lookup(like)[0].own) and kind in text_tables.KINDS:
        splits, notes = _texts(spec, kind, place, like, reader, val_fraction, seed, options)
    elif kind == 'text':
        splits = text.char_splits(formats.text(place), length=options.get('length', 256), name=spec, found=place,
                                  val_fraction=0.1 if val_fraction is None else val_fraction)
    elif kind == 'tokens':
        splits = text.token_splits(place, length=options.get('length', 256), name=spec)
        if splits is None:
            raise UserError(f'config.data={spec}: got no train.bin or train.npy, expected the folder that has it; fix: check '
                            'the path', code='data/no-train')
        splits = _hold_out(splits, val_fraction, seed)
    else:
        kept = functools.partial(_kept, val_fraction=val_fraction, seed=seed)
        own = OWN[kind](place, registry.here(data_dir, place) if kind == 'tfds' else data_dir, image_size, kept)
        if remote_folder is not None:
            _bring_images(own.parts.values(), remote_folder)
        schema, notes = own.schema, own.notes
        splits = _hold_out(_own(spec, own, image_size, sample_rate, encoded), val_fraction, seed)
    if like and (colon or spec != like):
        splits = found.fit_to(splits, like, schema)
    return Splits(splits.train, splits.evals, {**splits.info, 'found': found.lines(splits, schema, notes),
                                               **recorded.described(splits), **_ground(splits.train)})


def _texts(spec: str, kind: str, place: str, like: str, reader: text_tables.Reader, val_fraction: float | None, seed: int,
           options: Mapping[str, Any]) -> tuple[Splits, dict[str, list[str]]]:
    """(the splits of a table of texts, {split: what was cut or left out}); what is held out is so before a tokenizer is
    trained."""
    tables = text_tables.read(kind, place, reader.columns)
    found.check_columns(spec, tables, reader.columns)
    if fraction := _fraction({*tables} - {'train'}, val_fraction):
        tables = text_tables.hold_out(tables, fraction, seed, reader.group)
    named, variant = registry.lookup(like)
    parts, facts = reader.make(named, variant, tables, **options)
    notes = facts.pop('notes')
    extra = [name for name in tables['train'].names if name not in reader.columns]
    notes['train'] = [*notes.get('train', ()), *extra]
    info = {**facts, 'name': spec, 'source': place, 'records': {split: len(source) for split, source in parts.items()},
            **({'held_out': fraction} if fraction else {})}
    return Splits(parts.pop('train'), parts, info), notes


def _ground(source: Any) -> dict[str, str]:
    """{'ground': 'dark', 'light' or ''} of drawings that are in memory, {} of other data."""
    if not getattr(source, 'opened', True) or 'image' not in getattr(source, 'arrays', {}):
        return {}
    image = source.arrays['image']
    return {'ground': images.ground(image)} if image.shape[-1] == 1 and image.dtype == np.uint8 else {}


def _hold_out(splits: Splits, val_fraction: float | None, seed: int) -> Splits:
    fraction = _fraction(splits.evals, val_fraction)
    return hold_out(splits, fraction, seed) if fraction else splits


def _fraction(evals: Collection[str], val_fraction: float | None) -> float:
    """How much of train is held out beside these evaluation splits."""
    if 'val' in evals:
        return 0.0
    return (0.0 if evals else 0.1) if val_fraction is None else val_fraction


def _kept(splits: Collection[str], count: int, label: np.ndarray | None, *, val_fraction: float | None,
          seed: int) -> np.ndarray | None:
    """The training records of a table that `_hold_out` will keep, None for all of them."""
    fraction = _fraction({*splits} - {'train'}, val_fraction)
    try:
        return held_out(count, fraction, seed, label)[0] if fraction else None
    except UserError:  # `_hold_out` refuses it, once the records themselves are found good
        return None


def _local(kind: str, place: str) -> tuple[str, Any]:
    """(a place on this machine, the folder in a store that a table was copied from, else None); hf takes names, too."""
    if kind in OWN and place.startswith('~'):
        return os.path.expanduser(place), None
    if kind not in OWN or not uri.url(place) or (kind == 'hf' and not place.lower().startswith(uri.OURS)):
        return place, None
    path = storage.place(place)
    table = storage.remote(path) and kind in TABLES and storage.facts(path)
    return str(local_copy.copied(path)), path.parent if table else None


def _bring_images(parts, folder) -> None:
    """Copies the images that a table names, which lie beside it in the store; `source[i]` reports which are missing."""
    names: set[str] = set()
    for source in parts:
        if isinstance(source, TableSource):
            names |= {posixpath.normpath(name) for column in source.image_columns for name in source.columns[column]}
        elif isinstance(source, audio.AudioSource):
            names |= {posixpath.normpath(name) for name in source.names}
        elif isinstance(source, parquet.ParquetSource):  # its rows are read when they are needed
            names |= {name for name in storage.files(folder) if images.is_image(name)}
    if names:
        local_copy.copied(folder, only=names)


def hold_out(splits: Splits, fraction: float, seed: int = 0) -> Splits:
    """The same with a part of train as evals['val']; every class gives its share where the labels are in memory.

    Raises:
      UserError: as `sources.held_out`; a stream of tokens, whose windows overlap.
    """
    if isinstance(splits.train, WindowSource):
        raise UserError(f'{splits.info["name"]}: got val_fraction={fraction} for windows of one text, which overlap and cannot '
                        'be held out at random; fix: leave val_fraction out', code='data/hold-out')
    label = labels(splits.train)
    kept, held = held_out(len(splits.train), fraction, seed, label if label is not None and label.ndim == 1
                          and label.dtype.kind in 'iu' else None)
    evals = {'val': subset(splits.train, held), **splits.evals}
    records = {'train': len(kept), **{name: len(source) for name, source in evals.items()}}
    return Splits(subset(splits.train, kept), evals, {**splits.info, 'records': records, 'held_out': fraction})


def _named(name: str, data_dir: str, options: Mapping[str, Any], seed: int) -> Splits:
    named = registry.NAMED.get(name.partition('/')[0])
    if named is not None and 'seed' in named.options:  # it has no official split
        options = {'seed': seed, **options}
    try:
        return load(name, data_dir, **options)
    except UserError as error:
        if error.code == 'data/not-found':
            splits = registry.later(name, lambda: load(name, data_dir, **options), **options)
            if splits is not None:
                return splits  # the error comes with the first example that is needed
        if os.path.exists(name) and name.partition('/')[0] not in registry.NAMED:
            kind = 'folder' if os.path.isdir(name) else pathlib.Path(name).suffix.strip('.') or 'text'
            raise UserError(f'config.data={name}: got a place without its kind, expected KIND:PLACE; fix: write '
                            f'{kind if kind in OWN else "text"}:{name}', code='data/no-kind') from None
        raise


def _resized(splits: Splits, image_size: int | None) -> Splits:
    if not image_size or 'image' not in getattr(splits.train, 'arrays', {}):
        return splits

    def apply(source):
        resized = np.stack([images.resize(image, image_size) for image in source.arrays['image']])
        return ArraySource({**source.arrays, 'image': resized})

    evals = {split: apply(source) for split, source in splits.evals.items()}
    return Splits(apply(splits.train), evals, {**splits.info, 'image_size': image_size})


def _own(spec: str, own: OwnData, image_size: int | None, sample_rate: int | None, encoded: bool) -> Splits:
    """The splits of a place: images of one size, sounds of one rate and length, small ones in memory, labels checked against
    the classes."""
    parts, size, sounds = dict(own.parts), None, {}
    if isinstance(parts['train'], audio.AudioSource):
        sounds, said = audio.same_form(parts, sample_rate)
        own.notes.setdefault('train', []).extend(said)
        parts = {split: in_memory(source) for split, source in parts.items()}
    elif encoded and all(hasattr(source, 'encoded') for source in parts.values()):
        for source in parts.values():
            source.encoded = True
    else:
        parts, size = same_size(parts, image_size)
    info: dict[str, Any] = {'name': spec, 'source': str(own.found), **({'image_size': size} if size else {}), **sounds}
    label = labels(parts['train'])
    if own.classes:
        info['classes'] = list(own.classes)
    elif label is not None and label.ndim == 1 and label.dtype.kind in 'iu':
        info['classes'] = [str(k) for k in range(int(label.max(initial=0)) + 1)]
    if own.schema:
        info['schema'] = own.schema.to_json()
        info.update({'features': own.schema.features} if own.schema.features else {})
    elif 'classes' in info:
        for split, source in parts.items():
            check_labels(source, len(info['classes']), f'{spec} ({split})')
    info['records'] = {split: len(source) for split, source in parts.items()}
    return Splits(parts.pop('train'), parts, info)
