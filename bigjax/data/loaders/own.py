"""Data of the user's own, by kind: `OWN[kind](place, data_dir, image_size, kept) -> OwnData`.

`kept(splits, records, labels)` gives the training records that will not be held out, or None for all: from these alone empty
cells are filled.
"""
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bigjax.data import folders, images
from bigjax.data.folders import SPLITS
from bigjax.data.loaders import parquet, tables, tfds_hf
from bigjax.data.loaders.cells import Cells, RawTable, column_names, from_list
from bigjax.data.loaders.records import table_source
from bigjax.data.schema import Schema
from bigjax.data.sources import DAMAGED, ArraySource, Map, first
from bigjax.errors import UserError
from bigjax.io.text import printable

IMAGES_IN_MEMORY_BYTES = 256 << 20  # decoded images up to this size are read once and kept
TABLES = ('jsonl', 'csv', 'parquet')  # may name images beside them
PROBE_TEXTS = 1000  # records whose texts decide what a column of a Hugging Face data set is


class OwnData(NamedTuple):
    """The sources of a place.

    Attributes:
      parts: {split: source}, 'train' among them.
      found: where it was found.
      classes: names, or None.
      schema: the decisions about the columns, where it is a table.
      notes: {split: what was left out, filled or assumed}.
    """

    parts: dict[str, Any]
    found: str
    classes: list[str] | None = None
    schema: Schema | None = None
    notes: Mapping[str, list[str]] = {}


def part_files(place: str, extension: str) -> dict[str, pathlib.Path]:
    """{'train': file, …}: the file itself, or the files of a folder whose names are those of splits.

    Raises:
      UserError: a folder without a training file, or with two files of one split.
    """
    root = pathlib.Path(place)
    if not root.is_dir():
        return {'train': root}
    found: dict[str, pathlib.Path] = {}
    for path in sorted(root.iterdir()):
        stem = path.name.lower().removesuffix('.gz').removesuffix(f'.{extension}')
        split = folders.split_of(stem) if stem != path.name.lower().removesuffix('.gz') and path.is_file() else ''
        if split in found:
            raise UserError(f'{extension}:{place}: got {found[split].name} and {path.name}, expected one file for {split}; '
                            'fix: rename or remove one', code='data/two-splits')
        if split:
            found[split] = path
    if 'train' not in found:
        raise UserError(f'{extension}:{place}: got a folder without train.{extension}, expected a file, or a folder with '
                        f'train.{extension} and val.{extension} or test.{extension}; fix: name the file', code='data/no-train')
    return {split: found[split] for split in SPLITS if split in found}


def _by_schema(raw: Mapping[str, RawTable], source: Callable[[str, Schema], tuple[Any, list[str]]], place: str,
               kept: Callable) -> OwnData:
    """Every split read by the decisions that the training split makes; `source(split, schema)` -> (source, notes)."""
    schema = _fitted(raw, kept)
    parts, notes = {}, {}
    for split, table in raw.items():
        parts[split], said = source(split, schema)
        notes[split] = [*table.notes, *said]
    return OwnData(parts, place, schema.classes, schema, notes)


def _fitted(raw: Mapping[str, RawTable], kept: Callable) -> Schema:
    """The decisions that the training table makes; its empty cells are filled from the records that are not held out."""
    train = raw['train']
    schema = Schema.fit(train)
    rows = kept(set(raw), train.length, parquet.read_labels(train, schema))
    return schema if rows is None else schema.refilled(train, rows)


def _table(read: Callable[..., RawTable], extension: str, place: str, data_dir: str, image_size: int | None,
           kept: Callable) -> OwnData:
    raw = {split: read(path) for split, path in part_files(place, extension).items()}
    return _by_schema(raw, lambda split, schema: table_source(raw[split], schema, image_size), place, kept)


def _parquet(place: str, data_dir: str, image_size: int | None, kept: Callable) -> OwnData:
    paths = part_files(place, 'parquet')
    raw = {split: parquet.raw_table(path) for split, path in paths.items()}

    def source(split, schema):
        if schema.numbers_only and parquet.fits_in_memory(paths[split]):
            return table_source(raw[split], schema)
        made = parquet.ParquetSource(paths[split], schema, image_size)
        _ = made.labels  # a label that is none is refused before training
        return made, []

    return _by_schema(raw, source, place, kept)


def _npz(place: str, data_dir: str, image_size: int | None, kept: Callable) -> OwnData:
    paths = part_files(place, 'npz')
    arrays = {split: tables.npz(path) for split, path in paths.items()}
    if len(arrays) == 1:
        arrays = tables.npz_splits(arrays['train'], SPLITS)
    raw = {split: tables.npz_table(part, paths.get(split, paths['train'])) for split, part in arrays.items()}
    return _by_schema(raw, lambda split, schema: table_source(raw[split], schema), place, kept)


def _folder(place: str, data_dir: str, image_size: int | None, kept: Callable) -> OwnData:
    parts, classes, notes = folders.open_folder(place, image_size)
    return OwnData(parts, place, classes, notes={'train': notes})


def split_names(kind: str, place: str, available) -> dict[str, str]:
    """{our name of a split: the library's}.

    Raises:
      UserError: there is no training split.
    """
    found = {split: next((name for name in names if name in available), '') for split, names in SPLITS.items()}
    if not found['train']:
        raise UserError(f'{kind}:{place}: got the splits {printable(", ".join(available))}, expected train; fix: name another',
                        code='data/no-train')
    return {split: name for split, name in found.items() if name}


def _tfds(place: str, data_dir: str, image_size: int | None, kept: Callable) -> OwnData:
    builder = tfds_hf.tfds_builder(place, data_dir)
    names = split_names('tfds', place, builder.info.splits)
    parts = {split: tfds_hf.tfds(place, name, data_dir) for split, name in names.items()}
    features = builder.info.features
    feature = features['label'] if 'label' in features.keys() else None  # noqa: SIM118, it is no dict
    if 'image' in first(parts['train']):
        size = image_size or first_size(parts['train'])
        parts = {split: Map(source, functools.partial(_numbers_only, size=size)) for split, source in parts.items()}
    return OwnData(parts, str(builder.data_dir), list(getattr(feature, 'names', None) or []) or None)


def _numbers_only(example: dict, size: int) -> dict:
    """An example with an image without its file names and keys, which a device cannot hold; the image resized.

    A grey image keeps its one channel, which models of grey images (MNIST) need.
    """
    example = {name: value for name, value in example.items() if not isinstance(value, (str, bytes))}
    image = example['image']
    image = image if image.dtype == 'uint8' and image.shape[-1] in (1, 3) else images.rgb(image)
    return {**example, 'image': images.resize(image, size)}


def _hf(place: str, data_dir: str, image_size: int | None, kept: Callable) -> OwnData:
    data = tfds_hf.hf(place)
    names = split_names('hf', place, list(data))
    raw = {split: hf_table(data[name], f'hf:{place} ({name})') for split, name in names.items()}
    schema = _fitted(raw, kept)
    declared = getattr(data[names['train']].features.get('label'), 'names', None)
    if declared and schema.classes and len(declared) >= len(schema.classes):
        schema = schema.with_classes(declared)
    parts, notes = {}, {}
    for split, name in names.items():
        parts[split], said = (table_source(raw[split], schema) if schema.numbers_only else (
            tfds_hf.HFSource(data[name], raw[split].where, schema, image_size, parquet.read_labels(raw[split], schema)), []))
        notes[split] = [*raw[split].notes, *said]
    return OwnData(parts, place, schema.classes, schema, notes)


def hf_table(data: Any, where: str) -> RawTable:
    """The columns of a split of a Hugging Face data set; of images nothing is read, of free text the first records."""
    first = data[0] if len(data) else {}
    names, notes = column_names(list(data.column_names), where)
    columns = {}
    for raw, name in names.items():
        if hasattr(first.get(raw), 'getbands'):
            columns[name] = Cells(images=True)
            continue
        values = data[raw]
        if isinstance(first.get(raw), str) and name != 'label':
            head = list(values[:PROBE_TEXTS])
            if len(set(head)) > len(head) / 2:
                columns[name] = Cells(texts=from_list(head, name, where).texts, long=True)
                continue
        columns[name] = from_list(list(values), name, where)
    return RawTable(where, pathlib.Path(), columns, len(data), notes=tuple(notes))


OWN: dict[str, Any] = {
    'folder': _folder, 'jsonl': functools.partial(_table, tables.jsonl, 'jsonl'),
    'csv': functools.partial(_table, tables.csv, 'csv'), 'parquet': _parquet, 'npz': _npz, 'text': None, 'tokens': None,
    'tfds': _tfds, 'hf': _hf}


def first_size(source: Any) -> int:
    """The shorter side of the first image."""
    return min(first(source)['image'].shape[:2])


def in_memory(source: Any) -> Any:
    """The examples as arrays where they are numbers and small together.

    A damaged image is then found at the start: the source stays as it is, and its attribute `damaged` is the error, which
    a run raises before its first step (`sources.check_opened`) unless it skips what is damaged.
    """
    if isinstance(source, ArraySource) or not len(source):
        return source
    example = first(source)
    numbers = all(isinstance(value, (np.ndarray, np.number)) for value in example.values())
    if not numbers or sum(value.nbytes for value in example.values()) * len(source) > IMAGES_IN_MEMORY_BYTES:
        return source
    try:
        examples = [source[i] for i in range(len(source))]
    except UserError as error:
        if error.code not in DAMAGED:
            raise
        source.damaged = error
        return source
    return ArraySource({name: np.stack([each[name] for each in examples]) for name in example})


def same_size(parts: dict[str, Any], image_size: int | None) -> tuple[dict[str, Any], int | None]:
    """(the sources with all images of one size, small ones in memory; that size, or None without images)."""
    train = parts['train']
    if isinstance(train, ArraySource) or not len(train):
        return parts, None
    if getattr(first(train).get('image'), 'ndim', 0) != 3:
        return parts, None
    size = image_size or first_size(train)
    for source in parts.values():
        if hasattr(source, 'image_size'):
            source.image_size = size
    return {split: in_memory(source) for split, source in parts.items()}, size

