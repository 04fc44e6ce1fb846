"""The device mesh as one line of config, and the placement of batches on it.

    --config.mesh=data:2,fsdp:4,tensor:2

An axis is a way of sharing the work, and its name defines which:

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
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bigjax.compat import create_device_mesh, create_hybrid_device_mesh, multihost_utils
from bigjax.errors import UserError
from bigjax.io.text import counted, printable
from bigjax.sharding.logical import BATCH, batch_axes

AXES = (*BATCH, 'tensor', 'seq', 'stage')
LARGEST = 2**31
EXAMPLE = "write for example 'data:-1' or 'fsdp:4,tensor:2'"


def parse(text: str) -> dict[str, tuple[int, int]]:
    """'data:2x4,tensor:2' -> {'data': (2, 4), 'tensor': (1, 2)}: (slices, devices of each); -1 is the rest, once.

    Raises:
      UserError: it is not a list of axis:size, or an axis is unknown or repeated.
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
            raise UserError(f"config.mesh: got '{printable(part)}', expected axis:size; fix: {EXAMPLE}",
                            code='mesh/not-axis-size') from None
        if name not in AXES:
            raise UserError(f"config.mesh: got the axis '{printable(name)}', expected one of {', '.join(AXES)}; fix: {EXAMPLE}",
                            code='mesh/unknown-axis')
        if name in sizes:
            raise UserError(f"config.mesh: got '{name}' twice; fix: {EXAMPLE}", code='mesh/axis-twice')
        sizes[name] = outer, inner
    inner = [b for _, b in sizes.values()]
    if not sizes or inner.count(-1) > 1 or any(b == 0 or b < -1 for b in inner) or any(a < 1 for a, _ in sizes.values()):
        raise UserError(f"config.mesh: got '{printable(text)}', expected axis:size pairs with at most one -1; fix: {EXAMPLE}",
                        code='mesh/not-axis-size')
    return sizes


def _shape(text: str, count: int) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """(names, slices and devices of each axis) with -1 resolved among `count` devices."""
    sizes = parse(text)
    fixed = math.prod(a * (1 if b == -1 else b) for a, b in sizes.values())
    open_axis = any(b == -1 for _, b in sizes.values())
    if fixed > count or (open_axis and count % fixed):
        what = f'a multiple of {counted(fixed, "device")}' if open_axis else counted(fixed, 'device')
        raise UserError(f"config.mesh: got '{printable(text)}', which needs {what}, and {counted(count, 'device')}; fix: "
                        f'--config.mesh=data:{count}', code='mesh/devices')
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
    """The mesh without its devices, of any size; -1 is the number of devices of this process."""
    fixed = all(b != -1 for _, b in parse(text).values())
    names, slices, inner = _shape(text, 2**40 if fixed else jax.device_count())
    return AbstractMesh(tuple(a * b for a, b in zip(slices, inner, strict=True)), names)


def _grid(devices, slices, inner):
    """Devices [axis, …]; neighbours in the array are near each other where the hardware reports distances."""
    if devices[0].platform == 'tpu' or (math.prod(slices) > 1 and hasattr(devices[0], 'slice_index')):
        if math.prod(slices) > 1:
            return create_hybrid_device_mesh(inner, slices, devices, allow_split_physical_axes=True)
        return create_device_mesh(inner, devices, allow_split_physical_axes=True)
    grid = np.asarray(devices).reshape(*slices, *inner)  # slices are neighbours in the list of devices
    order = [axis for pair in zip(range(len(slices)), range(len(slices), 2 * len(slices)), strict=True) for axis in pair]
    return grid.transpose(order).reshape([a * b for a, b in zip(slices, inner, strict=True)])


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int) -> NamedSharding:
    """The sharding of an array whose dimension `axis` is split over the mesh's batch axes."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, batch_axes(mesh) or None))


def data_size(mesh: Mesh) -> int:
    """The number of parts into which a batch is split."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def process_part(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process's devices hold part i of n equal parts of every batch.

    Raises:
      UserError: they hold parts that are not neighbours; batch axes have to come first in the mesh.
    """
    parts = data_size(mesh)
    rows = batch_sharding(mesh, 0).addressable_devices_indices_map((parts,)).values()
    held = sorted({i for (index,) in rows for i in range(*index.indices(parts))})
    if not held:
        raise UserError(f'config.mesh: process {jax.process_index()} has no device in the mesh; fix: use all devices',
                        code='mesh/idle-process')
    if held != list(range(held[0], held[0] + len(held))) or parts % len(held) or held[0] % len(held):
        raise UserError('config.mesh: a process would hold scattered rows of the batch; fix: write the batch axes '
                        f"({', '.join(batch_axes(mesh))}) first", code='mesh/scattered-rows')
    return held[0] // len(held), parts // len(held)


def device_put_global(tree, sharding: NamedSharding):
    """Puts host arrays, equal on every process, on the devices as global arrays."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(x):
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # NumPy cannot hold a key
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree)


def to_host(tree):
    """Gathers global arrays into NumPy arrays, whole on every process; a collective, which all processes call."""
    def one(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(one, tree)


def allgather_int(number: int) -> list[int]:
    """Gathers one number per process, in the order of their ranks; a collective, which all processes call."""
    return [number] if jax.process_count() == 1 else multihost_utils.process_allgather(np.int32(number)).tolist()


def device_put_local(tree, sharding: NamedSharding):
    """Puts this process's part of each array on its devices, as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
