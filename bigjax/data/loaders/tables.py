"""CSV, JSON Lines and npz files as columns."""
import csv as csv_module
import io
import os
import pathlib
import re

import numpy as np

from bigjax.data.loaders import formats
from bigjax.data.loaders.cells import NUMBER, ROLES, Cells, RawTable, column_names, from_array, from_list
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

BLOCK_BYTES = 1 << 20  # pyarrow's own; a larger file is read as one block, so that a long cell fits
HEAD_BYTES = 1 << 16


def csv(path: str | os.PathLike) -> RawTable:
    """Separated values under a header line; `separator` finds what they are separated by.

    Cells keep the line ends inside their quotes, and lose the blanks around them.

    Raises:
      UserError: names the file and the line: no header, no records, a line of other length; or the byte that is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pa_csv
    data = formats.read(path)
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise UserError(f'{path}: got UTF-16, expected UTF-8; fix: save it as UTF-8', code='data/not-utf8')
    whole, data = data, data.removeprefix(b'\xef\xbb\xbf')  # the mark would be a part of the first name
    by, header = _header(data[:HEAD_BYTES], path)
    wrong: list = []

    def keep(row):
        wrong.append(row)
        return 'error'

    read = pa_csv.ReadOptions(use_threads=False, block_size=min(max(BLOCK_BYTES, len(data) + 1), 2**31 - 1))
    try:
        table = pa_csv.read_csv(
            io.BytesIO(data), read_options=read,
            parse_options=pa_csv.ParseOptions(delimiter=by, newlines_in_values=True, invalid_row_handler=keep),
            convert_options=pa_csv.ConvertOptions(column_types={name: pa.large_string() for name in header},
                                                  null_values=[], strings_can_be_null=False))
        found = table.column_names
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if wrong:
            place = 'row' if b'"' in data or b'\n\n' in data or b'\n\r' in data else 'line'  # pyarrow counts no blank lines
            raise UserError(f'{path}: {place} {wrong[0].number} ({printable(wrong[0].text)[:40]}): got '
                            f'{wrong[0].actual_columns} columns, expected {wrong[0].expected_columns} as in the header; fix: '
                            'correct it', code='data/csv-line') from error
        formats.decoded(whole, path)
        raise UserError(f'{path}: cannot be read as CSV ({first_line(error)}); fix: save it as UTF-8 with a header line',
                        code='data/csv') from error
    if not table.num_rows:
        raise UserError(f'{path}: got no records under the header, expected at least one; fix: add some', code='data/empty')
    last = [str(value) for value in table.slice(table.num_rows - 1).to_pylist()[0].values()]
    if data.count(b'"') % 2 and any('\n' in value or '\r' in value for value in last):
        raise UserError(f'{path}: got a quote that is not closed, which makes the rest of the file one cell; fix: close it, or '
                        'double it', code='data/csv')
    names, notes = column_names(found, str(path))
    if by != ',':
        notes.append('separated by ' + {';': 'semicolons', '\t': 'tabs', '|': 'bars'}[by])
    columns = {}
    for raw, name in names.items():
        texts = table.column(raw)
        texts = texts.cast(pa.large_string()) if texts.type != pa.large_string() else texts
        columns[name] = Cells(texts=pc.utf8_trim(texts.combine_chunks(), characters=' \t'), untyped=True)
    lines = data.count(b'\n') + (not data.endswith(b'\n'))
    return RawTable(str(path), pathlib.Path(path).parent, columns, table.num_rows,
                    2 if lines == table.num_rows + 1 else 0, tuple(notes))


def _header(head: bytes, path) -> tuple[str, list[str]]:
    """(the separator, the names of the first line).

    Raises:
      UserError: there is no line, or it is a record rather than names.
    """
    text = head.decode('utf-8', 'replace')
    by = separator(text)
    try:
        header = next((row for row in csv_module.reader(io.StringIO(text, newline=''), delimiter=by) if row), [])
    except csv_module.Error as error:
        raise UserError(f'{path}: the header cannot be read ({first_line(error)}); fix: correct the first line',
                        code='data/csv') from error
    if not header:
        raise UserError(f'{path}: got no line, expected a header with a name for each column; fix: add it',
                        code='data/no-header')
    numbers = [name for name in header if re.match(NUMBER, name.strip())]
    if numbers and not any(name.strip().lower() in ROLES for name in header):
        raise UserError(f'{path}: got the number {printable(numbers[0])} in the first line, expected the names of the columns; '
                        'fix: add a header line such as a,b,label', code='data/no-header')
    return by, header


def separator(text: str) -> str:
    """The one of comma, semicolon and tab that the first line of a table holds most; a bar where it holds none of them."""
    first = next((line for line in re.split('[\r\n]', text) if line), '')
    return max(',;\t|' if not set(',;\t') & set(first) else ',;\t', key=first.count)


def jsonl(path: str | os.PathLike) -> RawTable:
    """One JSON object per line, all with the same keys.

    Raises:
      UserError: as `json_columns`.
    """
    columns, length, first = json_columns(path)
    names, notes = column_names(list(columns), str(path))
    cells = {name: from_list(columns[raw], name, str(path)) for raw, name in names.items()}
    return RawTable(str(path), pathlib.Path(path).parent, cells, length, first, tuple(notes))


def json_columns(path: str | os.PathLike) -> tuple[dict[str, list], int, int]:
    """({key: its values}, records, the line of the first record where each record is one line, else 0) of JSON lines.

    Raises:
      UserError: names the file and the line.
    """
    columns: dict[str, list] = {}
    lines = []
    for number, line in enumerate(formats.text(path).split('\n'), 1):
        if not line.strip():
            continue
        try:
            record = safe_read.parsed(line)
        except ValueError as error:  # also a number of more than 4,300 digits
            why = getattr(error, 'msg', None) or first_line(error)
            raise UserError(f'{path}: line {number}: got no JSON ({why}), expected one object; fix: write one object per line',
                            code='data/not-json') from error
        if not isinstance(record, dict) or not record or (columns and set(record) != set(columns)):
            keys = f'an object with the keys of the first record, {printable(", ".join(columns))}' if columns else 'an object'
            raise UserError(f'{path}: line {number}: expected {keys}; fix: give every record the same keys', code='data/keys')
        for name, value in record.items():
            columns.setdefault(name, []).append(value)
        lines.append(number)
    if not columns:
        raise UserError(f'{path}: got no records, expected one JSON object per line; fix: add some', code='data/empty')
    straight = lines == list(range(lines[0], lines[0] + len(lines)))
    return columns, len(lines), lines[0] if straight else 0


def npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive.

    Raises:
      UserError: as `safe_read.archive`; an array that does not hold numbers; no arrays.
    """
    arrays = safe_read.archive(path)
    for name, array in arrays.items():
        if array.dtype.kind not in 'iufb':
            raise UserError(f'{path}: array {printable(name)}: got {printable(array.dtype)}, expected numbers; fix: encode it '
                            'first', code='data/not-numbers')
    if not arrays:
        raise UserError(f'{path}: got no arrays, expected some; fix: write it with numpy.savez(path, image=…, label=…)',
                        code='data/empty')
    return arrays


def npz_splits(whole: dict[str, np.ndarray], endings: dict[str, tuple[str, ...]]) -> dict[str, dict[str, np.ndarray]]:
    """One archive with its splits in it: x_train, y_train, x_test, y_test (Keras), or NAME_train, NAME_val."""
    if not any(name.endswith('_train') for name in whole):
        return {'train': whole}
    parts = {split: {name.removesuffix(f'_{ending}'): array for ending in names for name, array in whole.items()
                     if name.endswith(f'_{ending}')} for split, names in endings.items()}
    return {split: part for split, part in parts.items() if part}


def npz_table(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> RawTable:
    """Arrays as columns: 'y' is 'label' where it is whole numbers and 'target' where it is not, uint8 'x' is 'image'.

    Raises:
      UserError: arrays of different lengths.
    """
    arrays = dict(arrays)
    lengths = {printable(name): len(array) if array.ndim else -1 for name, array in arrays.items()}
    if -1 in lengths.values() or len(set(lengths.values())) > 1:
        raise UserError(f'{path}: got arrays of lengths {lengths}, expected one common length; fix: give every array as many '
                        'records', code='data/lengths')
    if 'y' in arrays and not set(ROLES) & set(arrays):
        array = arrays.pop('y')
        arrays['label' if array.dtype.kind in 'iub' else 'target'] = array
    x = arrays.get('x')
    if x is not None and 'image' not in arrays and x.dtype == np.uint8 and x.ndim in (3, 4):
        arrays['image'] = arrays.pop('x')
    if 'image' in arrays and arrays['image'].ndim == 3:
        arrays['image'] = arrays['image'][..., None]
    names, notes = column_names(list(arrays), str(path))
    columns = {name: from_array(arrays[raw], name, str(path)) for raw, name in names.items()}
    return RawTable(str(path), pathlib.Path(path).parent, columns, next(iter(lengths.values())), notes=tuple(notes))
