"""The data of a run as its record describes it: lengths, shapes, classes and the decisions about columns, without examples.

`predict` and `sample` need no more than that, so they run where the workdir is and the data is not. `open_data` puts
`described(splits)` into the facts of the data, the run keeps them in run.json, and `open_data('recorded:MEMBER:WORKDIR')` makes
splits of them again.
"""
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigjax.data import sources
from bigjax.data.lazy import LazySource
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.io import storage

KIND = 'recorded'
SHAPES = 'shapes'  # the key of the facts


def described(splits: Splits) -> dict[str, Any]:
    """{'shapes': {split: {'records', 'arrays': whether it is rows of arrays, 'keys': {name: [shape, dtype]}}}}, as JSON.

    {} where an example holds text, which has no shape.
    """
    found = {}
    for split, source in {'train': splits.train, **splits.evals}.items():
        spec, arrays = sources.shapes(source), sources.array_shapes(source)
        if spec is None:
            example = sources.first(source) if len(source) else {}
            if any(isinstance(value, str | bytes) for value in example.values()):
                return {}
            spec = {name: np.asarray(value) for name, value in example.items()}
        if any(x.dtype == object for x in spec.values()):
            return {}
        found[split] = {'records': len(source), 'arrays': arrays is not None and set(arrays) == set(spec),
                        'keys': {name: [list(x.shape), np.dtype(x.dtype).name] for name, x in spec.items()}}
    return {SHAPES: found}


class Described:
    """A source that is known by its length and shapes; its examples cannot be read.

    Attributes:
      spec: shapes of one example.
    """

    def __init__(self, spec: Mapping[str, jax.ShapeDtypeStruct], length: int):
        self.spec, self._length = dict(spec), length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int):
        raise _closed()

    def __repr__(self) -> str:
        return f'Described({self._length} records)'


def splits(place: str) -> Splits:
    """The splits that the run of 'MEMBER:WORKDIR' describes; info has 'recorded'.

    Raises:
      UserError: the record does not describe its data, as those of older versions.
    """
    member, _, workdir = place.partition(':')
    path = storage.place(workdir) / 'run.json'
    try:
        info = dict(json.loads(storage.text(path))['info'])
        others = info.pop('members', [])
        if int(member):
            info |= others[int(member) - 1] if others else {}
        made = {split: _source(facts) for split, facts in info[SHAPES].items()}
        return Splits(made.pop('train'), made, {**info, 'recorded': workdir})
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{path}: got a record without the shapes of its data, expected those; fix: give the data of the run '
                        '(--config.data=…)', code='data/not-recorded') from error


def _source(facts: Mapping[str, Any]) -> Any:
    spec = {name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in facts['keys'].items()}
    if not facts['arrays']:
        return Described(spec, int(facts['records']))
    zeros = {name: np.broadcast_to(np.zeros((), s.dtype), (int(facts['records']), *s.shape)) for name, s in spec.items()}
    return LazySource(ArraySource(zeros), _open)


def _open():
    raise _closed()


def _closed() -> UserError:
    return UserError('the data of the run: got its description alone, expected its examples; fix: give the data '
                     '(--config.data=…)', code='data/not-recorded')
