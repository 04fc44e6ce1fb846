"""Parquet files as sources: read as they are needed, and never more than such a file may hold."""
import functools
import os
import pathlib
from typing import Any

import numpy as np

from bigjax.data import images
from bigjax.data.loaders.tables import integers, typed_column, whole_labels
from bigjax.data.sources import ArraySource
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line

IN_MEMORY = 1 << 30  # bytes
GROUP = 1 << 24  # values of one row group, decoded together
ROWS = 64  # that are unpacked before it is seen how large they are


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
        if min(rows, default=0) < 0 or any(_values(meta, g) > GROUP for g in range(len(rows))):
            raise UserError(f'{path}: a row group of {GROUP:,} values or more: write row groups of 100 to 1,000 rows')
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
        where = f'{self.path} (record {index}, column {safe_read.printable(name)})'
        if isinstance(value, dict) and 'bytes' in value:
            if value['bytes'] is None and isinstance(value.get('path'), str):
                return images.read_image(safe_read.beside(self.path.parent, value['path'], where), where, self.image_size)
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
            raise UserError(f'{self.path}: column {safe_read.printable(name)} cannot be read ({first_line(error)}): '
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
        raise UserError(f'{path}: two of its columns are named {safe_read.printable(twice)}: rename one')
    return file


def _measured(path: pathlib.Path, held: int = 0, **which):
    """A table of some row groups or columns, read as long as it and `held` bytes are no more than the file may unpack to."""
    import pyarrow
    file, batches = _parquet(path), []  # its own handle: readers are not shared between threads
    names = which.get('columns', file.schema_arrow.names)
    if all(_number(file.schema_arrow.field(name).type) for name in names):  # so many bytes a row, and the rows were counted
        return file.read_row_groups(**which) if 'row_groups' in which else file.read(**which)
    for batch in file.iter_batches(ROWS, **which):
        batches.append(batch)
        held += sum(_size(column) for column in batch.columns)
        _check_size(path, held)
    return pyarrow.Table.from_batches(batches) if batches else file.schema_arrow.empty_table()


def _size(column) -> int:
    """Bytes of a column of a batch; batches share the dictionary of a column that has one."""
    return getattr(column, 'indices', column).nbytes


def _check_size(path: pathlib.Path, size: int) -> None:
    safe_read.check_unpacked(str(path), size, os.path.getsize(path), 'write it again without what is there so often')


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
    if size > IN_MEMORY or not all(number(field.type) for field in schema):
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
        raise UserError(f'{where}: column {safe_read.printable(name)} holds text, and needs to be numbers: encode it first')
    return array
