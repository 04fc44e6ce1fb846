"""One column of a table: how it is decided what it holds, and how any table, or a single cell, is read by that decision."""
import dataclasses
import re
from typing import Any

import numpy as np

from bigjax.data import audio, images
from bigjax.data.loaders.cells import EMPTY, LIKE_NUMBER, NUMBER, Cells, RawTable, canonical, parse
from bigjax.errors import UserError
from bigjax.io.text import printable

TEXT = 'text'  # a column of this name is running text, whatever it holds
MAX_ONE_HOT = 64  # values of a category; one column each
MAX_ORDINAL = 1000  # values of a category that is one column, numbered by frequency
BAD_CELLS = 0.05  # a column with at most this share of cells that are not numbers is a column of numbers with mistakes


@dataclasses.dataclass(frozen=True)
class Column:
    """The decisions about one column of a table.

    Attributes:
      name: in the table.
      kind: 'number', 'category' (one-hot), 'ordinal', 'label', 'array', 'image', 'audio', 'text', or 'left out'.
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


# -- what a column is -------------------------------------------------------------------------------------------------

def decide_label(raw: RawTable, cells: Cells) -> Column:
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


def decide_target(raw: RawTable, cells: Cells) -> Column:
    column = decide_feature(raw, 'target', cells)
    if column.kind == 'number' or (column.kind == 'left out' and cells.texts is not None):
        empty = cells.missing if cells.texts is None else parse(cells.texts)[1]
        if empty is not None and empty.any():
            raise UserError(f'{raw.record(int(np.argmax(empty)))}: got no target, expected a number; fix: add it or remove the '
                            'record', code='data/no-target')
        return dataclasses.replace(column, fill=None, dtype='float32')
    return Column('target', 'text') if column.kind in ('category', 'ordinal', 'text', 'image') else column


def decide_feature(raw: RawTable, name: str, cells: Cells) -> Column:
    if cells.images:
        return Column(name, 'image')
    if cells.texts is None:
        return _numeric(name, cells.numbers)
    if cells.long or name == TEXT:
        return Column(name, 'text', why='free text')
    count = raw.length - int(_equal(cells.texts, '').sum())
    if not count:
        return Column(name, 'left out', why='empty')
    if _files(cells.texts, count, images.EXTENSIONS):
        return Column(name, 'image')
    if _files(cells.texts, count, audio.EXTENSIONS):
        return Column(name, 'audio')
    if cells.untyped:
        values, empty, other = parse(cells.texts)
        if not other.any() and not empty.all():
            return _numeric(name, np.where(empty, np.nan, values) if empty.any() else values)
        _check_cells(raw, name, cells.texts, other, int((~other & ~empty).sum()))
    return _category(name, cells.texts, count)


def refill(c: Column, cells: Cells, rows: np.ndarray) -> Column:
    """The column with the value for empty cells that some records alone give: those that are trained on."""
    import pyarrow.compute as pc
    if c.fill is None:
        return c
    if c.kind == 'number':
        values = (cells.numbers if cells.texts is None else parse(cells.texts)[0])[rows].astype(np.float64)
        present = values[~np.isnan(values)]
        return dataclasses.replace(c, fill=float(np.mean(present))) if present.size else c
    counts = {x['values']: x['counts'] for x in pc.value_counts(cells.texts.take(rows)).to_pylist() if x['values']}
    return dataclasses.replace(c, fill=min(counts, key=lambda value: (-counts[value], value))) if counts else c


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
        expected = f'a number as in most of the column ({numbers} of {total})' if numbers else 'numbers such as 1234.5'
        raise UserError(f'{raw.record(record)}, column {printable(name)}: got {printable(texts[record].as_py())!r}, expected '
                        f'{expected}; fix: correct the cell, or leave it empty', code='data/not-a-number')


def _files(texts, count: int, endings: tuple[str, ...]) -> bool:
    """Whether every cell that is not empty is the name of a file with one of the endings."""
    import pyarrow.compute as pc
    pattern = '(?i)(' + '|'.join(map(re.escape, endings)) + ')$'
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
    if c.kind in ('image', 'audio') and '' in values:
        raise _odd(c, raw.record(values.index('')), 'an empty cell', f'the path of an {c.kind} file')
    return values


ENCODERS = {'number': _encode_number, 'category': _encode_codes, 'ordinal': _encode_codes, 'label': _encode_codes,
             'array': _encode_array, 'image': _encode_texts, 'audio': _encode_texts, 'text': _encode_texts}


def read_one(c: Column, value: Any, where: str) -> Any:
    """The value of one cell, as the encoders give it for a whole column."""
    if c.kind in ('image', 'audio', 'text'):
        if value is None or (c.kind == 'text' and not isinstance(value, str)):
            raise _odd(c, where, 'an empty cell' if value is None else value, 'text' if c.kind == 'text' else 'a value')
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
