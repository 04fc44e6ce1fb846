"""The device mesh as one line of config, and the placement of state and batches on it."""
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bigjax import UserError


def parse(text: str) -> dict[str, int]:
    """'data:2,model:4' -> {'data': 2, 'model': 4}; -1 stands for the remaining devices, once."""
    sizes = {}
    for part in filter(None, (p.strip() for p in str(text).split(','))):
        name, _, size = part.partition(':')
        try:
            sizes[name.strip()] = int(size)
        except ValueError:
            raise UserError(f"config.mesh: '{part}' is not axis:size; write for example 'data:-1'") from None
    if not sizes or list(sizes.values()).count(-1) > 1 or any(s == 0 or s < -1 for s in sizes.values()):
        raise UserError(f"config.mesh: '{text}' needs axis:size pairs with at most one -1; write for example 'data:-1'")
    return sizes


def make(text: str, devices=None) -> Mesh:
    """The mesh over the first devices that it needs.

    Raises:
      UserError: the sizes need more devices than there are, or do not divide them.
    """
    sizes, devices = parse(text), list(jax.devices() if devices is None else devices)
    fixed = math.prod(s for s in sizes.values() if s != -1)
    if fixed > len(devices) or (-1 in sizes.values() and len(devices) % fixed):
        raise UserError(f"config.mesh: '{text}' asks for multiples of {fixed} devices and there are {len(devices)}; "
                        f"write --config.mesh=data:{len(devices)}")
    shape = tuple(len(devices) // fixed if s == -1 else s for s in sizes.values())
    grid = np.asarray(devices[:math.prod(shape)]).reshape(shape)
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int) -> NamedSharding:
    """Dimension `axis` of an array is split over the mesh's data axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'data' if 'data' in mesh.axis_names else None))


def data_size(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape.get('data', 1)


def put(tree, sharding: NamedSharding):
    """Host arrays, equal on every process, as global arrays."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree)


def put_local(tree, sharding: NamedSharding):
    """This process's part of each array, as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
