"""The columns of one table before any decision is made about them, whatever the format of the file."""
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.errors import UserError
from bigjax.io.text import printable

NUMBER = r'^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$'  # not what float() accepts: 1_0, Infinity and nan are text
LIKE_NUMBER = r"^[+-]?[$€£]?\s?[0-9.,' ]*[0-9][0-9.,' ]*\s?[%$€£]?$"  # 2,500 and 10 %
EMPTY = ('', 'NA', 'N/A', 'n/a', '#N/A', 'NaN', 'nan', 'NULL', 'null', 'None', '?', '-')  # an empty cell among numbers
INDEX_NAMES = ('', 'Unnamed: 0', '__index_level_0__')  # what pandas calls the row numbers that it writes
ROLES = ('label', 'target')


@dataclasses.dataclass(frozen=True)
class Cells:
    """One column; exactly one of `texts`, `numbers` and `images` is set.

    Attributes:
      texts: a pyarrow array of strings, '' where the cell is empty.
      numbers: [N, …] float64, or int64 without an empty cell.
      missing: bool [N], the empty cells among `numbers`.
      images: the column holds encoded images or their paths, which are read record by record.
      untyped: the texts are cells of a CSV file, which may be numbers.
      long: `texts` are only the first records of a column of free text.
    """

    texts: Any = None
    numbers: np.ndarray | None = None
    missing: np.ndarray | None = None
    images: bool = False
    untyped: bool = False
    long: bool = False


@dataclasses.dataclass(frozen=True)
class RawTable:
    """The columns of one file.

    Attributes:
      where: the file, for messages.
      folder: the folder that image paths are relative to.
      columns: {name: Cells}; a name has no blanks around it, and 'Label' and 'TARGET' are 'label' and 'target'.
      length: the number of records.
      first_line: the line of record 0 where each record is one line, else 0.
      notes: what the reader left out or assumed.
    """

    where: str
    folder: pathlib.Path
    columns: Mapping[str, Cells]
    length: int
    first_line: int = 0
    notes: tuple[str, ...] = ()

    def record(self, index: int) -> str:
        """'FILE: record 3 (line 5)'."""
        return f'{self.where}: record {index}' + (f' (line {self.first_line + index})' if self.first_line else '')


def column_names(found: Sequence[str], where: str) -> tuple[dict[str, str], list[str]]:
    """({name in the file: name in the examples}, notes); row numbers that pandas wrote are left out.

    Raises:
      UserError: a column without a name, or two columns of one name.
    """
    names, notes = {}, []
    if len(set(found)) < len(found):
        twice = next(name for name in found if list(found).count(name) > 1)
        raise UserError(f'{where}: got two columns named {printable(twice)}, expected each name once; fix: rename one',
                        code='data/two-columns')
    for i, raw in enumerate(found):
        name = raw.strip()
        name = name.lower() if name.lower() in ROLES else name
        if (name in INDEX_NAMES and i == 0) or name.startswith('__index_level_'):
            notes.append(f'{name!r} (row numbers)' if name else 'the first column (no name: row numbers)')
            continue
        if not name:
            raise UserError(f'{where}: got no name for column {i + 1} of {len(found)}, expected one; fix: name it or remove it',
                            code='data/nameless-column')
        if name in names.values():
            raise UserError(f'{where}: got two columns named {printable(name)}, expected each name once; fix: rename one',
                            code='data/two-columns')
        if name != raw:
            notes.append(f"'{printable(raw)}' is read as {printable(name)}")
        names[raw] = name
    return names, notes


def canonical(value: Any) -> str:
    """The text of a value as the name of a class: 1, 1.0 and '1.0' of a label are all '1'."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | np.integer | np.bool_):
        return str(int(value))
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def from_list(values: list, name: str, where: str) -> Cells:
    """Values of JSON or of a Hugging Face data set: numbers, texts, or lists of numbers, with None where empty.

    Raises:
      UserError: values of different kinds, lists of different lengths, an infinite number.
    """
    present = [v for v in values if v is not None]
    if all(isinstance(v, str) for v in present):
        return Cells(texts=_texts(['' if v is None else v for v in values]))
    if name == 'label' and all(isinstance(v, str | int | float) for v in present):
        return Cells(texts=_texts(['' if v is None else canonical(v) for v in values]), untyped=True)
    first = present[0]
    _check_kinds(values, first, name, where)
    if _kind(type(first)) == 'number':
        whole = all(isinstance(v, int | np.integer | np.bool_) for v in present) and len(present) == len(values)
        try:
            numbers = np.array([np.nan if v is None else v for v in values], np.int64 if whole else np.float64)
        except OverflowError:
            raise _too_wide(where, name) from None
        return _numbers(numbers, name, where)
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        array = np.array(None)
    if array.dtype.kind not in 'iufb':
        lengths = [_count(value) for value in values]
        odd = next((n for n, length in enumerate(lengths) if length != lengths[0]), 0)
        cause = f'{lengths[odd]} values, expected {lengths[0]} as in record 0' if odd else 'something that is not a number'
        raise UserError(f'{where}: record {odd}, column {printable(name)}: got {cause}; fix: give every record as many numbers',
                        code='data/ragged')
    return _numbers(array, name, where)


def _kind(of: type) -> str:
    """The kind of a value, which all values of one column share."""
    kinds = {'text': str, 'object': dict, 'number': (int, float, np.number, np.bool_), 'nothing': type(None)}
    return next((kind for kind, types in kinds.items() if issubclass(of, types)), 'list')


def _check_kinds(values: list, first: Any, name: str, where: str) -> None:
    """Raises UserError at the first value of another kind than `first`, and at `first` where no example can hold it."""
    kind = _kind(type(first))
    alike = {kind} if kind == 'list' else {kind, 'nothing'}
    wrong = {t for t in set(map(type, values)) if t is dict or _kind(t) not in alike}
    if not wrong:
        return
    record, value = next((n, v) for n, v in enumerate(values) if type(v) in wrong)
    shown = lambda value: printable(json.dumps(value, default=str)[:60])
    expected, fix = (('a number, a text or a list of numbers', 'give each of its values a key of its own')
                     if isinstance(value, dict) else (f'a value like {shown(first)}', 'give every record the same kind'))
    raise UserError(f'{where}: record {record}, column {printable(name)}: got {shown(value)}, expected {expected}; fix: {fix}',
                    code='data/mixed-column')


def from_array(array: np.ndarray, name: str, where: str) -> Cells:
    """The array of an npz file or of a Parquet column, [N, …]."""
    return _numbers(array, name, where)


def _numbers(array: np.ndarray, name: str, where: str) -> Cells:
    if array.dtype.kind in 'iu' and array.size and (array.max() > 2**31 - 1 or array.min() < -2**31):
        raise _too_wide(where, name)
    missing = None
    if array.dtype.kind == 'f':
        lost = ~np.isfinite(array)
        if lost.any():
            record = int(np.argwhere(lost)[0][0])
            if array.ndim > 1 or np.isinf(array).any():
                value = array[lost].ravel()[0]
                raise UserError(f'{where}: record {record}, column {printable(name)}: got {value}, expected a finite number; '
                                'fix: correct it or remove the record', code='data/not-finite')
            missing = lost
    if array.ndim == 1 or array.shape[1:] == (1,):
        array = array.reshape(len(array)) if name in ROLES else array
    return Cells(numbers=array, missing=missing)


def _too_wide(where: str, name: str) -> UserError:
    return UserError(f'{where}: column {printable(name)}: got whole numbers beyond 32 bits, expected up to 2147483647; fix: '
                     'write them as text, or scale them', code='data/too-wide')


def _texts(values: list[str]):
    import pyarrow as pa
    # A lone surrogate of JSON ("\ud800") has no UTF-8 form
    return pa.array([v.encode('utf-8', 'replace').decode() for v in values], pa.large_string())


def _count(value: Any) -> int:
    """How many values there are in a list of lists."""
    return sum(map(_count, value)) if isinstance(value, list) else 1


def parse(texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(numbers float64 [N] with NaN for cells that are none, empty bool [N], other bool [N]) of texts."""
    import pyarrow as pa
    import pyarrow.compute as pc
    try:
        values = pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
        if np.isfinite(values).all():
            none = np.zeros(len(values), bool)
            return values, none, none
    except pa.ArrowInvalid:
        pass
    number = pc.match_substring_regex(texts, NUMBER)
    plain = pc.if_else(number, pc.utf8_ltrim(texts, characters='+'), None)
    values = pc.cast(plain, pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    empty = pc.is_in(texts, value_set=pa.array(EMPTY, texts.type)).to_numpy(zero_copy_only=False)
    return values, empty, ~empty & ~np.isfinite(values)  # 1e400 is none
