"""The device mesh as one line of config, and the placement of batches on it.

    --config.mesh=data:2,fsdp:4,tensor:2

An axis is a way of sharing the work, and its name says which:

    data    each device has a part of the batch and all of the state
    zero1   as `data`, and a part of the optimizer's state (Rajbhandari et al. 2020, ZeRO-1)
    fsdp    as `data`, and a part of parameters and optimizer state (ZeRO-3)
    tensor  each device has some of the heads and of the hidden units (Shoeybi et al. 2019, Megatron)
    seq     each device has a part of every sequence (Liu et al. 2023, ring attention)
    expert  as `data`, and some of the experts of a mixture (Lepikhin et al. 2020, GShard)
    stage   each device has some of the layers (Huang et al. 2018, GPipe)

A size of -1 takes the remaining devices. `data:2x4` is two slices of four: the first number counts groups that are joined
by the slower network, the second the devices of one.
"""
import math

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bigjax.errors import UserError
from bigjax.io.text import printable
from bigjax.sharding.logical import BATCH, batch_axes

AXES = (*BATCH, 'tensor', 'seq', 'stage')
LARGEST = 2**31
EXAMPLE = "write for example 'data:-1' or 'fsdp:4,tensor:2'"


def parse(text: str) -> dict[str, tuple[int, int]]:
    """'data:2x4,tensor:2' -> {'data': (2, 4), 'tensor': (1, 2)}: (slices, devices of each); -1 stands for the rest, once.

    Raises:
      UserError: it is not a list of axis:size, or an axis is not known or there twice.
    """
    sizes = {}
    for part in filter(None, (p.strip() for p in str(text).split(','))):
        name, _, size = part.partition(':')
        name, (outer, cross, inner) = name.strip(), size.partition('x')
        try:
            outer, inner = (int(outer), int(inner)) if cross else (1, int(outer))
            if max(outer, inner) > LARGEST:
                raise ValueError
        except ValueError:
            raise UserError(f"config.mesh: '{printable(part)}' is not axis:size; {EXAMPLE}") from None
        if name not in AXES:
            raise UserError(f"config.mesh: '{printable(name)}' is not an axis; there are {', '.join(AXES)}")
        if name in sizes:
            raise UserError(f"config.mesh: '{name}' is there twice; {EXAMPLE}")
        sizes[name] = outer, inner
    inner = [b for _, b in sizes.values()]
    if not sizes or inner.count(-1) > 1 or any(b == 0 or b < -1 for b in inner) or any(a < 1 for a, _ in sizes.values()):
        raise UserError(f"config.mesh: '{printable(text)}' needs axis:size pairs with at most one -1; {EXAMPLE}")
    return sizes


def _shape(text: str, count: int) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """(names, slices and devices of each axis) with -1 resolved among `count` devices."""
    sizes = parse(text)
    fixed = math.prod(a * (1 if b == -1 else b) for a, b in sizes.values())
    open_axis = any(b == -1 for _, b in sizes.values())
    if fixed > count or (open_axis and count % fixed):
        what = f'multiples of {fixed} devices' if open_axis else f'{fixed} devices'
        raise UserError(f"config.mesh: '{printable(text)}' asks for {what} and there are {count}; write "
                        f'--config.mesh=data:{count}')
    inner = tuple(count // fixed if b == -1 else b for _, b in sizes.values())
    return tuple(sizes), tuple(a for a, _ in sizes.values()), inner


def make(text: str, devices=None) -> Mesh:
    """The mesh over the first devices that it needs.

    Raises:
      UserError: the sizes need more devices than there are, or do not divide them.
    """
    devices = list(jax.devices() if devices is None else devices)
    names, slices, inner = _shape(text, len(devices))
    grid = _grid(devices[:math.prod(slices) * math.prod(inner)], slices, inner)
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def abstract(text: str) -> AbstractMesh:
    """The mesh without its devices, of any size; -1 stands for the devices that there are."""
    fixed = all(b != -1 for _, b in parse(text).values())
    names, slices, inner = _shape(text, 2**40 if fixed else jax.device_count())
    return AbstractMesh(tuple(a * b for a, b in zip(slices, inner, strict=True)), names)


def _grid(devices, slices, inner):
    """Devices [axis, …], neighbours in it near each other where the hardware says who is near."""
    from jax.experimental import mesh_utils
    if devices[0].platform == 'tpu' or (math.prod(slices) > 1 and hasattr(devices[0], 'slice_index')):
        if math.prod(slices) > 1:
            return mesh_utils.create_hybrid_device_mesh(inner, slices, devices, allow_split_physical_axes=True)
        return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
    grid = np.asarray(devices).reshape(*slices, *inner)  # slices are neighbours in the list of devices
    order = [axis for pair in zip(range(len(slices)), range(len(slices), 2 * len(slices)), strict=True) for axis in pair]
    return grid.transpose(order).reshape([a * b for a, b in zip(slices, inner, strict=True)])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int) -> NamedSharding:
    """Dimension `axis` of an array is split over the mesh's batch axes."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, batch_axes(mesh) or None))


def data_size(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def process_part(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process's devices hold part i of n equal parts of every batch.

    Raises:
      UserError: they hold parts that are not neighbours; batch axes have to stand first in the mesh.
    """
    parts = data_size(mesh)
    rows = split(mesh, 0).addressable_devices_indices_map((parts,)).values()
    mine = sorted({i for (index,) in rows for i in range(*index.indices(parts))})
    if not mine:
        raise UserError(f'config.mesh: process {jax.process_index()} has no device in the mesh; use all of them')
    if mine != list(range(mine[0], mine[0] + len(mine))) or parts % len(mine) or mine[0] % len(mine):
        raise UserError('config.mesh: a process would hold scattered rows of the batch; write the batch axes '
                        f"({', '.join(batch_axes(mesh))}) first")
    return mine[0] // len(mine), parts // len(mine)


def put(tree, sharding: NamedSharding):
    """Host arrays, equal on every process, as global arrays."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree)


def whole(tree):
    """Global arrays as NumPy arrays, whole on every process; all processes have to ask for them."""
    def one(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(one, tree)


def everywhere(number: int) -> list[int]:
    """The number that each process has, process by process; all processes have to ask for it."""
    return [number] if jax.process_count() == 1 else multihost_utils.process_allgather(np.int32(number)).tolist()


def asked_to_stop(round_: int) -> bool:
    """Whether some process of several was asked to stop; all say so in the same round, and have to ask in every one."""
    return multihost_utils.reached_preemption_sync_point(round_)


def put_local(tree, sharding: NamedSharding):
    """This process's part of each array, as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
