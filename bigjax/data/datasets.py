"""`config.data` to splits: a named set, made-up data, or one's own files.

The text is a name ('mnist', 'ucr/Coffee'), or KIND:PLACE with one of
  folder  pictures, one sub-folder a class           jsonl, csv, parquet  a table, one record a row
  npz     arrays of one length, 'label' among them   text                 one text, for a character language model
  tfds    a name prepared by TFDS                    hf                   a Hugging Face name, or a saved folder
  tokens  a folder with train.bin and val.bin (uint16)
  fake    made-up data like a named set (`fake` alone: like the experiment's own)
A file or folder without a split of its own gives a held-out part, the same every time. A place may also be a folder
with `train` and `val` or `test` in it: sub-folders for pictures, train.csv and test.csv (…) for tables.
A place, or the folder of the named sets, may be gs://BUCKET/…: what is asked for is copied to this machine's cache, of a
table with the pictures that it names.
"""
import functools
import os
import pathlib
import posixpath
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bigjax.data import images, text
from bigjax.data.loaders import formats, parquet, registry, tables, tfds_hf
from bigjax.data.loaders.registry import load, nearest, standardize
from bigjax.data.sources import ArraySource, Map, Splits, check_labels, held_out, labels, subset
from bigjax.data.windows import WindowSource
from bigjax.errors import UserError
from bigjax.io import storage, uri

__all__ = ['Splits', 'hold_out', 'load', 'open_data', 'standardize']

EVALS = {'val': ('val', 'valid', 'validation', 'dev'), 'test': ('test',)}  # our name: what it is called
IN_MEMORY = 256 << 20  # bytes of decoded pictures that are read once and kept


def open_data(spec: str, *, like: str = '', data_dir: str = '', image_size: int | None = None,
              val_fraction: float | None = None, seed: int = 0, fake_records: int = 256, **options) -> Splits:
    """The data that `config.data` names.

    Args:
      spec: see the top of this file; '' means `like`.
      like: the named set of the experiment; 'fake' makes up data like it.
      data_dir: holds one folder a named set; '' means the variable BIGJAX_DATA.
      image_size: both sides of every picture. None: named sets keep their own, one's own pictures all take the shorter
        side of the first.
      val_fraction: how much of train to hold out as 'val'. None: 0.1 where there is no evaluation split, else nothing.
      seed: what the held-out part, the split of a named set without an official one, and made-up data depend on.
      fake_records: records in every made-up split.
      **options: of a named set (see `load`); one's own text and tokens take `length`, other data of one's own none.

    Returns:
      Splits; info has 'name', 'source', 'records', 'classes' where there are labels, and 'image_size' for pictures.

    Raises:
      UserError: an unknown kind or name (with the nearest one), or what the reader of that kind raises.
    """
    spec = str(spec) or like
    kind, colon, place = spec.partition(':')
    if kind not in OWN and ('://' in spec or kind.lower() in uri.OURS + uri.FOREIGN):
        raise UserError(f'config.data={uri.named(spec)}: a place needs its kind before it, such as jsonl:{uri.SCHEME}…')
    place, theirs = _here(kind, place)
    if uri.url(str(data_dir)):
        data_dir = str(storage.place(data_dir))
    if kind == 'fake':
        if not (place or like):
            raise UserError('config.data=fake: no named set to imitate here: write fake:NAME, such as fake:mnist')
        return _resized(registry.fake_set(place or like, fake_records, seed, **options), image_size)
    if not colon:
        splits = _resized(_named(spec, data_dir, options, seed), image_size)
    elif kind not in OWN:
        raise UserError(f'config.data={spec}: there is no kind {kind!r}: {nearest(kind, [*OWN, "fake"])}')
    elif not place:
        raise UserError(f'config.data={spec}: nothing after the colon: write {kind}:PLACE')
    elif kind == 'text':
        return text.char_splits(formats.text(place), length=options.get('length', 256), name=spec, found=place,
                                val_fraction=0.1 if val_fraction is None else val_fraction)
    elif kind == 'tokens':
        splits = text.token_splits(place, length=options.get('length', 256), name=spec)
        if splits is None:
            raise UserError(f'config.data={spec}: there is no train.bin or train.npy; write the folder that has it')
        return splits
    else:
        parts, found, info = OWN[kind](place, registry.here(data_dir, place) if kind == 'tfds' else data_dir, image_size)
        if theirs is not None:
            _bring_pictures(parts.values(), theirs)
        splits = _own(spec, found, parts, info, image_size)
    fraction = (0.0 if splits.evals else 0.1) if val_fraction is None else val_fraction
    if fraction and 'val' not in splits.evals:
        splits = hold_out(splits, fraction, seed)
    return splits


def _here(kind: str, place: str) -> tuple[str, Any]:
    """(a place as one of this machine, the folder in a store that a table was copied from, else None); hf has names too."""
    if kind not in OWN or not uri.url(place) or (kind == 'hf' and not place.lower().startswith(uri.OURS)):
        return place, None
    path = storage.place(place)
    table = storage.remote(path) and kind in TABLES and storage.facts(path)
    return str(storage.copied(path)), path.parent if table else None


def _bring_pictures(sources, folder) -> None:
    """Copies the pictures that a table names, which lie beside it in the store; `source[i]` says which are not there."""
    names: set[str] = set()
    for source in sources:
        if isinstance(source, tables.TableSource):
            names |= {posixpath.normpath(name) for column in source.pictures for name in source.columns[column]}
        elif isinstance(source, parquet.ParquetSource) and _nested(source.path):  # its rows are read when they are needed
            names |= {name for name in storage.files(folder) if images.is_image(name)}
    if names:
        storage.copied(folder, only=names)


def _nested(path: pathlib.Path) -> bool:
    """Whether a Parquet file has columns of records, in which pictures are."""
    import pyarrow.parquet as pq
    import pyarrow.types as types
    return any(types.is_struct(field.type) for field in pq.read_schema(path))


def hold_out(splits: Splits, fraction: float, seed: int = 0) -> Splits:
    """The same with a part of train as evals['val']; every class gives its share where the labels are in memory.

    Raises:
      UserError: as `sources.held_out`; a stream of tokens, whose windows overlap.
    """
    if isinstance(splits.train, WindowSource):
        raise UserError(f'{splits.info["name"]}: windows of one text overlap and cannot be held out at random: '
                        'leave val_fraction to the text')
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
            raise UserError(f'config.data={name}: a place needs its kind before it: '
                            f'write {kind if kind in OWN else "text"}:{name}') from None
        raise


def _resized(splits: Splits, image_size: int | None) -> Splits:
    if not image_size or 'image' not in getattr(splits.train, 'arrays', {}):
        return splits

    def apply(source):
        resized = np.stack([images.resize(image, image_size) for image in source.arrays['image']])
        return ArraySource({**source.arrays, 'image': resized})

    evals = {split: apply(source) for split, source in splits.evals.items()}
    return Splits(apply(splits.train), evals, {**splits.info, 'image_size': image_size})


# -- one's own data: place -> ({split: source}, where it was found, info) ---------------------------------------------

def _folder(place: str, data_dir: str, image_size: int | None):
    root = pathlib.Path(place)
    if not _split_folders(root):
        train = images.FolderSource(root, image_size)
        return {'train': train}, place, {'classes': train.classes}
    train = images.FolderSource(root / 'train', image_size)
    parts = {'train': train}
    for split, names in EVALS.items():
        for name in names:
            if (root / name).is_dir():
                parts[split] = images.FolderSource(root / name, image_size, train.classes)
    return parts, place, {'classes': train.classes}


def _split_folders(root: pathlib.Path) -> bool:
    """Whether `root/train` is a split: it has sub-folders of its own (a class called 'train' holds pictures)."""
    train = root / 'train'
    return train.is_dir() and any(p.is_dir() and not p.name.startswith('.') for p in train.iterdir())


def _part_files(place: str, extension: str) -> dict[str, pathlib.Path]:
    """{'train': file, …}: the file itself, or train.EXT and its evaluation splits in a folder."""
    root = pathlib.Path(place)
    if not root.is_dir():
        return {'train': root}
    train = formats.find(root, f'train.{extension}')
    if train is None:
        raise UserError(f'{extension}:{place}: a folder without train.{extension}: give a file, or a folder with '
                        f'train.{extension} and val.{extension} or test.{extension}')
    found = {split: formats.find(root, *(f'{name}.{extension}' for name in names)) for split, names in EVALS.items()}
    return {'train': train, **{split: path for split, path in found.items() if path}}


def _table(read: Callable, extension: str, place: str, data_dir: str, image_size: int | None):
    parts, classes = {}, None
    for split, path in _part_files(place, extension).items():
        parts[split], classes = read(path, image_size, classes)
    return parts, place, {'classes': classes} if classes else {}


def _parquet(place: str, data_dir: str, image_size: int | None):
    return {split: parquet.parquet(path, image_size) for split, path in _part_files(place, 'parquet').items()}, place, {}


def _npz(place: str, data_dir: str, image_size: int | None):
    """Also one file with its splits in it: x_train, y_train, x_test, y_test (Keras), or NAME_train, NAME_test."""
    paths = _part_files(place, 'npz')
    arrays = {split: tables.npz(path) for split, path in paths.items()}
    if len(arrays) == 1 and any(name.endswith('_train') for name in arrays['train']):
        whole, arrays = arrays['train'], {}
        for split, names in {'train': ('train',), **EVALS}.items():
            for ending in names:
                part = {name.removesuffix(f'_{ending}'): a for name, a in whole.items() if name.endswith(f'_{ending}')}
                if part:
                    arrays[split] = part
    for part in arrays.values():
        if 'y' in part and 'label' not in part and part['y'].dtype.kind in 'iu':
            part['label'] = part.pop('y').reshape(-1).astype(np.int32)
        if 'x' in part and 'image' not in part and part['x'].dtype == np.uint8 and part['x'].ndim in (3, 4):
            image = part.pop('x')
            part['image'] = image if image.ndim == 4 else image[..., None]
        if 'label' in part and part['label'].dtype.kind in 'iu':
            part['label'] = part['label'].astype(np.int32)
    return {split: ArraySource(part) for split, part in arrays.items()}, place, {}


def _tfds(place: str, data_dir: str, image_size: int | None):
    builder = tfds_hf.tfds_builder(place, data_dir)
    found = {split: next((name for name in names if name in builder.info.splits), None)
             for split, names in {'train': ('train',), **EVALS}.items()}
    if not found['train']:
        raise UserError(f'tfds:{place} has no split train: it has {", ".join(builder.info.splits)}')
    parts = {split: tfds_hf.tfds(place, name, data_dir) for split, name in found.items() if name}
    features = builder.info.features
    feature = features['label'] if 'label' in features.keys() else None  # noqa: SIM118, it is no dict
    if 'image' in parts['train'][0]:
        size = image_size or _first_size(parts['train'])
        parts = {split: Map(source, functools.partial(_pictures_only, size=size)) for split, source in parts.items()}
    return parts, str(builder.data_dir), {'classes': list(feature.names)} if getattr(feature, 'names', None) else {}


def _pictures_only(example: dict, size: int) -> dict:
    """Numbers of an example with a picture (file names and keys would not fit on a device), the picture resized."""
    example = {name: value for name, value in example.items() if not isinstance(value, (str, bytes))}
    return {**example, 'image': images.resize(example['image'], size)}


def _hf(place: str, data_dir: str, image_size: int | None):
    data = tfds_hf.hf(place)
    found = {split: next((name for name in names if name in data), None)
             for split, names in {'train': ('train',), **EVALS}.items()}
    if not found['train']:
        raise UserError(f'hf:{place} has no split train: it has {", ".join(data)}')
    parts = {split: tfds_hf.HFSource(data[name], f'hf:{place}', image_size) for split, name in found.items() if name}
    names = getattr(data[found['train']].features.get('label'), 'names', None)
    return parts, place, {'classes': list(names)} if names else {}


OWN = {'folder': _folder, 'jsonl': functools.partial(_table, tables.jsonl, 'jsonl'),
       'csv': functools.partial(_table, tables.csv, 'csv'), 'parquet': _parquet, 'npz': _npz, 'text': None,
       'tokens': None, 'tfds': _tfds, 'hf': _hf}
TABLES = ('jsonl', 'csv', 'parquet')  # may name pictures beside them


def _own(spec: str, found: str, parts: dict[str, Any], info: dict[str, Any], image_size: int | None) -> Splits:
    """Pictures all of one size, small ones in memory; numbers of a table as 'x'; labels checked against the classes."""
    first = parts['train'][0] if len(parts['train']) else {}
    info = {**info, 'name': spec, 'source': str(found)}
    if getattr(first.get('image'), 'ndim', 0) == 3 and not isinstance(parts['train'], ArraySource):
        size = image_size or _first_size(parts['train'])
        for source in parts.values():
            if hasattr(source, 'image_size'):
                source.image_size = size
        info['image_size'] = size
        parts = {split: _in_memory(source) for split, source in parts.items()}
    parts, features = _features(parts)
    info.update({'features': features} if features else {})
    label = labels(parts['train'])
    if label is not None and label.ndim == 1 and label.dtype.kind in 'iu':
        info.setdefault('classes', [str(k) for k in range(int(label.max(initial=0)) + 1)])
        for split, source in parts.items():
            check_labels(source, len(info['classes']), f'{spec} ({split})')
    info['records'] = {split: len(source) for split, source in parts.items()}
    return Splits(parts.pop('train'), parts, info)


def _first_size(source: Any) -> int:
    return min(source[0]['image'].shape[:2])


def _in_memory(source: Any) -> Any:
    """The examples as arrays where they are numbers and small together; a damaged picture then shows at the start."""
    first = source[0]
    numbers = all(isinstance(value, (np.ndarray, np.number)) for value in first.values())
    if not numbers or sum(value.nbytes for value in first.values()) * len(source) > IN_MEMORY:
        return source
    examples = [source[i] for i in range(len(source))]
    return ArraySource({name: np.stack([example[name] for example in examples]) for name in first})


def _features(parts: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Columns of single numbers, without the label and the target, as one array 'x' [N, D], in their order."""
    arrays = getattr(parts['train'], 'arrays', {})
    kept = [name for name in ('label', 'target') if name in arrays]
    names = [name for name, array in arrays.items() if array.ndim == 1 and name not in kept]
    if not names or 'x' in names or len(names) + len(kept) < len(arrays):
        return parts, []
    out = {}
    for split, source in parts.items():
        missing = [name for name in arrays if name not in source.arrays]
        if missing:
            raise UserError(f'the {split} split has no column {missing[0]}: give it the columns of the training split')
        x = np.stack([source.arrays[name].astype(np.float32) for name in names], axis=1)
        out[split] = ArraySource({'x': x, **{name: source.arrays[name] for name in kept}})
    return out, names
