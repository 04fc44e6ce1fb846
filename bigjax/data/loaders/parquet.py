"""Parquet files: their columns for a schema, and their records read as they are needed."""
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigjax.data.columns import MAX_ONE_HOT
from bigjax.data.loaders.cells import Cells, RawTable, column_names, from_array, from_list
from bigjax.data.loaders.records import finish
from bigjax.data.schema import Schema
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

IN_MEMORY_BYTES = 1 << 30
GROUP_VALUES = 1 << 24  # values of one row group, which are decoded together
PROBE_ROWS = 64  # rows that are unpacked before their size is checked
KEPT_GROUPS = 8  # decoded row groups of a file
HEAD_ROWS = 10_000  # rows of a column of text that decide whether it is free text


class ParquetSource:
    """The records of a Parquet file, read row group by row group as they are needed.

    Images are columns of encoded bytes, or of {'bytes', 'path'} as Hugging Face writes them. A random order reads a
    row group for every record outside the last few read, so write files with small row groups (100 to 1,000 rows).

    Args:
      path: the file.
      schema: how the columns are read.
      image_size: both sides of every image.
      encoded: images stay encoded (`bigjax.data.encoded`), for a transform that crops them; an attribute, too.
    """

    def __init__(self, path: str | os.PathLike, schema: Schema, image_size: int | None = None, encoded: bool = False):
        self.path, self.schema, self.image_size, self.encoded = pathlib.Path(path), schema, image_size, encoded
        self._names, _ = column_names(_open(self.path).schema_arrow.names, str(path))
        self._sizes: dict[int, int] = {}  # bytes of the row groups that were read
        self._ends = np.cumsum(check_groups(self.path))
        self._group = functools.lru_cache(KEPT_GROUPS)(self._read)

    def __getstate__(self):
        return {'path': self.path, 'schema': self.schema, 'image_size': self.image_size, 'encoded': self.encoded}

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
            raise _damaged(self.path, f'row group {group} (from record {self._first(group)})', error) from error

    def _first(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side='right'))
        try:
            row = self._group(group).slice(index - self._first(group), 1).to_pylist()[0]
        except (ValueError, IndexError) as error:  # text that is not UTF-8, a group of fewer rows than it announces
            raise _damaged(self.path, f'record {index}', error) from error
        row = {self._names[name]: value for name, value in row.items() if name in self._names}
        where = f'{self.path} (record {index})'
        return finish(self.schema.example(row, where, labelled=True), self.path.parent, where, self.image_size,
                      self.encoded)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The labels, int32 [N], or None."""
        return read_labels(raw_table(self.path), self.schema)

    def __repr__(self) -> str:
        return f'ParquetSource({str(self.path)!r}, {len(self)} records)'


def read_labels(raw: RawTable, schema: Schema) -> np.ndarray | None:
    """The column 'label' of a table, int32 [N], or None."""
    label = tuple(c for c in schema.columns if c.kind == 'label')
    return Schema(label, False).encode(raw)[0]['label'] if label else None


class _Columns(Mapping):
    """The columns of a file, each read when it is asked for."""

    def __init__(self, path: pathlib.Path, names: dict[str, str], length: int):
        self._path, self._names, self._length = path, {name: raw for raw, name in names.items()}, length

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Cells:
        cells = _cells(self._path, self._names[name], name)
        values = cells.numbers if cells.texts is None else cells.texts
        if values is not None and len(values) != self._length and not cells.long:
            raise UserError(f'{self._path}: column {printable(name)}: got {len(values)} values, expected {self._length}; fix: '
                            'write the file again', code='data/damaged')
        return cells


def raw_table(path: str | os.PathLike) -> RawTable:
    """The columns of a file, none of which is read yet.

    Raises:
      UserError: pyarrow is missing; a damaged file; row groups that are too large.
    """
    path = pathlib.Path(path)
    rows = check_groups(path)
    names, notes = column_names(_open(path).schema_arrow.names, str(path))
    if not sum(rows):
        raise UserError(f'{path}: got no records, expected at least one; fix: write it again', code='data/empty')
    return RawTable(str(path), path.parent, _Columns(path, names, sum(rows)), sum(rows), notes=tuple(notes))


def names(path: str | os.PathLike) -> list[str]:
    """The names of the columns of a file; UserError as `raw_table`."""
    check_groups(pathlib.Path(path))
    return _open(pathlib.Path(path)).schema_arrow.names


def values(path: str | os.PathLike, name: str) -> list:
    """The values of one column as Python has them: texts, numbers, lists and mappings.

    Raises:
      UserError: it cannot be read, or unpacks to too much.
    """
    try:
        return _column(pathlib.Path(path), name).to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError) as error:
        raise _damaged(pathlib.Path(path), f'column {printable(name)}', error) from error


def check_groups(path: pathlib.Path) -> list[int]:
    """The number of rows of each row group.

    Raises:
      UserError: a row group, or the file, announces more than it may hold.
    """
    meta = _open(path).metadata
    rows = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
    if min(rows, default=0) < 0 or any(_values(meta, g) > GROUP_VALUES for g in range(len(rows))):
        raise UserError(f'{path}: got a row group of {GROUP_VALUES:,} values or more, expected fewer; fix: write row groups of '
                        '100 to 1,000 rows', code='data/row-group')
    _check_size(path, sum(meta.row_group(g).total_byte_size for g in range(len(rows))))
    return rows


def fits_in_memory(path: pathlib.Path) -> bool:
    """Whether the file's values take less than `IN_MEMORY_BYTES`."""
    meta = _open(path).metadata
    size = sum(max(meta.row_group(g).total_byte_size, 8 * _values(meta, g)) for g in range(meta.num_row_groups))
    return size <= IN_MEMORY_BYTES


def _cells(path: pathlib.Path, raw: str, name: str) -> Cells:
    """One whole column, but for images, of which nothing is read, and free text, of which the first records are.

    Raises:
      UserError: a type that is none of numbers, text, lists of numbers and images.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt
    kind = _open(path).schema_arrow.field(raw).type
    value = kind.value_type if pt.is_dictionary(kind) else kind
    if pt.is_binary(value) or pt.is_large_binary(value) or pt.is_struct(value):
        return Cells(images=True)
    if pt.is_string(value) or pt.is_large_string(value):
        head = _column(path, raw, HEAD_ROWS)
        distinct = pc.count_distinct(head.cast(pa.large_string())).as_py()
        long = name != 'label' and distinct > min(MAX_ONE_HOT, len(head) / 2)
        texts = (head if long else _column(path, raw)).cast(pa.large_string()).fill_null('')
        return Cells(texts=_flat(texts), long=long)
    column = _column(path, raw)
    if _number(value) or pt.is_decimal(value):
        if pt.is_decimal(value) or pt.is_float16(value):
            column = column.cast(pa.float64())
        array = column.to_numpy()
        if column.null_count or array.dtype.kind == 'O':  # booleans with nulls are objects
            array = np.array([np.nan if v is None else v for v in column.to_pylist()], np.float64)
        return from_array(array.astype(np.int64) if array.dtype.kind in 'b' else array, name, str(path))
    try:
        values = column.to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError) as error:
        raise _damaged(path, f'column {printable(raw)}', error) from error
    if all(isinstance(v, list) for v in values):
        return from_list(values, name, str(path))
    raise UserError(f'{path}: column {printable(raw)}: got {printable(kind)}, expected numbers, text, lists of numbers or '
                    'images; fix: convert it or leave it out', code='data/column-type')


def _flat(texts):
    import pyarrow as pa
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _column(path: pathlib.Path, raw: str, rows: int = 0):
    try:
        return _measured(path, rows=rows, columns=[raw]).column(raw)
    except UserError:
        raise
    except Exception as error:
        raise _damaged(path, f'column {printable(raw)}', error) from error


def _damaged(path: pathlib.Path, what: str, error: Exception) -> UserError:
    return UserError(f'{path}: {what} cannot be read ({first_line(error)}); fix: write the file again', code='data/damaged')


def _open(path: pathlib.Path):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError('reading tables needs pyarrow; fix: pip install pyarrow', code='data/package') from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        _ = file.schema_arrow.names, file.metadata
    except FileNotFoundError as error:
        raise UserError(f'{path}: there is no such file; fix: check the path', code='data/no-file') from error
    except Exception as error:  # pyarrow's own errors have no common ancestor but Exception
        raise UserError(f'{path}: not a complete Parquet file ({first_line(error)}); fix: write it again',
                        code='data/damaged') from error
    return file


def _measured(path: pathlib.Path, held: int = 0, rows: int = 0, **which):
    """A table of some row groups or columns, read as long as it and `held` bytes are no more than the file may unpack to.

    `rows` ends it after so many; 0 reads all.
    """
    import pyarrow
    file, batches = _open(path), []  # its own handle: readers are not shared between threads
    names = which.get('columns', file.schema_arrow.names)
    if all(_number(file.schema_arrow.field(name).type) for name in names):  # so many bytes per row, and the rows were counted
        return file.read_row_groups(**which) if 'row_groups' in which else file.read(**which)
    for batch in file.iter_batches(PROBE_ROWS, **which):
        batches.append(batch)
        held += sum(_size(column) for column in batch.columns)
        _check_size(path, held)
        if rows and len(batches) * PROBE_ROWS >= rows:
            break
    return pyarrow.Table.from_batches(batches) if batches else file.schema_arrow.empty_table()


def _size(column) -> int:
    """The bytes of a column of a batch; batches share the dictionary of a column that has one."""
    return getattr(column, 'indices', column).nbytes


def _check_size(path: pathlib.Path, size: int) -> None:
    safe_read.check_unpacked(str(path), size, os.path.getsize(path), 'write it again without what is there so often')


def _number(kind) -> bool:
    """Whether a type of pyarrow is one of single numbers."""
    import pyarrow.types as pt
    return pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind)


def _values(meta, group: int) -> int:
    """How many values a row group announces; a column of one repeated value takes next to nothing in the file.

    Lists count as one: pyarrow ends the process on the size of a damaged column.
    """
    return meta.row_group(group).num_rows * meta.num_columns
