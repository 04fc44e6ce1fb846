"""Files of one's own as sources: jsonl, csv, npz, Parquet."""
import csv as csv_module
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax import UserError
from bigjax.data import formats, images, untrusted
from bigjax.data.sources import ArraySource
from bigjax.data.untrusted import first_line

PARQUET_IN_MEMORY = 1 << 30  # bytes
PARQUET_GROUP = 1 << 24  # values of one row group, decoded together
PARQUET_ROWS = 64  # that are unpacked before it is seen how large they are


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
            example[name] = images.read_image(untrusted.beside(self.folder, example[name], record), record, self.image_size)
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
    name = untrusted.printable(name)
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
                raise UserError(f'{where}: record {record} has label {untrusted.printable(name)}, outside the {len(classes)} '
                                f'classes {untrusted.printable(", ".join(classes[:10]))}: mend the record')
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
            record = untrusted.parsed(line)
        except ValueError as error:  # also a number of more than 4,300 digits
            raise UserError(f'{path}: line {number} is not JSON ({getattr(error, "msg", None) or first_line(error)}): '
                            'write one object a line') from error
        if not isinstance(record, dict) or (columns and set(record) != set(columns)):
            raise UserError(f'{path}: line {number} has not the keys of the first record '
                            f'({untrusted.printable(", ".join(columns)) or "no object"}): give every record the same keys')
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
                            f'{untrusted.printable(header)}')
        columns = {name: [] for name in header}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header) or '' in row:
                cause = f'{len(row)} columns, and the header {len(header)}' if len(row) != len(header) else \
                    f'nothing in column {untrusted.printable(header[row.index("")])}'
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
    arrays = untrusted.archive(path)
    for name, array in arrays.items():
        if array.dtype.kind not in 'iufb':
            raise UserError(f'{path}: array {untrusted.printable(name)} is {untrusted.printable(array.dtype)}, and needs to be '
                            'numbers: encode it first')
        if array.dtype.kind in 'iu' and array.dtype.itemsize > 4:
            arrays[name] = integers(array, str(path), untrusted.printable(name))
        elif array.dtype.kind == 'f' and array.dtype.itemsize > 4:
            arrays[name] = array.astype(np.float32)
    if not arrays:
        raise UserError(f'{path}: no arrays in it: write it with numpy.savez(path, image=…, label=…)')
    return arrays


class ParquetSource:
    """A Parquet file too large for memory, or with text or pictures in it: row groups are read as they are needed.

    Pictures are columns of encoded bytes, or of {'bytes', 'path'} as Hugging Face writes them. A random order reads a
    row group for every record outside the last few read, so write files with small row groups (100 to 1,000 rows).

    Args:
      path: the file.
      image_size: both sides of every picture.
      keep: row groups kept decoded.
    """

    def __init__(self, path: str | os.PathLike, image_size: int | None = None, keep: int = 8):
        self.path, self.image_size, self.keep = pathlib.Path(path), image_size, keep
        meta = _parquet(self.path).metadata
        self._sizes: dict[int, int] = {}  # bytes of the row groups that were read
        rows = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        if min(rows, default=0) < 0 or any(_values(meta, g) > PARQUET_GROUP for g in range(len(rows))):
            raise UserError(f'{path}: a row group of {PARQUET_GROUP:,} values or more: write row groups of 100 to 1,000 rows')
        _check_size(self.path, sum(meta.row_group(g).total_byte_size for g in range(len(rows))))
        self._ends = np.cumsum(rows)
        self._group = functools.lru_cache(keep)(self._read)

    def __getstate__(self):
        return {'path': self.path, 'image_size': self.image_size, 'keep': self.keep}

    def __setstate__(self, state):
        self.__init__(**state)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _read(self, group: int):
        try:
            others = sum(size for g, size in list(self._sizes.items()) if g != group)
            table = _measured(self.path, others, row_groups=[group])
            self._sizes[group] = table.nbytes
            return table
        except UserError:
            raise
        except Exception as error:
            raise UserError(f'{self.path}: row group {group} (from record {self._first(group)}) cannot be read '
                            f'({first_line(error)}): write the file again') from error

    def _first(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side='right'))
        try:
            row = self._group(group).slice(index - self._first(group), 1).to_pylist()[0]
        except (ValueError, IndexError) as error:  # text that is not UTF-8, a group of fewer rows than it announces
            raise UserError(f'{self.path}: record {index} cannot be read ({first_line(error)}): '
                            'write the file again') from error
        return {name: self._value(name, value, index) for name, value in row.items()}

    def _value(self, name: str, value: Any, index: int) -> Any:
        where = f'{self.path} (record {index}, column {untrusted.printable(name)})'
        if isinstance(value, dict) and 'bytes' in value:
            if value['bytes'] is None and isinstance(value.get('path'), str):
                return images.read_image(untrusted.beside(self.path.parent, value['path'], where), where, self.image_size)
            value = value['bytes']
        if isinstance(value, bytes):
            return images.decode(value, where, self.image_size)
        if isinstance(value, str):
            return value
        if value is None:
            raise UserError(f'{where}: no value: fill it or drop the record')
        return typed_column(name, [value], where)[0]

    def column(self, name: str) -> np.ndarray:
        """One whole column, [N]."""
        return _whole_column(name, self._read_column(name), str(self.path))

    def _read_column(self, name: str):
        try:
            return _measured(self.path, columns=[name]).column(name)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f'{self.path}: column {untrusted.printable(name)} cannot be read ({first_line(error)}): '
                            'write the file again') from error

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The column 'label', int32 [N], or None; raises a UserError where it holds something else than whole numbers."""
        return whole_labels(self.column('label'), str(self.path)) if 'label' in _parquet(self.path).schema_arrow.names else None

    def __repr__(self) -> str:
        return f'ParquetSource({str(self.path)!r}, {len(self)} records)'


def _parquet(path: pathlib.Path):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading Parquet needs pyarrow: pip install 'bigjax[parquet]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except FileNotFoundError as error:
        raise UserError(f'{path}: there is no such file: check the path') from error
    except Exception as error:  # pyarrow's own errors have no common ancestor but Exception
        raise UserError(f'{path}: not a complete Parquet file ({first_line(error)}): write it again') from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{path}: two of its columns are named {untrusted.printable(twice)}: rename one')
    return file


def _measured(path: pathlib.Path, held: int = 0, **which):
    """A table of some row groups or columns, read as long as it and `held` bytes are no more than the file may unpack to."""
    import pyarrow
    file, batches = _parquet(path), []  # its own handle: readers are not shared between threads
    names = which.get('columns', file.schema_arrow.names)
    if all(_number(file.schema_arrow.field(name).type) for name in names):  # so many bytes a row, and the rows were counted
        return file.read_row_groups(**which) if 'row_groups' in which else file.read(**which)
    for batch in file.iter_batches(PARQUET_ROWS, **which):
        batches.append(batch)
        held += sum(_size(column) for column in batch.columns)
        _check_size(path, held)
    return pyarrow.Table.from_batches(batches) if batches else file.schema_arrow.empty_table()


def _size(column) -> int:
    """Bytes of a column of a batch; batches share the dictionary of a column that has one."""
    return getattr(column, 'indices', column).nbytes


def _check_size(path: pathlib.Path, size: int) -> None:
    untrusted.check_unpacked(str(path), size, os.path.getsize(path), 'write it again without what is there so often')


def _number(kind) -> bool:
    """Whether a type of pyarrow is one of single numbers."""
    import pyarrow.types as pt
    return pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind)


def parquet(path: str | os.PathLike, image_size: int | None = None) -> Any:
    """A Parquet file: an ArraySource where it is all numbers and fits in memory, else a ParquetSource.

    Raises:
      UserError: pyarrow is missing; a damaged file; a missing value.
    """
    file = _parquet(pathlib.Path(path))
    import pyarrow.types as pt
    try:
        meta, schema = file.metadata, file.schema_arrow
    except Exception as error:
        raise UserError(f'{path}: not a complete Parquet file ({first_line(error)}): write it again') from error

    def number(kind) -> bool:
        return _number(kind.value_type if pt.is_list(kind) or pt.is_fixed_size_list(kind) or pt.is_large_list(kind) else kind)

    size = sum(max(meta.row_group(g).total_byte_size, 8 * _values(meta, g)) for g in range(meta.num_row_groups))
    if size > PARQUET_IN_MEMORY or not all(number(field.type) for field in schema):
        return ParquetSource(path, image_size)
    try:
        table = _measured(pathlib.Path(path))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{path}: cannot be read ({first_line(error)}): write the file again') from error
    return ArraySource({name: _whole_column(name, table.column(name), str(path)) for name in table.column_names})


def _values(meta, group: int) -> int:
    """How many values a row group announces; a column of one repeated value takes next to nothing in the file.

    Lists count as one: pyarrow ends the process when it is asked about a damaged column by itself.
    """
    return meta.row_group(group).num_rows * meta.num_columns


def _whole_column(name: str, column, where: str) -> np.ndarray:
    """A column of numbers, or of equal-length lists of numbers, as int32 or float32.

    Raises:
      UserError: a missing value, text, or lists of other lengths.
    """
    if _number(column.type) and not column.null_count:
        array = column.to_numpy()
        return array.astype(np.float32) if array.dtype.kind == 'f' else integers(array, where, name)
    try:
        array = typed_column(name, column.to_pylist(), where)
    except UnicodeDecodeError:
        array = []
    if isinstance(array, list):
        raise UserError(f'{where}: column {untrusted.printable(name)} holds text, and needs to be numbers: encode it first')
    return array
