"""The least that a step sends along each axis of the mesh: the textbook's bytes per device, by ring algorithms.

P is the bytes of the parameters and A those of the activations between blocks, both in the dtype of the computation and of
one device's part; n is the size of the axis.
"""
import math
from typing import NamedTuple

import jax.numpy as jnp

from bigjax.sharding import logical
from bigjax.train.flops import cost_hints


class Minimum(NamedTuple):
    """`bytes` received by a device in a step along `axes`, and the reasoning."""

    axes: tuple[str, ...]
    bytes: float
    why: str


def textbook(program) -> list[Minimum]:
    """The minimum for every axis of the mesh larger than one; without axes that have no formula ('stage'), and without the
    activations of a model that has no `cost_hints`."""
    mesh, hints = program.mesh, cost_hints(program)
    item = jnp.dtype(getattr(program.experiment.model, 'dtype', None) or jnp.float32).itemsize
    found = _parameters(program, item)
    if hints:
        rows = program.settings.batch_size / logical.size(mesh, logical.batch_axes(mesh))
        found += _activations(mesh, hints, rows * hints.positions / mesh.shape.get('seq', 1) * hints.width * item)
    return [m for m in found if m.bytes]


def _parameters(program, item) -> list[Minimum]:
    """fsdp: 2 (n-1)/n P of gathers for every micro-batch and (n-1)/n P of one scattered sum (Rajbhandari et al. 2020,
    section 7.2.2). Other axes that share a batch: 2 (n-1)/n P, one sum of gradients."""
    mesh, sums, split = program.mesh, {}, 0.0
    gathers = 2 * program.settings.accumulate
    for p in program.layout.params.values():
        used = {a for axis in p.spec for a in ([axis] if isinstance(axis, str) else axis or ())}
        rest = math.prod(p.shape) * item * program.settings.population / math.prod(mesh.shape[a] for a in used - {'fsdp'})
        if 'fsdp' in used:
            n = mesh.shape['fsdp']
            split += (gathers + 1) * rest * (n - 1) / n
            rest /= n
        axes = tuple(a for a in mesh.axis_names if a in (*logical.BATCH, 'seq') and a not in used and mesh.shape[a] > 1)
        if axes:
            n = math.prod(mesh.shape[a] for a in axes)
            sums[axes] = sums.get(axes, 0.0) + 2 * rest * (n - 1) / n
    why = f'(n-1)/n x parameters x ({gathers} gathers and one scattered sum of gradients)'
    return [Minimum(('fsdp',), split, why), *(Minimum(axes, b, '2 (n-1)/n x parameters: one sum of gradients')
                                              for axes, b in sums.items())]


def _activations(mesh, hints, activations) -> list[Minimum]:
    """tensor: two sums forward and two backward a layer (Shoeybi et al. 2019, section 3). expert: two exchanges forward and
    two backward (Lepikhin et al. 2020, section 3.2). seq: keys and values round, and with their gradients back (Liu et al.
    2023, section 3)."""
    share = lambda axis: (mesh.shape.get(axis, 1) - 1) / mesh.shape.get(axis, 1)
    keys, layers = hints.kv_heads / hints.heads, hints.layers
    return [
        Minimum(('tensor',), 4 * 2 * share('tensor') * activations * layers, '8 (n-1)/n x activations x layers'),
        Minimum(('expert',), 4 * share('expert') * hints.experts_per_token * activations * layers,
                '4 (n-1)/n x activations x experts of a token x layers'),
        Minimum(('seq',), 6 * share('seq') * mesh.shape.get('seq', 1) * keys * activations * layers,
                '6 (n-1) x keys (or values) of a part x layers')]
