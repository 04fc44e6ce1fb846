"""Files of one's own as sources: jsonl, csv, npz; Parquet has a file of its own."""
import csv as csv_module
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.data import images
from bigjax.data.loaders import formats
from bigjax.data.sources import ArraySource
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line


class TableSource:
    """Records with pictures or text among their columns: the pictures are read at `source[i]`.

    Args:
      columns: name -> N values; a list of file paths for a name in `pictures`.
      pictures: names of the columns that are picture files, relative to `folder`.

    Attributes:
      columns: as given. labels: the 'label' column, or None.
    """

    def __init__(self, columns: Mapping[str, Any], pictures: frozenset[str], folder: pathlib.Path, where: str,
                 image_size: int | None = None):
        self.columns, self.pictures, self.folder = dict(columns), pictures, folder
        self.where, self.image_size = where, image_size
        self.labels = self.columns.get('label')
        self._len = len(next(iter(columns.values())))

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = {name: values[index] for name, values in self.columns.items()}
        for name in self.pictures:
            record = f'record {index} of {self.where}'
            example[name] = images.read_image(safe_read.beside(self.folder, example[name], record), record, self.image_size)
        return example

    def __repr__(self) -> str:
        return f'TableSource({self.where!r}, {len(self)} records, columns {", ".join(self.columns)})'


def integers(values: np.ndarray, where: str, name: str) -> np.ndarray:
    if values.size and (values.max() > 2**31 - 1 or values.min() < -2**31):
        raise UserError(f'{where}: column {name} holds whole numbers beyond 32 bits: write them as text')
    return values.astype(np.int32)


def whole_labels(values: Any, where: str) -> np.ndarray:
    """The column 'label' as int32 [N].

    Raises:
      UserError: it holds text, or numbers with a fraction, which nobody wants rounded in silence.
    """
    kind = 'text' if isinstance(values, list) else values.dtype.name
    if isinstance(values, list) or values.dtype.kind not in 'iub':
        raise UserError(f'{where}: column label holds {kind}, and needs whole numbers: number the classes from 0, or give '
                        'the column another name')
    return values.astype(np.int32)


def typed_column(name: str, values: list, where: str) -> Any:
    """Numbers or equal-length lists of numbers as int32 or float32 arrays; text as a list of str."""
    if all(isinstance(value, str) for value in values):
        return values
    name = safe_read.printable(name)
    for number, value in enumerate(values):
        if value is None or isinstance(value, dict) or isinstance(value, str) != isinstance(values[0], str):
            raise UserError(f'{where}: record {number}, column {name}: {json.dumps(value, default=str)[:60]} beside '
                            f'{json.dumps(values[0], default=str)[:60]}: give every record a value of the same kind')
    if all(isinstance(value, int) for value in values) and (max(values) > 2**31 - 1 or min(values) < -2**31):
        raise UserError(f'{where}: column {name} holds whole numbers beyond 32 bits: write them as text')
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        array = np.array(None)
    if array.dtype.kind not in 'iufb':
        lengths = [_count(value) for value in values]
        odd = next((n for n, length in enumerate(lengths) if length != lengths[0]), None)
        cause = 'something that is no number' if odd is None else f'{lengths[odd]} values, and {lengths[0]} in record 0'
        raise UserError(f'{where}: record {odd or 0}, column {name}: {cause}: give every record as many numbers')
    with np.errstate(over='ignore'):
        return array.astype(np.float32) if array.dtype.kind == 'f' else integers(array, where, name)


def _count(value: Any) -> int:
    """How many values there are in a list of lists."""
    return sum(map(_count, value)) if isinstance(value, list) else 1


def _source(columns: dict[str, list], where: str, folder: pathlib.Path, image_size: int | None,
            classes: list[str] | None) -> tuple[Any, list[str] | None]:
    """(source, classes): text in the column 'label' becomes numbers, in alphabetical order or that of `classes`."""
    typed = {name: typed_column(name, values, where) for name, values in columns.items()}
    label = typed.get('label')
    if isinstance(label, list):
        classes = sorted(set(label)) if classes is None else classes
        number = {name: k for k, name in enumerate(classes)}
        for record, name in enumerate(label):
            if name not in number:
                raise UserError(f'{where}: record {record} has label {safe_read.printable(name)}, outside the {len(classes)} '
                                f'classes {safe_read.printable(", ".join(classes[:10]))}: mend the record')
        typed['label'] = np.array([number[name] for name in label], np.int32)
    texts = {name: values for name, values in typed.items() if isinstance(values, list)}
    pictures = [name for name, values in texts.items() if all(map(images.is_image, values))]
    if len(pictures) == 1 and 'image' not in typed:
        typed['image'] = typed.pop(pictures[0])
        pictures = ['image']
    if texts:
        return TableSource(typed, frozenset(pictures), folder, where, image_size), classes
    return ArraySource(typed), classes


def jsonl(path: str | os.PathLike, image_size: int | None = None,
          classes: list[str] | None = None) -> tuple[Any, list[str] | None]:
    """One JSON object a line, all with the same keys: (source, class names where labels are text).

    Numbers and lists of numbers become int32 or float32; a column of file names that end like pictures is read as
    pictures, relative to the file's folder (where it is the only one, it is 'image' in the examples); text in 'label'
    becomes class numbers. A table of numbers alone is an ArraySource.

    Raises:
      UserError: names the file and the line.
    """
    columns: dict[str, list] = {}
    for number, line in enumerate(formats.text(path).split('\n'), 1):
        if not line.strip():
            continue
        try:
            record = safe_read.parsed(line)
        except ValueError as error:  # also a number of more than 4,300 digits
            raise UserError(f'{path}: line {number} is not JSON ({getattr(error, "msg", None) or first_line(error)}): '
                            'write one object a line') from error
        if not isinstance(record, dict) or (columns and set(record) != set(columns)):
            raise UserError(f'{path}: line {number} has not the keys of the first record '
                            f'({safe_read.printable(", ".join(columns)) or "no object"}): give every record the same keys')
        for name, value in record.items():
            columns.setdefault(name, []).append(value)
    if not columns:
        raise UserError(f'{path}: no records in it: write one JSON object a line')
    return _source(columns, str(path), pathlib.Path(path).parent, image_size, classes)


def csv(path: str | os.PathLike, image_size: int | None = None,
        classes: list[str] | None = None) -> tuple[Any, list[str] | None]:
    """Comma-separated values under a header line: (source, class names), as `jsonl`.

    A column is int32 where every cell is a whole number, else float32 where every cell is a number, else text.

    Raises:
      UserError: names the file and the line.
    """
    rows = csv_module.reader(formats.text(path).splitlines())
    columns: dict[str, list] = {}
    try:
        header = next(rows, None)
        if not header or len(set(header)) != len(header):
            raise UserError(f'{path}: needs a header line with a name for every column, each once: '
                            f'{safe_read.printable(header)}')
        columns = {name: [] for name in header}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header) or '' in row:
                cause = f'{len(row)} columns, and the header {len(header)}' if len(row) != len(header) else \
                    f'nothing in column {safe_read.printable(header[row.index("")])}'
                raise UserError(f'{path}: line {rows.line_num} has {cause}: mend the line')
            for name, cell in zip(header, row, strict=True):
                columns[name].append(cell)
    except csv_module.Error as error:
        raise UserError(f'{path}: line {rows.line_num}: {first_line(error)}: mend the line') from error
    if not columns[header[0]]:
        raise UserError(f'{path}: no records under the header: add some')
    for name, cells in columns.items():
        for kind in (int, float):
            try:
                columns[name] = [kind(cell) for cell in cells]
                break
            except ValueError:
                continue
    return _source(columns, str(path), pathlib.Path(path).parent, image_size, classes)


def npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive; float64 becomes float32, int64 int32.

    Raises:
      UserError: as `untrusted.archive`; an array that is not of numbers, or of none.
    """
    arrays = safe_read.archive(path)
    for name, array in arrays.items():
        if array.dtype.kind not in 'iufb':
            raise UserError(f'{path}: array {safe_read.printable(name)} is {safe_read.printable(array.dtype)}, and needs to be '
                            'numbers: encode it first')
        if array.dtype.kind in 'iu' and array.dtype.itemsize > 4:
            arrays[name] = integers(array, str(path), safe_read.printable(name))
        elif array.dtype.kind == 'f' and array.dtype.itemsize > 4:
            arrays[name] = array.astype(np.float32)
    if not arrays:
        raise UserError(f'{path}: no arrays in it: write it with numpy.savez(path, image=…, label=…)')
    return arrays
