"""Dimensions of activations and parameters by name, and the mesh in use while a function is traced.

A name is a logical axis; `LOGICAL` says which axis of the mesh splits it. `name?` is split where its size divides, and
whole where it does not (a vocabulary of 50,257); without the question mark that is an error.
"""
import contextlib
import math
from collections.abc import Mapping
from contextvars import ContextVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigjax.errors import UserError

BATCH = ('data', 'zero1', 'fsdp', 'expert')  # mesh axes that divide the batch, in this order
LOGICAL = {  # logical axis: the mesh axis that splits it, where the mesh has it
    'batch': BATCH, 'seq': 'seq', 'embed': None, 'heads': 'tensor', 'mlp': 'tensor', 'vocab': 'tensor',
    'experts': 'expert', 'groups': BATCH, 'layers': 'stage', None: None,  # groups: the batch beside split experts
}

_mesh: ContextVar[Mesh | None] = ContextVar('mesh', default=None)
_axes: ContextVar[Mapping] = ContextVar('axes', default=LOGICAL)


@contextlib.contextmanager
def using(mesh: Mesh | None, axes: Mapping | None = None):
    """Inside, traced functions see the mesh (`constrain`, attention over a split sequence, pipelines) and the logical `axes`,
    which are put over `LOGICAL`; without them the axes in use stay."""
    tokens = _mesh.set(mesh), _axes.set(_axes.get() if axes is None else {**LOGICAL, **axes})
    try:
        yield mesh
    finally:
        _mesh.reset(tokens[0])
        _axes.reset(tokens[1])


def axes_in_use() -> Mapping:
    """{logical axis: the axes of a mesh that split it}."""
    return _axes.get()


def current() -> Mesh | None:
    """The mesh in use."""
    return _mesh.get()


def axis_size(axis: str) -> int:
    """The size of an axis of the mesh in use; 1 where there is none."""
    mesh = _mesh.get()
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes of the mesh that divide a batch."""
    return tuple(axis for axis in mesh.axis_names if axis in BATCH)


def mesh_axes(mesh: Mesh, logical: str | None):
    """The axes of the mesh that split a logical axis: a name, a tuple of names, or None.

    Raises:
      UserError: there is no such logical axis.
    """
    name, table = logical.rstrip('?') if logical else logical, _axes.get()
    if name not in table:
        raise UserError(f"partition rules: got the logical axis '{name}', expected one of {', '.join(filter(None, table))}; "
                        "fix: add it "
                        'to Experiment.axes', code='sharding/unknown-axis')
    if name in ('batch', 'groups'):
        return tuple(axis for axis in batch_axes(mesh) if name == 'batch' or axis != 'expert') or None
    axis = table[name]
    if isinstance(axis, tuple | list):
        return tuple(a for a in axis if a in mesh.axis_names) or None
    return axis if axis in mesh.axis_names else None


def size(mesh: Mesh, axes) -> int:
    """Into how many parts axes split a dimension."""
    return math.prod(mesh.shape[a] for a in ([axes] if isinstance(axes, str) else axes or ()))


def spec(mesh: Mesh, shape, logical) -> PartitionSpec:
    """How a tensor of that shape is split; dimensions that do not divide stay whole."""
    axes = [mesh_axes(mesh, name) for name in logical]
    return PartitionSpec(*[a if n % size(mesh, a) == 0 else None for a, n in zip(axes, shape, strict=True)])


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """x with its dimensions split as their logical axes say; as it is where no mesh is in use."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, x.shape, logical)))
