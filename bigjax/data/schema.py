"""The decisions about the columns of a table: made once, from the training records, and held to everywhere else.

`Schema.fit` decides what each column is and keeps what is needed to read any other table the same way: the classes of a
label, the values of a category, the number that fills an empty cell, the shape of a list. It is plain data (`to_json`), is
kept in the run's record, and reads the other splits (`encode`) and single rows (`example`).

Columns of single numbers and of categories together are the features 'x' [D], unless the table has images or an array: then
each keeps its own name.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.data.columns import ENCODERS, TEXT, Column, decide_feature, decide_label, decide_target, read_one, refill
from bigjax.data.loaders.cells import ROLES, RawTable, canonical
from bigjax.errors import UserError
from bigjax.io.text import printable

RESERVED = ('x', 'image', 'tokens', 'targets', 'source', 'stream', 'mask', '_mask', 'losses')  # keys of a batch with a meaning
INTERNAL = ('_mask', 'losses')  # keys that the loop gives a batch: an array of that name would weigh the examples


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
        """Whether examples hold neither images, sounds nor text."""
        return all(c.kind not in ('image', 'audio', 'text') for c in self.columns)

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
        columns = [decide_label(raw, cells) if name == 'label' else decide_target(raw, cells) if name == 'target'
                   else decide_feature(raw, name, cells) for name, cells in raw.columns.items()]
        free = [c for c in columns if c.name not in ROLES]
        separate = any(c.kind in ('image', 'audio', 'array') for c in free)
        folded = not separate and any(c.kind in ('number', 'category', 'ordinal') for c in free)
        files = [c for c in free if c.kind in ('image', 'audio')]
        for i, c in enumerate(columns):
            if folded and c.kind == 'text' and c.name not in (*ROLES, TEXT):
                columns[i] = dataclasses.replace(c, kind='left out', why=f'text: {c.why}')
            elif separate and c.kind in ('category', 'ordinal'):
                columns[i] = Column(c.name, 'text')
            elif len(files) == 1 and c == files[0] and c.kind not in raw.columns:
                columns[i] = dataclasses.replace(c, key=c.kind)
            if separate and ((c.kind == 'number' and c.name in RESERVED) or (c.kind == 'array' and c.name in INTERNAL)):
                raise UserError(f'{raw.where}: got numbers in column {c.name!r}, which means something else in a batch; '
                                'fix: rename the column', code='data/reserved-column')
        return cls(tuple(columns), folded)

    def refilled(self, raw: RawTable, rows: np.ndarray) -> 'Schema':
        """The same, with empty cells filled from some records of the training table: those that are not held out."""
        columns = tuple(refill(c, raw.columns[c.name], rows) if c.fill is not None else c for c in self.columns)
        return Schema(columns, self.folded)

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
            values = ENCODERS[c.kind](c, raw, raw.columns[c.name], notes)
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
            if c.name not in given and self.folded and c.kind == 'text':
                continue  # beside columns of numbers, which an experiment reads without it
            if c.name not in given:
                raise UserError(f'{where}: got no {printable(c.name)!r}, expected {printable(", ".join(self.inputs))}; '
                                'fix: add it', code='data/missing-column')
            value = read_one(c, given[c.name], f'{where}, column {printable(c.name)}')
            if self.folded and c.kind in ('number', 'category', 'ordinal') and c.name not in ROLES:
                parts.append(np.asarray(value, np.float32).reshape(-1))
            else:
                out[c.key or c.name] = value
        return {'x': np.concatenate(parts), **out} if parts else out

    def unknown(self, row: Mapping[str, Any]) -> list[str]:
        """'colour=pink' of the categories of a row that no training record has; an empty cell is filled."""
        return [f'{c.name}={printable(row[c.name])}' for c in self._folded() if c.kind != 'number' and c.name in row
                and isinstance(row[c.name], str | int | float) and row[c.name] != '' and c.code(canonical(row[c.name])) < 0]

    def _folded(self) -> list[Column]:
        kinds = ('number', 'category', 'ordinal')
        return [c for c in self.columns if self.folded and c.kind in kinds and c.name not in ROLES]

    @property
    def inputs(self) -> list[str]:
        """The columns that a row has, less the label and the target."""
        return [c.name for c in self.columns if c.kind != 'left out' and c.name not in ROLES]
