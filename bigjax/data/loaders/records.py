"""Sources of records with images or text among their columns."""
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.data import encoded, images
from bigjax.data.audio import AudioSource
from bigjax.data.loaders.cells import RawTable
from bigjax.data.schema import Schema
from bigjax.data.sources import ArraySource
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import printable


class TableSource:
    """Records with images or text among their columns: the images are read at `source[i]`.

    Args:
      columns: name -> N values; a list of file paths for a name in `images`.
      image_columns: names of the columns that are image files, relative to `folder`.

    Attributes:
      columns: as given. labels: the 'label' column, or None.
      encoded: images stay encoded (`bigjax.data.encoded`), for a transform that crops them.
    """

    def __init__(self, columns: Mapping[str, Any], image_columns: frozenset[str], folder: pathlib.Path, where: str,
                 image_size: int | None = None):
        self.columns, self.image_columns, self.folder = dict(columns), image_columns, folder
        self.where, self.image_size, self.encoded = where, image_size, False
        label = self.columns.get('label')
        self.labels = label if isinstance(label, np.ndarray) and label.ndim == 1 else None
        self._len = len(next(iter(columns.values())))

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(self._len)[index]
        example = {name: values[index] for name, values in self.columns.items()}
        record = f'record {index} of {self.where}'
        for name in self.image_columns:
            path = safe_read.beside(self.folder, example[name], record)
            example[name] = encoded.read(path, record, self.image_size, self.encoded)
        return example

    def __repr__(self) -> str:
        return f'TableSource({self.where!r}, {len(self)} records, columns {", ".join(self.columns)})'


def table_source(raw: RawTable, schema: Schema, image_size: int | None = None) -> tuple[Any, list[str]]:
    """(source, notes) of a table read by a schema: an ArraySource where it is numbers alone."""
    columns, notes = schema.encode(raw)
    if not columns:
        why = '; '.join(f'{printable(c.name)}: {c.why}' for c in schema.columns)
        raise UserError(f'{raw.where}: got no column that can be read ({why}); fix: add numbers, categories, text or images',
                        code='data/no-columns')
    sounds = [c.key or c.name for c in schema.columns if c.kind == 'audio']
    if sounds:
        return _sound_source(columns, sounds, raw), notes
    if any(isinstance(values, list) for values in columns.values()):
        paths = frozenset(c.key or c.name for c in schema.columns if c.kind == 'image')
        return TableSource(columns, paths, raw.folder, raw.where, image_size), notes
    return ArraySource(columns), notes


def _sound_source(columns: dict[str, Any], sounds: list[str], raw: RawTable) -> AudioSource:
    """The records of a table with one column of sound files.

    Raises:
      UserError: two such columns, or a file outside the folder of the table.
    """
    if len(sounds) > 1:
        raise UserError(f'{raw.where}: got the columns of sounds {printable(", ".join(sounds))}, expected one; fix: leave one '
                        'out', code='data/two-sounds')
    names = columns.pop(sounds[0])
    files = [str(safe_read.beside(raw.folder, name, f'record {i} of {raw.where}')) for i, name in enumerate(names)]
    numbers = {name: values for name, values in columns.items() if not isinstance(values, list)}
    return AudioSource(files, numbers, raw.where, columns.get('text') if isinstance(columns.get('text'), list) else None,
                       names)


def finish(example: dict[str, Any], folder: pathlib.Path, where: str, image_size: int | None,
           stays: bool = False) -> dict[str, Any]:
    """An example of a schema with its images decoded, or encoded where they stay so.

    An image is bytes, {'bytes', 'path'} as Hugging Face writes it, or a PIL image.
    """
    for name, value in example.items():
        if isinstance(value, dict) and 'bytes' in value:
            path, value = value.get('path'), value['bytes']
            if value is None and isinstance(path, str):
                example[name] = encoded.read(safe_read.beside(folder, path, where), where, image_size, stays)
                continue
        if isinstance(value, bytes):
            place = f'{where}, column {printable(name)}'
            example[name] = encoded.Encoded(value, place) if stays else images.decode(value, place, image_size)
        elif hasattr(value, 'getbands'):
            example[name] = images.resize(images.upright(value), image_size)
        elif isinstance(value, dict) or value is None:
            raise UserError(f'{where}, column {printable(name)}: got {type(value).__name__}, expected an image; fix: fill it '
                            'or leave the column out', code='data/column-type')
    return example
