"""The same train step under `jax.pmap`: data parallel only, for comparison and for code that is written in pmap.

`jit` over a mesh is the real path, and has every mode. Here each device sees its own part of the batch and sums are reduced
explicitly. Models with batch statistics are refused, because per-device statistics would change the model; each device draws
the random numbers of its own part (dropout, augmentation).
"""
from collections.abc import Callable

import jax
import numpy as np

from bigjax.errors import UserError
from bigjax.sharding.explicit_reduce import refuse_statistics

AXIS = 'devices'


def pmapped(program, devices=None) -> Callable:
    """`step(state, batch) -> (state, metrics)` over local devices (None: all).

    Args:
      program: of one member, on the mesh data:1.

    Raises:
      UserError: the model keeps batch statistics, or the program is on several devices already.
    """
    if program.mesh.size > 1 or program.members:
        raise UserError('pmap: got a program of several devices or members, expected one: pmap divides the batch itself; '
                        'fix: --config.mesh=data:1', code='mesh/pmap')
    state, *_ = program.arguments()
    refuse_statistics(state.model_state, 'pmap')

    def one(state, batch):
        return program.step(state, batch, reduce_fn=lambda sums: jax.lax.psum(sums, AXIS))

    return jax.pmap(one, AXIS, devices=devices, donate_argnums=0)


def replicate(state, devices):
    """The state with a leading axis of devices, one copy on each."""
    return jax.pmap(lambda _, x: x, in_axes=(0, None), devices=devices)(np.arange(len(devices)), state)


def shard(batch, count: int):
    """{name: [B, …]} -> {name: [devices, B / devices, …]}."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
