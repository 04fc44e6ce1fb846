"""Tables of texts of the user's own, as they stand in the file: sources and targets, or questions, contexts and answers.

The columns of such a table are no features, so that no schema decides what they are: a task states their names, and reads them.
"""
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigjax.data.loaders import parquet, tables, tfds_hf
from bigjax.data.loaders.cells import column_names
from bigjax.data.loaders.own import part_files, split_names
from bigjax.data.sources import held_out
from bigjax.errors import UserError
from bigjax.io.text import printable


@dataclasses.dataclass(frozen=True)
class TextTable:
    """Some columns of one split.

    Attributes:
      where: the file, for messages.
      names: of all columns.
      columns: {name: values} of those that were asked for and are there.
      first_line: the line of record 0 where each record is one line, else 0.
      rows: the record of the file of each row, None for all of them in order.
    """

    where: str
    names: tuple[str, ...]
    columns: Mapping[str, list]
    first_line: int = 0
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def record(self, index: int) -> str:
        """'FILE: record 3 (line 5)'."""
        index = index if self.rows is None else int(self.rows[index])
        return f'{self.where}: record {index}' + (f' (line {self.first_line + index})' if self.first_line else '')

    def take(self, rows: np.ndarray) -> 'TextTable':
        """Some of the rows."""
        chosen = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=chosen, rows=rows)

    def texts(self, name: str, code: str = 'data/empty-text') -> list[str]:
        """The texts of a column.

        Args:
          code: of the error where one is empty.

        Raises:
          UserError: a value is no text, or empty.
        """
        for record, value in enumerate(self.columns[name]):
            if value is not None and not isinstance(value, str):
                raise UserError(f'{self.record(record)}, column {name}: got {printable(repr(value)[:60])}, expected a text; '
                                'fix: write it in quotes', code='data/not-text')
            if not (value or '').strip():
                raise UserError(f'{self.record(record)}: got an empty {name}, expected a text; fix: add it or remove the '
                                'record', code=code)
        return self.columns[name]


class Reader(NamedTuple):
    """How the records of a named set are made of a table of the user's own.

    Attributes:
      columns: that the table has.
      make: `make(named, variant, {split: TextTable}, **options) -> ({split: source}, facts)`; facts are those of the named
        set that the data replaces, and 'notes', {split: what was cut or left out}.
      group: the column whose equal values are held out together, where there is one.
    """

    columns: tuple[str, ...]
    make: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    group: str = ''


def read(kind: str, place: str, wanted: Sequence[str]) -> dict[str, TextTable]:
    """{split: its table} of a file, of a folder with a file per split, or of a Hugging Face data set.

    Raises:
      UserError: as the readers of `kind`; two columns of one name.
    """
    if kind == 'hf':
        data = tfds_hf.hf(place)
        found = split_names('hf', place, list(data))
        return {split: _chosen(f'hf:{place} ({name})', data[name].column_names, wanted, lambda raw, name=name:
                               list(data[name][raw])) for split, name in found.items()}
    return {split: READERS[kind](path, wanted) for split, path in part_files(place, kind).items()}


def _chosen(where: str, found: Sequence[str], wanted: Collection[str], values: Callable[[str], list],
            first: int = 0) -> TextTable:
    names = {raw: name.lower() if name.lower() in wanted else name for raw, name in column_names(found, where)[0].items()}
    return TextTable(where, tuple(names.values()), {name: values(raw) for raw, name in names.items() if name in wanted}, first)


def _jsonl(path, wanted) -> TextTable:
    columns, _, first = tables.json_columns(path)
    return _chosen(str(path), list(columns), wanted, columns.__getitem__, first)


def _csv(path, wanted) -> TextTable:
    raw = tables.csv(path)
    return _chosen(raw.where, list(raw.columns), wanted, lambda name: raw.columns[name].texts.to_pylist(), raw.first_line)


def _parquet(path, wanted) -> TextTable:
    return _chosen(str(path), parquet.names(path), wanted, functools.partial(parquet.values, path))


READERS = {'jsonl': _jsonl, 'csv': _csv, 'parquet': _parquet}
KINDS = (*READERS, 'hf')


def hold_out(found: Mapping[str, TextTable], fraction: float, seed: int, group: str = '') -> dict[str, TextTable]:
    """The tables with a part of train as 'val'; rows with an equal value of the column `group` stay together.

    Raises:
      UserError: as `held_out`.
    """
    train = found['train']
    values = train.columns[group] if group else ()
    numbers = {value: i for i, value in enumerate(dict.fromkeys(map(str, values)))}
    of = np.array([numbers[str(value)] for value in values]) if len(numbers) > 1 else np.arange(len(train))
    _, held = held_out(int(of.max(initial=-1)) + 1, fraction, seed)
    val = np.isin(of, held)
    return {'train': train.take(np.flatnonzero(~val)), 'val': train.take(np.flatnonzero(val)),
            **{split: table for split, table in found.items() if split != 'train'}}
