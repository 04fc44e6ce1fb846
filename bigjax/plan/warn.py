"""Warnings of a plan: all-reduces where scattered sums were meant, gathered activations, replicated tensors, repeated work.

A warning names JAX's path of the operation, or the parameter's.
"""
import collections
import math
import re

from bigjax.sharding import logical
from bigjax.train import flops

LARGE = 2**20  # bytes on a device; smaller messages and copies get no warning
REPEATED = 0.1  # of the model's FLOPs, executed beyond them
SHARE = 0.02  # of the parameters' bytes, likewise


def replicated(program) -> list[str]:
    """Parameters and optimizer state that every device holds whole, on a mesh that was meant to split them."""
    mesh, found = program.mesh, []
    axes = [a for a in ('fsdp', 'zero1') if mesh.shape.get(a, 1) > 1]
    for axis in axes:
        placed = (program.layout.params if axis == 'fsdp' else program.layout.optimizer).values()
        total = sum(math.prod(p.shape) * p.dtype.itemsize for p in placed)
        for p in placed:
            size = math.prod(p.shape) * p.dtype.itemsize
            if not any(p.spec) and size > max(LARGE, SHARE * total):
                found.append(f"'{p.path}' {list(p.shape)} ({size / 2**20:.0f} MiB) is whole on every device: no dimension "
                             f"divides by {axis}:{mesh.shape[axis]}")
    return found


def undivided(program) -> list[str]:
    """Dimensions that a partition rule would split if the mesh divided them: they are whole on every device, which then holds
    and computes all of it, such as the head of a vocabulary of 50,257."""
    mesh, found = program.mesh, {}
    for p in program.layout.params.values():
        for size, name, split in zip(p.shape, p.names, p.spec + (None,) * len(p.shape), strict=False):
            axes = logical.mesh_axes(mesh, name, program.axes)
            parts = logical.size(mesh, axes)
            if name and name.endswith('?') and split is None and parts > 1:
                found.setdefault((size, '+'.join(logical.names(axes)), parts), []).append(p)
    named = lambda params: ' and '.join(f"'{p.path}'" for p in params[:2])
    return [f'{named(params)}: a dimension of {size:,}, which {axes}:{parts} does not divide, so every device holds and '
            f'computes all of it; {-(-size // parts) * parts:,} would be divided'
            for (size, axes, parts), params in found.items()]


def executed(program, figures) -> list[str]:
    """A warning where all devices together execute more FLOPs than the model has and its checkpoints repeat.

    Args:
      figures: {'model', 'checkpointed', 'executed'}: FLOPs of a step.
    """
    above = (figures['executed'] - figures['checkpointed']) / figures['model'] - 1
    if above <= REPEATED:
        return []
    s = program.settings
    cause = f'with accumulate={s.accumulate} and the mesh {",".join(f"{a}:{n}" for a, n in program.mesh.shape.items())} '
    on_cpu = program.mesh.devices.flat[0].platform == 'cpu'
    by_design = '; on a CPU, convolutions of few channels are products that need more by design' if on_cpu else ''
    return [f'the devices compute {above:.0%} more FLOPs than the model and its checkpoints need: {cause}they may '
            f'compute the same rows or heads; compare with accumulate=1 and with mesh=data:1{by_design}']


def collectives(program, sent, textbook) -> list[str]:
    """All-reduces where a scattered sum was expected, gathers of activations, much more wire than the textbook's."""
    return [*_sums(program, sent), *_gathers(program, sent), *_excess(program, sent, textbook)]


def _bytes(program) -> float:
    return max(LARGE, SHARE * 4 * program.parameters)


def _sums(program, sent) -> list[str]:
    scattered = {a for a in ('fsdp', 'zero1') if program.mesh.shape.get(a, 1) > 1}
    bad = [c for c in sent if c.kind == 'all-reduce' and scattered & set(c.axes) and c.payload >= LARGE]
    return [f"all-reduce over {'+'.join(axes)} where a reduce-scatter or gather was expected: {wire / 2**20:,.0f} MiB of wire "
            f'a step, {place}'
            for (axes, place), wire in _grouped(program, bad) if wire >= _bytes(program)]


def _gathers(program, sent) -> list[str]:
    batch = {*logical.BATCH, 'tensor', 'seq'}
    hints = flops.cost_hints(program)
    vocabulary = hints and hints.vocab_size
    sizes = {n for p in program.layout.params.values() for n in _part_sizes(program.mesh, p)}
    bad = [c for c in sent if c.kind == 'all-gather' and batch & set(c.axes) and c.payload >= LARGE
           and not all(math.prod(s) in sizes for s in c.shapes)]
    warnings = []
    for (axes, place), wire in _grouped(program, bad):
        shapes = next(c.shapes for c in bad if (c.axes, _short(c.place)) == (axes, place))
        what = 'logits' if vocabulary and any(vocabulary in s for s in shapes) else 'activations'
        if wire >= LARGE:
            warnings.append(f"{what} {list(max(shapes, key=math.prod))} gathered over {'+'.join(axes)}: "
                            f'{wire / 2**20:,.0f} MiB of wire per step, {place}')
    return warnings


def _part_sizes(mesh, p) -> set[int]:
    """Sizes that a device may gather of a parameter, or of one layer of stacked ones: whole, or the part that the axes other
    than fsdp leave."""
    split = math.prod(logical.size(mesh, a) for a in p.spec if a != 'fsdp')
    return {math.prod(s) // k for s in (p.shape, p.shape[1:]) for k in (1, split)}


def _excess(program, sent, textbook) -> list[str]:
    """Axes that send a twentieth more than the textbook's least, and the parameters that are gathered repeatedly."""
    wire, least, found = collections.Counter(), collections.Counter(), []
    for c in sent:
        for axis in c.axes[:1]:
            wire[axis] += c.times * c.wire / program.steps_per_call
    for m in textbook:
        least[m['axes'][0]] += m['bytes']
    for axis, total in wire.items():
        if least[axis] and total > 1.05 * least[axis] and total > LARGE:
            again = _again(program, sent, axis)
            found.append(f"'{axis}' sends {total / 2**20:,.0f} MiB a step and device, {total / least[axis]:.2f} times the "
                         f"textbook's least{f'; most of it by gathering again, {again}' if again else ''}")
    return found


def _again(program, sent, axis: str) -> str:
    """The place of the parameters gathered most often beyond once forward and once backward; '' where there is none."""
    if axis != 'fsdp':
        return ''
    above, places = collections.Counter(), {}
    for c in sent:
        if c.kind == 'all-gather' and c.axes == (axis,):
            for s in c.shapes:
                above[math.prod(s)] += c.times / program.steps_per_call
                places.setdefault(math.prod(s), c.place)
    for p in program.layout.params.values():
        layers = p.shape[0] if 'layers' in p.names else 1
        split = math.prod(logical.size(program.mesh, a) for a in p.spec if a != axis)
        above[math.prod(p.shape) // layers // split] -= 2 * program.settings.accumulate * layers
    worst = max(above, key=lambda n: above[n] * n)
    return _short(places[worst]) if worst in places and above[worst] * worst * 2 > LARGE else ''


def _short(place: str) -> str:
    """The path without the layers' numbers and the wrappers, so that twelve layers are one place."""
    short = re.sub(r'block_\d+', 'block_*', place.replace('jit(call)/', '')) or 'an unnamed operation'
    return short if short.startswith('for ') else f'in {short}'


def _grouped(program, found) -> list:
    """((axes, place), wire bytes per step), the most first, at most six."""
    total = collections.Counter()
    for c in found:
        total[c.axes, _short(c.place)] += c.times * c.wire / program.steps_per_call
    return total.most_common(6)
