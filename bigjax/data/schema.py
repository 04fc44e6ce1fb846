"""The decisions about the columns of a table: made once, from the training records, and held to everywhere else.

`Schema.fit` decides what each column is and keeps what is needed to read any other table the same way: the classes of a
label, the values of a category, the number that fills an empty cell, the shape of a list. It is plain data (`to_json`), is
kept in the run's record, and reads the other splits (`encode`) and single rows (`example`).

Columns of single numbers and of categories together are the features 'x' [D], unless the table has images or an array: then
each keeps its own name.
"""
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.data.loaders.cells import EMPTY, LIKE_NUMBER, NUMBER, ROLES, Cells, RawTable, canonical, parse
from bigjax.errors import UserError
from bigjax.io.text import printable

MAX_ONE_HOT = 64  # values of a category; one column each
MAX_ORDINAL = 1000  # values of a category that is one column, numbered by frequency
BAD_CELLS = 0.05  # a column with at most this share of cells that are not numbers is a column of numbers with mistakes
RESERVED = ('x', 'image', 'tokens', 'targets', 'source', 'stream', 'mask', '_mask', 'losses')  # keys of a batch with a meaning


@dataclasses.dataclass(frozen=True)
class Column:
    """What one column of a table is.

    Attributes:
      name: in the table.
      kind: 'number', 'category' (one-hot), 'ordinal', 'label', 'array', 'image', 'text', or 'left out'.
      key: the name in the examples, where that is another one.
      values: of a category or a label, in the order of their numbers.
      numbered: the label is a number already, and its classes are 0 … K-1.
      fill: what an empty cell is read as: the mean or the most frequent value of the training records.
      shape, dtype: of an array; the dtype of a number that keeps its own name.
      why: the reason why it is left out.
    """

    name: str
    kind: str
    key: str = ''
    values: tuple[str, ...] = ()
    numbered: bool = False
    fill: float | str | None = None
    shape: tuple[int, ...] = ()
    dtype: str = 'float32'
    why: str = ''

    def width(self) -> int:
        """How many columns of 'x' it is."""
        return len(self.values) if self.kind == 'category' and len(self.values) > 2 else 1

    def code(self, text: str) -> int:
        """The number of a value, or -1: of a label '1', '1.0' and 1 are one value."""
        number = re.match(NUMBER, text)
        if self.numbered:
            value = float(text) if number else -1.0
            return int(value) if value.is_integer() and 0 <= value < len(self.values) else -1
        if text not in self.values and number:
            text = canonical(float(text))
        return self.values.index(text) if text in self.values else -1


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, in their order.

    Attributes:
      columns: as read from the training records.
      folded: numbers and categories are the features 'x'.
    """

    columns: tuple[Column, ...]
    folded: bool

    @property
    def classes(self) -> list[str] | None:
        """The classes of the label, or None."""
        return next((list(c.values) for c in self.columns if c.kind == 'label'), None)

    @property
    def numbers_only(self) -> bool:
        """Whether examples hold neither images nor text."""
        return all(c.kind not in ('image', 'text') for c in self.columns)

    def with_classes(self, names) -> 'Schema':
        """The same with the names of numbered classes."""
        return Schema(tuple(dataclasses.replace(c, values=tuple(names)) if c.kind == 'label' and c.numbered else c
                            for c in self.columns), self.folded)

    @property
    def features(self) -> list[str]:
        """The names of the columns of 'x', such as 'age' and 'colour=red'; [] where there is no 'x'."""
        found = []
        for c in self._folded():
            values = (c.values if c.width() > 1 else c.values[1:]) if c.kind == 'category' else ()
            found += [f'{c.name}={value}' for value in values] or [c.name]
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `from_json` makes the same schema."""
        columns = []
        for c in self.columns:
            fields = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)
                      if getattr(c, f.name) != f.default or f.name in ('name', 'kind')}
            columns.append({name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()})
        return {'columns': columns, 'folded': self.folded}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Schema':
        """The schema that `to_json` wrote.

        Raises:
          UserError: the data has another form.
        """
        try:
            columns = tuple(Column(**{name: tuple(v) if isinstance(v, list) else v for name, v in c.items()})
                            for c in data['columns'])
            return cls(columns, bool(data['folded']))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f'the schema of the run: got {printable(error)!r}, expected columns; fix: train again, or give '
                            'examples as arrays', code='data/schema') from error

    @classmethod
    def fit(cls, raw: RawTable) -> 'Schema':
        """Decides what each column of the training table is.

        Raises:
          UserError: a number column with a few cells that are none; a label that is empty or not whole; a name that has
            another meaning in a batch.
        """
        columns = [_label(raw, cells) if name == 'label' else _target(raw, cells) if name == 'target'
                   else _feature(raw, name, cells) for name, cells in raw.columns.items()]
        free = [c for c in columns if c.name not in ROLES]
        separate = any(c.kind in ('image', 'array') for c in free)
        folded = not separate and any(c.kind in ('number', 'category', 'ordinal') for c in free)
        images = [c for c in free if c.kind == 'image']
        for i, c in enumerate(columns):
            if folded and c.kind == 'text' and c.name not in ROLES:
                columns[i] = dataclasses.replace(c, kind='left out', why=f'text: {c.why}')
            elif separate and c.kind in ('category', 'ordinal'):
                columns[i] = Column(c.name, 'text')
            elif len(images) == 1 and c == images[0] and 'image' not in raw.columns:
                columns[i] = dataclasses.replace(c, key='image')
            if separate and c.kind == 'number' and c.name in RESERVED:
                raise UserError(f'{raw.where}: got single numbers in column {c.name!r}, which means something else in a batch; '
                                'fix: rename the column', code='data/reserved-column')
        return cls(tuple(columns), folded)

    def encode(self, raw: RawTable, labelled: bool = True) -> tuple[dict[str, Any], list[str]]:
        """Reads a table by these decisions: ({key: array [N, …], or a list of texts or image paths}, notes).

        Args:
          raw: the table.
          labelled: the label and the target are needed; False reads them only where they are there.

        Raises:
          UserError: a column is missing, or a cell does not fit; names the file, the record and what was expected.
        """
        out: dict[str, Any] = {}
        notes: list[str] = []
        parts = []
        for c in self.columns:
            if c.kind == 'left out' or (not labelled and c.name in ROLES and c.name not in raw.columns):
                continue
            if c.name not in raw.columns:
                raise UserError(f'{raw.where}: got no column {printable(c.name)!r}, expected it as in the training records; '
                                f'fix: add it (it has {printable(", ".join(raw.columns))})', code='data/missing-column')
            values = _encoders[c.kind](c, raw, raw.columns[c.name], notes)
            if self.folded and c.kind in ('number', 'category', 'ordinal') and c.name not in ROLES:
                parts.append(values.reshape(raw.length, -1).astype(np.float32))
            else:
                out[c.key or c.name] = values
        extra = [name for name in raw.columns if name not in {c.name for c in self.columns}]
        if extra:
            notes.append(f'{printable(", ".join(extra))} (not in the training records)')
        return ({'x': np.concatenate(parts, axis=1), **out} if parts else out), notes

    def example(self, row: Mapping[str, Any], where: str = 'the row', labelled: bool = False) -> dict[str, Any]:
        """One example of one row, {column: number, text, list, or None}; images stay as they are given.

        Args:
          row: names as in the table; a number may be its text, and an empty cell '' or None.
          where: for messages.
          labelled: the label and the target are needed.

        Raises:
          UserError: as `encode`.
        """
        given = {name.strip().lower() if name.strip().lower() in ROLES else name.strip(): v for name, v in row.items()}
        out: dict[str, Any] = {}
        parts: list[np.ndarray] = []
        for c in self.columns:
            if c.kind == 'left out' or (not labelled and c.name in ROLES and c.name not in given):
                continue
            if c.name not in given:
                raise UserError(f'{where}: got no {printable(c.name)!r}, expected {printable(", ".join(self._inputs()))}; '
                                'fix: add it', code='data/missing-column')
            value = _one(c, given[c.name], f'{where}, column {printable(c.name)}')
            if self.folded and c.kind in ('number', 'category', 'ordinal') and c.name not in ROLES:
                parts.append(np.asarray(value, np.float32).reshape(-1))
            else:
                out[c.key or c.name] = value
        return {'x': np.concatenate(parts), **out} if parts else out

    def _folded(self) -> list[Column]:
        kinds = ('number', 'category', 'ordinal')
        return [c for c in self.columns if self.folded and c.kind in kinds and c.name not in ROLES]

    def _inputs(self) -> list[str]:
        return [c.name for c in self.columns if c.kind != 'left out' and c.name not in ROLES]


# -- what a column is -------------------------------------------------------------------------------------------------

def _label(raw: RawTable, cells: Cells) -> Column:
    numbers = cells.numbers
    if numbers is not None and numbers.ndim > 1:
        return Column('label', 'array', shape=numbers.shape[1:], dtype=_narrow(numbers))
    if cells.texts is not None:
        values, empty, other = parse(cells.texts) if cells.untyped else (None, None, np.ones(raw.length, bool))
        blank = _equal(cells.texts, '')
        if blank.any() or (not other.any() and empty.any()):
            raise _unlabelled(raw, int(np.argmax(blank if blank.any() else empty)))
        if other.any() or empty.any():
            return Column('label', 'label', values=tuple(sorted(cells.texts.unique().to_pylist())))
        numbers = values
    elif cells.missing is not None:
        raise _unlabelled(raw, int(np.argmax(cells.missing)))
    if numbers is None:
        raise UserError(f'{raw.where}: column label: got images, expected classes; fix: rename the column',
                        code='data/label-kind')
    if (numbers != np.floor(numbers)).any():
        record = int(np.argmax(numbers != np.floor(numbers)))
        raise UserError(f'{raw.record(record)}: got label {numbers[record]:g}, expected whole numbers or class names; fix: '
                        "number the classes from 0, or call a number to be predicted 'target'", code='data/label-not-whole')
    if (numbers < 0).any():
        record = int(np.argmax(numbers < 0))
        raise UserError(f'{raw.record(record)}: got label {numbers[record]:g}, expected 0 or more; fix: number the classes '
                        'from 0', code='data/label-range')
    count = int(numbers.max(initial=0)) + 1
    if count > max(1000, 10 * raw.length):
        raise UserError(f'{raw.where}: got label {count - 1} among {raw.length} records, expected classes numbered from 0; '
                        'fix: number them 0, 1, 2, …, or write their names', code='data/label-range')
    return Column('label', 'label', values=tuple(map(str, range(count))), numbered=True, dtype='int32')


def _unlabelled(raw: RawTable, record: int) -> UserError:
    return _no_label(raw.record(record))


def _no_label(where: str) -> UserError:
    return UserError(f'{where}: got no label, expected one; fix: add it or remove the record', code='data/no-label')


def _target(raw: RawTable, cells: Cells) -> Column:
    column = _feature(raw, 'target', cells)
    if column.kind == 'number' or (column.kind == 'left out' and cells.texts is not None):
        empty = cells.missing if cells.texts is None else parse(cells.texts)[1]
        if empty is not None and empty.any():
            raise UserError(f'{raw.record(int(np.argmax(empty)))}: got no target, expected a number; fix: add it or remove the '
                            'record', code='data/no-target')
        return dataclasses.replace(column, fill=None, dtype='float32')
    return Column('target', 'text') if column.kind in ('category', 'ordinal', 'text', 'image') else column


def _feature(raw: RawTable, name: str, cells: Cells) -> Column:
    if cells.images:
        return Column(name, 'image')
    if cells.texts is None:
        return _numeric(name, cells.numbers)
    if cells.long:
        return Column(name, 'text', why='free text')
    count = raw.length - int(_equal(cells.texts, '').sum())
    if not count:
        return Column(name, 'left out', why='empty')
    if _images(cells.texts, count):
        return Column(name, 'image')
    if cells.untyped:
        values, empty, other = parse(cells.texts)
        if not other.any() and not empty.all():
            return _numeric(name, np.where(empty, np.nan, values) if empty.any() else values)
        _check_cells(raw, name, cells.texts, other, int((~other & ~empty).sum()))
    return _category(name, cells.texts, count)


def _numeric(name: str, numbers: np.ndarray) -> Column:
    if numbers.ndim > 1:
        return Column(name, 'array', shape=numbers.shape[1:], dtype=_narrow(numbers))
    present = numbers[~np.isnan(numbers)] if numbers.dtype.kind == 'f' else numbers
    if not present.size:
        return Column(name, 'left out', why='empty')
    whole = present.size == numbers.size and (present == np.floor(present)).all() and np.abs(present).max() < 2**31
    return Column(name, 'number', fill=float(np.mean(present, dtype=np.float64)), dtype='int32' if whole else 'float32')


def _narrow(array: np.ndarray) -> str:
    """The 32-bit type of an array, which devices hold; smaller ones keep their size."""
    name = array.dtype.name
    return {'int64': 'int32', 'uint64': 'int32', 'uint32': 'int32', 'float64': 'float32'}.get(name, name)


def _category(name: str, texts, count: int) -> Column:
    import pyarrow.compute as pc
    counts = {c['values']: c['counts'] for c in pc.value_counts(texts).to_pylist() if c['values']}
    different = f'{len(counts)} different values in {count} records'
    if len(counts) == 1:
        return Column(name, 'left out', why=f'always {printable(next(iter(counts)))}')
    frequent = sorted(counts, key=lambda value: (-counts[value], value))
    if len(counts) <= min(MAX_ONE_HOT, count / 2):
        return Column(name, 'category', values=tuple(sorted(counts)), fill=frequent[0], why=different)
    if len(counts) <= min(MAX_ORDINAL, count / 10):
        return Column(name, 'ordinal', values=tuple(frequent), fill=frequent[0], why=different)
    return Column(name, 'text', why=different)


def _check_cells(raw: RawTable, name: str, texts, other: np.ndarray, numbers: int) -> None:
    """Refuses a column of numbers with a few cells that are none, and one of numbers in another notation ('2,500', '10 %')."""
    import pyarrow.compute as pc
    wrong = other
    total = numbers + int(other.sum())
    few = numbers and (other.sum() <= BAD_CELLS * total or (other.sum() == 1 and numbers >= 4))
    if not few:
        wrong = other & pc.match_substring_regex(texts, LIKE_NUMBER).to_numpy(zero_copy_only=False)
        few = wrong.any() and numbers + wrong.sum() >= (1 - BAD_CELLS) * total
    if few:
        record = int(np.argmax(wrong))
        raise UserError(f'{raw.record(record)}, column {printable(name)}: got {printable(texts[record].as_py())!r}, expected a '
                        f'number as in most of the column ({numbers} of {total}); fix: correct the cell, or leave it empty',
                        code='data/not-a-number')


def _images(texts, count: int) -> bool:
    import pyarrow.compute as pc

    from bigjax.data.images import EXTENSIONS
    pattern = '(?i)(' + '|'.join(map(re.escape, EXTENSIONS)) + ')$'
    return bool(pc.sum(pc.match_substring_regex(texts, pattern)).as_py() == count)


def _equal(texts, value: str) -> np.ndarray:
    import pyarrow.compute as pc
    return pc.equal(texts, value).to_numpy(zero_copy_only=False)


# -- reading by the decisions -----------------------------------------------------------------------------------------

def _odd(c: Column, where: str, got: Any, expected: str) -> UserError:
    return UserError(f'{where}, column {printable(c.name)}: got {printable(got)}, expected {expected} as in the training '
                     'records; fix: correct the cell or remove the record', code='data/column-kind')


def _encode_number(c: Column, raw: RawTable, cells: Cells, notes: list[str]) -> np.ndarray:
    if cells.numbers is not None and cells.numbers.ndim == 1:
        values, empty = cells.numbers, cells.missing
    elif cells.texts is not None:
        values, empty, other = parse(cells.texts)
        if other.any():
            record = int(np.argmax(other))
            raise _odd(c, raw.record(record), repr(cells.texts[record].as_py()), 'a number')
    else:
        raise _odd(c, raw.where, 'something else', 'single numbers')
    if empty is not None and empty.any():
        if c.fill is None:
            raise _odd(c, raw.record(int(np.argmax(empty))), 'an empty cell', 'a number')
        values = np.where(empty, c.fill, values)
        notes.append(f'{int(empty.sum())} empty in {printable(c.name)} filled with the mean, {c.fill:.4g}')
    if c.dtype == 'int32' and values.size and (values != np.floor(values)).any():
        return values.astype(np.float32)
    return values.astype(c.dtype)


def _encode_codes(c: Column, raw: RawTable, cells: Cells, notes: list[str]) -> np.ndarray:
    if cells.texts is not None:
        coded = cells.texts.dictionary_encode()
        names, at = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    elif cells.numbers is not None and cells.numbers.ndim == 1:
        unique, at = np.unique(cells.numbers, return_inverse=True)
        names = ['' if np.isnan(v) else canonical(v) for v in unique]
    else:
        raise _odd(c, raw.where, 'something else', 'one value')
    codes = np.array([c.code(name) for name in names], np.int32)[at] if names else np.zeros(0, np.int32)
    if c.kind == 'label':
        if (codes < 0).any():
            record = int(np.argmax(codes < 0))
            raise _unknown_class(c, raw.record(record), names[at[record]])
        return codes
    empty = np.array([name == '' for name in names], bool)[at]
    if empty.any():
        codes = np.where(empty, c.code(str(c.fill)), codes)
        notes.append(f'{int(empty.sum())} empty in {printable(c.name)} filled with the most frequent, {printable(c.fill)}')
    if (codes < 0).any():
        record = int(np.argmax(codes < 0))
        notes.append(f'{int((codes < 0).sum())} of {printable(c.name)} hold values that no training record has, such as '
                     f'{printable(names[at[record]])}')
    return _spread(c, codes)


def _unknown_class(c: Column, where: str, name: str) -> UserError:
    if name == '':
        return _no_label(where)
    shown = ', '.join(c.values[:10]) + (', …' if len(c.values) > 10 else '')
    return UserError(f'{where}: got label {printable(name)}, expected one of the {len(c.values)} classes of the training '
                     f'records ({printable(shown)}); fix: correct the record', code='data/unknown-class')


def _spread(c: Column, codes: np.ndarray) -> np.ndarray:
    """The columns of a category: one per value (one in all for two values); all zero for a value that is not known."""
    if c.kind == 'ordinal':
        return np.where(codes < 0, len(c.values), codes).astype(np.float32)
    hot = (codes[..., None] == np.arange(len(c.values))).astype(np.float32)
    return hot if c.width() > 1 else hot[..., 1]


def _encode_array(c: Column, raw: RawTable, cells: Cells, notes: list[str]) -> np.ndarray:
    got = None if cells.numbers is None else cells.numbers.shape[1:]
    if got != c.shape:
        raise _odd(c, raw.where, 'other values' if got is None else f'values of shape {list(got)}', f'shape {list(c.shape)}')
    return cells.numbers.astype(c.dtype, copy=False)


def _encode_texts(c: Column, raw: RawTable, cells: Cells, notes: list[str]) -> Any:
    if cells.texts is None:
        raise _odd(c, raw.where, 'numbers', 'text')
    values = cells.texts.to_pylist()
    if c.kind == 'image' and '' in values:
        raise _odd(c, raw.record(values.index('')), 'an empty cell', 'the path of an image')
    return values


_encoders = {'number': _encode_number, 'category': _encode_codes, 'ordinal': _encode_codes, 'label': _encode_codes,
             'array': _encode_array, 'image': _encode_texts, 'text': _encode_texts}


def _one(c: Column, value: Any, where: str) -> Any:
    """The value of one cell, as the encoders give it for a whole column."""
    if c.kind in ('image', 'text'):
        if value is None or (c.kind == 'text' and not isinstance(value, str)):
            raise _odd(c, where, 'an empty cell' if value is None else value, 'a value' if c.kind == 'image' else 'text')
        return value
    if c.kind == 'array':
        try:
            array = np.asarray(value, c.dtype)
        except (TypeError, ValueError, OverflowError):
            array = np.array(None)
        if array.shape != c.shape or (array.dtype.kind == 'f' and not np.isfinite(array).all()):
            raise _odd(c, where, f'shape {list(array.shape)}', f'{c.dtype} of shape {list(c.shape)}')
        return array
    if isinstance(value, list | np.ndarray) and np.size(value) == 1:  # a label or a number in a list of its own
        value = np.ravel(value)[0].item()
    if not isinstance(value, str | int | float | np.number | np.bool_ | None):
        raise _odd(c, where, type(value).__name__, 'one value')
    text = '' if value is None or value != value else value.strip() if isinstance(value, str) else value
    if c.kind == 'number':
        if isinstance(text, str) and text in EMPTY and c.fill is not None:
            return np.dtype('float32' if not float(c.fill).is_integer() else c.dtype).type(c.fill)
        if isinstance(text, str) and not re.match(NUMBER, text):
            raise _odd(c, where, repr(text), 'a number')
        number = float(text)
        return np.float32(number) if c.dtype == 'float32' or not number.is_integer() else np.int32(number)
    code = c.code(str(c.fill) if text == '' and c.fill is not None else canonical(text))
    if c.kind == 'label':
        if code < 0:
            raise _unknown_class(c, where, canonical(text))
        return np.int32(code)
    return _spread(c, np.array(code))
