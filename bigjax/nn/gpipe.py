"""Layers over the devices of the mesh axis 'stage', micro-batches through them (Huang et al. 2018, GPipe).

Glossary: L layers · S stages · M micro-batches.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bigjax.errors import UserError
from bigjax.sharding import logical


def pipeline(apply: Callable, params, x: jax.Array, microbatches: int = 0) -> jax.Array:
    """`apply(params of layer, x)` for every layer in turn: x [B, …] -> [B, …], as `lax.scan` over the layers would.

    In tick t stage s works on micro-batch t - s, so S - 1 of M + S - 1 ticks of a stage are idle.

    Args:
      params: a tree with a leading axis L, split over 'stage'.
      microbatches: M, which divides B; 0 for S.

    Raises:
      UserError: S does not divide L, or M does not divide B.
    """
    mesh = logical.current()
    stages = mesh.shape['stage']
    M, L = microbatches or stages, jax.tree.leaves(params)[0].shape[0]
    if L % stages:
        raise UserError(f"config.mesh: got 'stage' of {stages}, expected a divisor of the {L} layers; fix: use one",
                        code='mesh/impossible')
    if x.shape[0] % M:
        M = 1 if x.shape[0] < M else M
    if x.shape[0] % M:
        raise UserError(f'microbatches: got {M}, expected a divisor of the batch of {x.shape[0]}; fix: use a divisor',
                        code='mesh/impossible')

    def local(params, x):
        stage = jax.lax.axis_index('stage')
        parts = x.reshape(x.shape[0] // M, M, *x.shape[1:]).swapaxes(0, 1)  # each device deals its own rows
        layers = lambda y: jax.lax.scan(lambda y, p: (apply(p, y), None), y, params)[0]

        def tick(carry, t):
            received, done = carry
            fresh = jax.lax.dynamic_index_in_dim(parts, jnp.minimum(t, M - 1), keepdims=False)
            y = layers(jnp.where(stage == 0, fresh, received))
            place = jnp.maximum(t - (stages - 1), 0)
            done = jnp.where(t >= stages - 1, jax.lax.dynamic_update_index_in_dim(done, y, place, 0), done)
            return (jax.lax.ppermute(y, 'stage', [(i, i + 1) for i in range(stages - 1)]), done), None

        start = jnp.zeros_like(parts[0]), jnp.zeros_like(parts)
        (_, done), _ = jax.lax.scan(tick, start, jnp.arange(M + stages - 1))
        done = jax.lax.psum(jnp.where(stage == stages - 1, done, 0), 'stage')
        return done.swapaxes(0, 1).reshape(x.shape)

    with logical.using(None):  # inside, the other axes are the compiler's
        return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec('stage'), PartitionSpec()),
                             out_specs=PartitionSpec(), axis_names={'stage'}, check_vma=False)(params, x)
