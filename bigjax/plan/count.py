"""The work of one call of a compiled program on each device: FLOPs, collectives, HBM traffic, large buffers.

Wire bytes are what a device receives by the ring algorithms: all-gather and reduce-scatter (n-1)/n of the whole tensor,
all-reduce twice that, all-to-all (n-1)/n, a permutation all of it (Thakur et al. 2005).
"""
import math
import re
from typing import NamedTuple

import numpy as np

from bigjax.plan import flops, hlo

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast',
         'ragged-all-to-all')
FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
        'optimization-barrier', 'partition-id', 'replica-id', 'async-start', 'async-update', 'async-done')


class Collective(NamedTuple):
    """One collective instruction.

    Attributes:
      kind: XLA's name; 'send between slices' for a message over the slow network.
      axes: the axes of the mesh along which it communicates.
      group: the number of devices in one group.
      times: the number of executions in a call.
      shapes: those of the whole tensors.
      payload, wire: bytes of the whole tensors, and received by a device, in one execution.
      asynchronous: whether other work may overlap with it.
      place: JAX's path of the operation that it belongs to.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    times: int
    shapes: tuple[tuple[int, ...], ...]
    payload: float
    wire: float
    asynchronous: bool
    place: str


class Buffer(NamedTuple):
    """A result in memory: bytes, its shape and the path of its operation."""

    bytes: float
    shape: str
    place: str


class Counts(NamedTuple):
    """The sums over one call, per device."""

    flops: float
    hbm_bytes: float
    collectives: list[Collective]
    buffers: list[Buffer]
    kernels: dict[str, int]


def count(module: hlo.Module, mesh) -> Counts:
    """Counts the work of a program on each device of a `jax.sharding.Mesh`."""
    done, callers = _second_halves(module), _callers(module)
    total, traffic, collectives, buffers, kernels = 0.0, 0.0, [], {}, {}
    for name, fused, times in module.runs:
        computation = module.computations[name]
        for i in computation.values():
            shapes = [computation[o].shape for o in i.operands if o in computation]
            total += times * flops.instruction(i, shapes)
            if not (fused and name in done):
                found = _collective(i, computation, times, mesh, name)
                collectives += [found._replace(place=_place(i, computation, callers.get(name)))] if found else []
            if i.op == 'custom-call' and (target := re.search(r'custom_call_target="([^"]+)"', i.attrs)):
                kernels[target.group(1)] = kernels.get(target.group(1), 0) + times
            if not fused and i.op not in FREE:
                traffic += times * _traffic(i, computation, module)
                buffers[name, i.name] = _largest(i)
    largest = sorted(buffers.values(), key=lambda b: -b.bytes)[:40]
    return Counts(total, traffic, collectives, largest, kernels)


def works(module, loop: str) -> bool:
    """Whether a loop has products or collectives in its body."""
    body = next(c[loop].called('body') for c in module.computations.values() if loop in c)
    inside, queue = set(), [body]
    while queue:
        name = queue.pop()
        if name in module.computations and name not in inside:
            inside.add(name)
            queue += [n for i in module.computations[name].values() for n in hlo.NAME.findall(i.attrs)]
    return any(i.op in ('dot', 'convolution') or i.op.removesuffix('-start') in KINDS
               for name in inside for i in module.computations[name].values())


def _largest(i) -> Buffer:
    """The largest array of a result."""
    every = [Buffer(_in_hbm(f'{t}[{",".join(map(str, dims))}]{layout}'), f'{t}{list(dims)}', i.place)
             for t, dims, layout in hlo.arrays(i.shape)]
    return max(every, default=Buffer(0.0, i.shape, i.place))


def _callers(module) -> dict[str, tuple[str, hlo.Computation]]:
    """{fused computation: (the fusion's name, the computation that it is in)}."""
    return {i.called('calls'): (i.name, c) for c in module.computations.values() for i in c.values() if i.op == 'fusion'}


def _place(i, computation, caller, steps: int = 6) -> str:
    """The path of an instruction's operation; for one that the compiler made, 'for' and that of the nearest user."""
    if i.place or not steps:
        return i.place
    users = [u for u in computation.values() if i.name in u.operands]
    if not users and caller:
        return _place(caller[1][caller[0]], caller[1], None, steps - 1)
    found = next((u.place for u in users if u.place), '') or next(
        filter(None, (_place(u, computation, caller, steps - 1).removeprefix('for ') for u in users)), '')
    return found and f'for {found}'


def _second_halves(module) -> set[str]:
    """Fused computations that repeat a collective which another one starts (TPU: start, overlapped work, done)."""
    return {name for name, c in module.computations.items()
            if name.startswith('async_collective_fusion')
            or any(i.op == 'custom-call' and 'AsyncCollectiveDone' in i.attrs for i in c.values())}


def _collective(i, computation, times, mesh, name) -> Collective | None:
    if i.op == 'send' and 'megascale' in i.attrs:
        payload = hlo.size(i.shape.split(', u32')[0])
        return Collective('send between slices', ('slices',), 2, times, (hlo.dimensions(i.shape),), payload, payload, True,
                          i.place)
    kind = i.op.removesuffix('-start')
    if kind not in KINDS:
        return None
    sent = [computation[o].shape for o in i.operands if o in computation] or [i.shape]
    members = groups(i.attrs, mesh.size)
    n, bytes_in = members.shape[1], sum(hlo.size(s) for s in sent)
    shapes = [hlo.dimensions(s) for s in sent]
    share = (n - 1) / n
    if kind == 'all-gather':
        axis = int(re.search(r'dimensions=\{(\d+)', i.attrs).group(1))
        shapes = [tuple(d * n if k == axis else d for k, d in enumerate(s)) for s in shapes]
        payload, wire = bytes_in * n, bytes_in * (n - 1)
    elif kind == 'all-reduce' and name.startswith('all-reduce-scatter'):  # a fusion that keeps only its own part
        kind, payload, wire = 'reduce-scatter', bytes_in, bytes_in * share
    else:
        factor = {'all-reduce': 2 * share, 'collective-permute': 1}.get(kind, share)
        payload, wire = bytes_in, bytes_in * factor
    asynchronous = i.op.endswith('-start') or any('AsyncCollectiveStart' in o.attrs for o in computation.values())
    return Collective(kind, axes(members, mesh), n, times, tuple(shapes), payload, wire, asynchronous, i.place)


def groups(attrs: str, devices: int) -> np.ndarray:
    """[groups, members]: the devices of each group, by their position in the mesh; for a permutation the pairs."""
    pairs = re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', attrs)
    if pairs:
        return np.array([[int(a), int(b)] for a, b in re.findall(r'\{(\d+),(\d+)\}', pairs.group(1))])
    listed = re.search(r'replica_groups=\{((?:\{[\d,]+\},?)+)\}', attrs)
    if listed:
        rows = [[int(d) for d in row.split(',')] for row in re.findall(r'\{([\d,]+)\}', listed.group(1))]
        return np.array(rows) if len({len(r) for r in rows}) == 1 else np.array([max(rows, key=len)])
    iota = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attrs)
    if iota:
        shape, dims, order = ([int(d) for d in part.split(',')] if part else None for part in iota.groups())
        ids = np.arange(np.prod(dims)).reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape)
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attrs)
    if named:
        return _named_groups(named)
    return np.arange(devices)[None]


def _named_groups(match) -> np.ndarray:
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", match.group(1))}
    inside = re.findall(r"'([^']+)'", match.group(2))
    ids, names = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values())), list(sizes)
    ids = np.moveaxis(ids, [names.index(a) for a in inside], range(-len(inside), 0))
    return ids.reshape(-1, int(np.prod([sizes[a] for a in inside])))


def axes(members: np.ndarray, mesh) -> tuple[str, ...]:
    """The axes of the mesh along which the members of a group differ."""
    where = np.stack(np.unravel_index(members % mesh.size, tuple(mesh.shape.values())))  # [axis, group, member]
    varies = (where != where[:, :, :1]).any(axis=(1, 2))
    return tuple(name for name, v in zip(mesh.axis_names, varies, strict=True) if v)


def _in_hbm(shape: str) -> float:
    """Bytes of the arrays of a shape that are in main memory; S(n) in a layout is a memory on the chip."""
    return sum(math.prod(dims) * float(hlo.ITEM.get(t, 1)) for t, dims, layout in hlo.arrays(shape)
               if not re.search(r'S\([1-9]', layout))


def _traffic(i, computation, module) -> float:
    """Bytes that an instruction reads and writes. Parts that are cut out of, or put into, a large array count alone."""
    if i.op.endswith('-done') or i.op in ('copy-start',):
        return 0.0
    if i.op in ('dynamic-slice', 'gather', 'slice'):
        return 2 * _in_hbm(i.shape)
    shapes = [computation[o].shape for o in i.operands if o in computation]
    if i.op in ('dynamic-update-slice', 'scatter') and len(shapes) > 1:
        return 2 * sum(_in_hbm(s) for s in shapes[1:])
    inner = module.computations.get(i.called('calls') or '') if i.op == 'fusion' else None
    if inner is None:
        return _in_hbm(i.shape) + sum(_in_hbm(s) for s in shapes)
    return _written_by(inner, i.shape) + sum(_read_of(inner, k, s) for k, s in enumerate(shapes))


def _written_by(fused, shape) -> float:
    root = fused.root
    roots = [fused[o] for o in root.operands if o in fused] if root.op == 'tuple' else [root]
    update = lambda r: fused[r.operands[1]].shape if r.op == 'dynamic-update-slice' and r.operands[1] in fused else r.shape
    return min(_in_hbm(shape), sum(_in_hbm(update(r)) for r in roots))


def _read_of(fused, number: int, shape: str) -> float:
    """Bytes read of operand `number` of a fusion."""
    name = next((i.name for i in fused.values() if i.op == 'parameter' and i.args.strip() == str(number)), None)
    users = [i for i in fused.values() if name in i.operands]
    cut = ('dynamic-slice', 'gather', 'dynamic-update-slice')
    if not users or not all(i.op in cut and i.operands[0] == name for i in users):
        return _in_hbm(shape)
    return sum(0.0 if i.op == 'dynamic-update-slice' else _in_hbm(i.shape) for i in users)
