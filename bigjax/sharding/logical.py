"""Logical axes: names for the dimensions of activations and parameters, and the mesh in use while a function is traced.

A table (`DEFAULTS`, and an experiment's `axes` over it) maps a logical axis to the mesh axes that split it. `name?` is split
where its size divides, and whole where it does not (a vocabulary of 50,257); without the question mark that is an error.

flax.linen.logical_axis_rules and jax.set_mesh offer part of this. They are not used, because a name that is not in their table
is ignored, so that a misspelt axis would silently replicate an array; because neither has `name?`; and because the mesh of
`jax.set_mesh` would also be seen by code inside `shard_map`, where constraints have to be off (`using(None)`).
"""
import contextlib
import math
from collections.abc import Mapping
from contextvars import ContextVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigjax.errors import UserError
from bigjax.io.text import hint

BATCH = ('data', 'zero1', 'fsdp', 'expert')  # mesh axes that divide the batch, in this order
WITHOUT_RULES = ('data', 'zero1', 'fsdp', 'seq')  # mesh axes that need no partition rule to split something of a model
DEFAULTS = {  # logical axis: the mesh axes that split it, where the mesh has them
    'batch': BATCH, 'groups': ('data', 'zero1', 'fsdp'), 'seq': 'seq', 'embed': None, 'heads': 'tensor', 'mlp': 'tensor',
    'vocab': 'tensor', 'experts': 'expert', 'layers': 'stage', None: None,  # groups: the batch beside split experts
}
FIXED = ('batch', 'groups', 'layers')  # data feeds and pipelines rely on these

_mesh: ContextVar[Mesh | None] = ContextVar('mesh', default=None)
_table: ContextVar[Mapping] = ContextVar('table', default=DEFAULTS)


def table(axes: Mapping | None, known: tuple[str, ...]) -> dict:
    """The defaults with an experiment's `axes` {logical axis: mesh axis, mesh axes or None} over them.

    Args:
      known: the mesh axes that there can be.

    Raises:
      UserError: a logical axis cannot be changed, or a mesh axis is not one.
    """
    for name, split_by in (axes or {}).items():
        if name in FIXED:
            raise UserError(f"Experiment.axes: got '{name}', which only the mesh divides, expected another; fix: "
                            'remove it', code='mesh/fixed-axis')
        for axis in [split_by] if isinstance(split_by, str) else split_by or ():
            if axis not in known:
                raise UserError(f"Experiment.axes: got '{name}': '{axis}', expected an axis of the mesh "
                                f"({', '.join(known)}){hint(axis, known)}", code='mesh/unknown-axis')
    return {**DEFAULTS, **(axes or {})}


@contextlib.contextmanager
def using(mesh: Mesh | None, axes: Mapping | None = None):
    """Context manager: functions traced inside see the mesh, and an experiment's `axes` over the defaults (None keeps those
    in use)."""
    tokens = _mesh.set(mesh), _table.set(_table.get() if axes is None else {**DEFAULTS, **axes})
    try:
        yield mesh
    finally:
        _mesh.reset(tokens[0])
        _table.reset(tokens[1])


def current() -> Mesh | None:
    """The mesh in use."""
    return _mesh.get()


def axis_size(axis: str) -> int:
    """The size of an axis of the mesh in use; 1 where there is none."""
    mesh = _mesh.get()
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def batch_is_split() -> bool:
    """Whether several devices of the mesh in use divide a batch.

    A split dimension may be folded with the one after it ([B, T] -> [B·T]), never with the one before it ([T, B] -> [T·B]): no
    sharding describes the result, so that the compiler gathers it and every device computes all rows.
    """
    mesh = _mesh.get()
    return mesh is not None and size(mesh, batch_axes(mesh)) > 1


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes of the mesh that divide a batch."""
    return tuple(axis for axis in mesh.axis_names if axis in BATCH)


def mesh_axes(mesh: Mesh, logical: str | None, axes: Mapping | None = None):
    """The axes of the mesh that split a logical axis: a name, a tuple of names, or None.

    Args:
      axes: the table of logical axes; None for the one in use.

    Raises:
      UserError: there is no such logical axis.
    """
    axes = _table.get() if axes is None else axes
    name = logical.rstrip('?') if logical else logical
    if name not in axes:
        raise UserError(f"logical axis: got '{name}', expected one of {', '.join(filter(None, axes))}; fix: its name, or "
                        'Experiment.axes', code='mesh/unknown-logical-axis')
    split_by = axes[name]
    if split_by is None or isinstance(split_by, str):
        return split_by if split_by in mesh.axis_names else None
    return tuple(axis for axis in mesh.axis_names if axis in split_by) or None


def names(split_by) -> tuple[str, ...]:
    """The mesh axes of one dimension of a PartitionSpec as a tuple."""
    return (split_by,) if isinstance(split_by, str) else tuple(split_by or ())


def size(mesh: Mesh, axes) -> int:
    """The number of parts into which axes split a dimension."""
    return math.prod(mesh.shape[axis] for axis in names(axes))


def spec(mesh: Mesh, shape, logical) -> PartitionSpec:
    """The split of a tensor of that shape; dimensions that do not divide stay whole."""
    axes = [mesh_axes(mesh, name) for name in logical]
    return PartitionSpec(*[a if n % size(mesh, a) == 0 else None for a, n in zip(axes, shape, strict=True)])


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """x with its dimensions split as their logical axes define; unchanged where no mesh is in use."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, x.shape, logical)))
