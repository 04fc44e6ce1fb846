"""The members of a population: runs of one compiled step, mapped over a leading axis of every array.

Members differ in their seed, in numbers of the optimizer (`config.population_over='optimizer.lr=0.1; optimizer.lr=0.01'`), or
in their data alone (`population_over='split'`). The model, the task and the optimizer are those of the first member, so
whatever else differs would be trained as the first member without a word; it is refused.
"""
import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigjax.errors import UserError
from bigjax.experiment import Experiment
from bigjax.io.text import printable
from bigjax.train.settings import Settings

MAX_DEPTH = 12  # of nested values compared


class Population:
    """Seeds and numbers of each member, and `map` over them.

    Attributes:
      size: how many members, or None for a plain run, whose arrays have no leading axis.
      seeds: one per member (of a plain run, one).
      values: {key of the optimizer: [size]}, the numbers in which members differ.
    """

    def __init__(self, settings: Settings):
        s = settings
        self.size = s.population if s.population > 1 else None
        step = int(s.population_over == 'seed')
        self.seeds = ([int(member.get('seed', s.seed)) for member in s.members] or
                      [s.seed + step * m for m in range(s.population)])
        self.values = {key.partition('.')[2]: np.asarray([member[key] for member in s.members], np.float32)
                       for key in (s.members or ({},))[0] if key != 'seed'}

    def map(self, fn: Callable, in_axes=0) -> Callable:
        """`fn` of one member, over all of them."""
        return fn if self.size is None else jax.vmap(fn, in_axes=in_axes)

    def member(self, tree, index: int):
        """One member's part of a tree."""
        return tree if self.size is None else jax.tree.map(lambda x: x[index], tree)

    @property
    def seed_array(self) -> np.ndarray:
        """int32, [size] or a scalar."""
        seeds = np.asarray(self.seeds, np.int32)
        return seeds if self.size else seeds[0]

    def numbers(self) -> list[dict[str, float]]:
        """The numbers of the optimizer that each member has of its own."""
        return [{key: float(value[m]) for key, value in self.values.items()} for m in range(self.size or 1)]


def check_data_alone(experiments: Sequence[Experiment], over: str) -> None:
    """Raises UserError unless every member differs from the first, and in its data alone.

    Call it after the config's own check: it reads every key of what it compares.
    """
    first = experiments[0]
    for m, other in enumerate(experiments[1:], 1):
        for field in dataclasses.fields(Experiment):
            if field.name in ('data', 'expected', 'samples', 'interface'):  # the last two are made from the member's own data
                continue
            if where := difference(getattr(first, field.name), getattr(other, field.name), field.name):
                raise UserError(
                    f"config.population_over: got '{printable(over)}', which changes {where} of member {m}, expected a key "
                    "that changes "
                    "the data alone; fix: write numbers of the optimizer out (--config.population_over='optimizer.lr=0.1; "
                    "optimizer.lr=0.01'), or train the members as runs of their own", code='config/population-over')
        if not difference(first.data, other.data, 'data'):
            raise UserError(f"config.population_over: got '{printable(over)}', which changes nothing of member {m}: all "
                            'members would be one run; fix: --config.population_over=seed', code='config/population-over')


def difference(a: Any, b: Any, path: str, depth: int = 0) -> str:
    """The path of the first difference between two values, or ''.

    Functions are equal when their code, defaults and closures are: every `get_experiment` makes new ones.
    """
    if a is b or depth > MAX_DEPTH:
        return ''
    if type(a) is not type(b):
        return path
    inside = functools.partial(_first_difference, depth=depth + 1)
    if isinstance(a, np.ndarray | jax.Array | np.generic):
        a, b = np.asarray(a), np.asarray(b)
        return '' if a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes() else path
    if isinstance(a, Mapping) or hasattr(a, 'items'):
        return inside(dict(a.items()), dict(b.items()), path)
    if isinstance(a, list | tuple):
        return inside(dict(enumerate(a)), dict(enumerate(b)), path)
    if isinstance(a, functools.partial):
        parts = lambda p: {'': p.func, 'args': p.args, 'keywords': p.keywords}
        return inside(parts(a), parts(b), path)
    if isinstance(a, types.FunctionType):
        return inside(_function(a), _function(b), path)
    if isinstance(a, types.MethodType):
        return inside({'': a.__func__, 'self': a.__self__}, {'': b.__func__, 'self': b.__self__}, path)
    if isinstance(a, type | types.ModuleType | types.BuiltinFunctionType | str | bytes | int | complex | float | None):
        return '' if a == b else path
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a) if f.name != 'parent' and hasattr(a, f.name)]
        return inside({n: getattr(a, n) for n in names}, {n: getattr(b, n, None) for n in names}, path)
    if hasattr(a, '__dict__'):
        return inside(vars(a), vars(b), path)
    return '' if a == b else path


def _first_difference(a: Mapping, b: Mapping, path: str, depth: int) -> str:
    if a.keys() != b.keys():
        return path
    parts = (difference(a[key], b[key], f'{path}.{key}' if key != '' else path, depth) for key in a)
    return next(filter(None, parts), '')


def _function(f: types.FunctionType) -> dict:
    """The parts of a function that decide its result, apart from its globals."""
    cells = f.__closure__ or ()
    values = {name: cell.cell_contents for name, cell in zip(f.__code__.co_freevars, cells, strict=True)}
    return {'code': _code(f.__code__), 'defaults': f.__defaults__, 'keyword defaults': f.__kwdefaults__, **values}


def _code(code: types.CodeType) -> list:
    return [code.co_code, code.co_names, *(_code(c) if isinstance(c, types.CodeType) else c for c in code.co_consts)]
