"""Partition rules: which dimension of which parameter is split over which axes of the mesh, as data, resolved in one place.

A model's file names the dimensions of its parameters once, by regex on the path, in logical axes:

    PARTITION_RULES = (('.*/attn/(query|key|value)/kernel', ('embed', 'heads')), …)

The table of `bigjax.sharding.logical`, and an experiment's `axes` over it, map a logical axis to mesh axes. `fsdp` then splits
a parameter along the largest dimension that is still whole and that it divides. `logical.constrain` names activations the same
way.
"""
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigjax.errors import UserError
from bigjax.io.text import table
from bigjax.sharding import logical, tree_paths
from bigjax.sharding.mesh import AXES

FSDP_SIZE = 2**10  # numbers; smaller tensors stay whole, their messages would cost more than their memory


class Placed(NamedTuple):
    """One parameter: its path, shape, dtype, logical axes and the axes of the mesh that split it."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    names: tuple[str | None, ...]
    spec: PartitionSpec

    def bytes_per_device(self, mesh: Mesh) -> int:
        """The bytes that each device holds."""
        return math.prod(self.shape) * self.dtype.itemsize // math.prod(logical.size(mesh, a) for a in self.spec)


def resolve(params, rules: Sequence[tuple[str, tuple]], mesh: Mesh, axes: Mapping | None = None) -> list[Placed]:
    """The placement of each parameter.

    Args:
      params: the parameters, or their shapes.
      rules: ((regex on the whole path, logical axes), …), the first match wins. Without any, nothing is split by name.
      axes: logical axis -> mesh axes, over the defaults of `bigjax.sharding.logical`.

    Raises:
      UserError: no rule matches, a rule has other dimensions than the tensor, names one axis twice, or its axis does not
        divide; the tensor is named.
    """
    by_name = logical.table(axes, AXES)
    named = {axis for _, names in rules for name in names for axis in logical.names(logical.mesh_axes(mesh, name, by_name))}
    for axis in mesh.axis_names:
        if mesh.shape[axis] > 1 and axis not in (*logical.WITHOUT_RULES, *named):
            raise UserError(f"config.mesh: got '{axis}', which splits nothing of this model, expected an axis of its partition "
                            'rules; fix: use data, zero1 or fsdp', code='mesh/splits-nothing')
    return [_place(path, leaf, rules, mesh, by_name) for path, leaf in tree_paths.leaves(params)]


def _place(path, leaf, rules, mesh, by_name) -> Placed:
    shape = tuple(leaf.shape)
    names = _names(path, shape, rules)
    axes = _by_name(path, shape, names, mesh, by_name)
    layers = tuple(i for i, name in enumerate(names) if name == 'layers')
    if 'fsdp' in mesh.axis_names and not any('fsdp' in logical.names(axis) for axis in axes):
        axes = _along_the_largest(shape, axes, 'fsdp', mesh, but=layers)
    return Placed(path, shape, np.dtype(leaf.dtype), names, PartitionSpec(*axes))


def _names(path, shape, rules) -> tuple:
    """The logical axes that the first matching rule gives."""
    if not rules:
        return (None,) * len(shape)
    names = next((names for regex, names in rules if re.fullmatch(regex, path)), None)
    if names is None:
        raise UserError(f"partition rules: got '{path}' {list(shape)}, expected a rule that matches it; fix: add one",
                        code='mesh/no-rule')
    if len(names) != len(shape):
        raise UserError(f"partition rules: got '{path}' {list(shape)} and a rule of {len(names)} axes {names}, expected one "
                        'for each dimension; fix: the rule', code='mesh/rule-dimensions')
    return names


def _by_name(path, shape, names, mesh, table_of_axes) -> list:
    """The mesh axis of each dimension."""
    axes = [logical.mesh_axes(mesh, name, table_of_axes) for name in names]
    for i, (axis, n) in enumerate(zip(axes, shape, strict=True)):
        parts = logical.size(mesh, axis)
        if n % parts and names[i].endswith('?'):
            axes[i] = None
        elif n % parts:
            raise UserError(f"config.mesh: got {'+'.join(logical.names(axis))}:{parts}, expected a divisor of {n}, a dimension "
                            f"of '{path}' {list(shape)}; fix: the size of the axis", code='mesh/does-not-divide')
    used = [name for axis in axes for name in logical.names(axis)]
    if len(used) != len(set(used)):
        raise UserError(f"partition rules: got '{path}' {names}, expected a mesh axis to split one dimension of it; fix: name "
                        'one of them None', code='mesh/axis-twice')
    return axes


def _along_the_largest(shape, axes, axis, mesh, but=()) -> list:
    """The axes with `axis` added at the largest dimension that is whole and divides, unless the tensor is small."""
    free = [i for i, n in enumerate(shape) if axes[i] is None and n % mesh.shape[axis] == 0 and i not in but]
    axes = list(axes)
    if free and math.prod(shape) >= FSDP_SIZE:
        axes[max(free, key=lambda i: shape[i])] = axis
    return axes


class Layout(NamedTuple):
    """The placement of parameters, and of what follows them in the optimizer's state."""

    params: dict[str, Placed]
    optimizer: dict[str, Placed]


def layout(params, rules, mesh: Mesh, axes: Mapping | None = None) -> Layout:
    """The layout of a model: `zero1` splits the optimizer's state alone, `fsdp` both."""
    placed = resolve(params, rules, mesh, axes)
    ours = placed
    if 'zero1' in mesh.axis_names:
        ours = [p._replace(spec=PartitionSpec(*_along_the_largest(p.shape, p.spec, 'zero1', mesh))) for p in placed]
    return Layout({p.path: p for p in placed}, {p.path: p for p in ours})


def suffix_shardings(tree, rules, mesh: Mesh, axes: Mapping | None = None):
    """Shardings of arrays that are no parameters of the model, such as a teacher's: by the first rule that matches an end of
    the path and has as many axes as the array; the rest as without rules."""
    by_name = logical.table(axes, AXES)

    def one(path, leaf):
        parts = path.split('/')
        ends = ('/'.join(parts[i:]) for i in range(len(parts)))
        names = next((names for end in ends for regex, names in rules
                      if re.fullmatch(regex, end) and len(names) == len(leaf.shape)), (None,) * len(leaf.shape))
        return NamedSharding(mesh, _place(path, leaf, [('.*', tuple(names))], mesh, by_name).spec)

    return tree_paths.map_leaves(one, tree)


def follow(tree, placed: Mapping[str, Placed], mesh: Mesh, members: bool = False):
    """Shardings of a tree whose leaves mirror parameters, such as an optimizer's state; the rest is replicated.

    A leaf follows the parameter whose path its own path ends with, where the shapes agree. With `members` every leaf has
    a leading axis for them, which stays whole.
    """
    skip = int(members)

    def one(path, leaf):
        shape = tuple(leaf.shape)[skip:]
        parts = path.split('/')
        for start in range(len(parts)):
            p = placed.get('/'.join(parts[start:]))
            if p is not None and p.shape == shape:
                return NamedSharding(mesh, PartitionSpec(*[None] * skip, *p.spec))
        return NamedSharding(mesh, PartitionSpec())

    return tree_paths.map_leaves(one, tree)


LARGE = 10 << 20  # bytes; the table marks a replicated tensor over this


def show(placed: Layout, mesh) -> str:
    """A table of every parameter: path, shape, the axes that split it, and its bytes and those of one moment per device."""
    rows, held, moments = [], 0, 0
    for path, p in placed.params.items():
        mine, moment = p.bytes_per_device(mesh), placed.optimizer[path].bytes_per_device(mesh)
        held, moments = held + mine, moments + moment
        whole = mesh.size > 1 and all(axis is None for axis in placed.optimizer[path].spec)
        note = f'replicated, over {LARGE >> 20} MB' if whole and mine > LARGE else ''
        rows.append([path, ' x '.join(map(str, p.shape)), ' · '.join(_axes(axis) for axis in p.spec) or '–', f'{mine:,}',
                     f'{moment:,}', note])
    rows.append(['all', f'{sum(math.prod(p.shape) for p in placed.params.values()):,}', '', f'{held:,}', f'{moments:,}', ''])
    titles = ['parameter', 'shape', 'split by', 'bytes per device', 'a moment', '']
    return f"{', '.join(f'{a}:{n}' for a, n in mesh.shape.items())}\n{table(titles, rows)}"


def _axes(axis) -> str:
    return '+'.join(logical.names(axis)) or '–'
