"""Gradients reduced over devices explicitly: once per step, and in a chosen dtype.

Under jit over a mesh the compiler decides where gradients are reduced: in every micro-batch of an accumulation, in the dtype of
the products. Here each device takes the whole step over its own part of the batch, and gradients and metrics are reduced once.
Models with batch statistics are refused, because per-device statistics would change the model. Each device draws the random
numbers of its own part (dropout, augmentation).
"""
from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec

from bigjax.errors import UserError
from bigjax.sharding import logical

DTYPES = ('float32', 'bfloat16')
AXIS = 'data'


def refuse_statistics(model_state, where: str) -> None:
    """Raises UserError where the model has a state: each device would compute it from its own part of the batch."""
    if model_state:
        raise UserError(f'{where}: got a model with batch statistics, expected one without: each device would compute its own; '
                        'fix: leave the sums to the compiler, --config.mesh=data:N', code='mesh/batch-statistics')


def explicit_reduce(step: Callable, mesh: Mesh, dtype: str) -> Callable:
    """Returns `whole(state, batch) -> (state, metrics)`, which runs `step(state, batch, reduce_fn)` on each device's rows.

    Args:
      step: `bigjax.train.step.train_step`, with all but its `reduce_fn` bound.
      dtype: of the gradients while they are summed, one of `DTYPES`; counts, losses and metrics stay float32.

    Raises:
      UserError: another axis of the mesh has a size, or, when it is called, the model keeps batch statistics.
    """
    others = [axis for axis in mesh.axis_names if axis != AXIS and mesh.shape[axis] > 1]
    if others or AXIS not in mesh.axis_names:
        axis = (others or mesh.axis_names)[0]
        raise UserError(f"config.reduce_dtype: got a mesh with the axis '{axis}', over which the compiler sums; fix: "
                        '--config.mesh=data:-1', code='mesh/reduce-dtype')

    def reduce_fn(sums):
        grads, *rest = sums
        grads = jax.tree.map(lambda g: jax.lax.psum(g.astype(dtype), AXIS).astype(g.dtype), grads)
        return grads, *jax.lax.psum(rest, AXIS)

    def part(state, batch):
        with logical.using(None):
            own = state.replace(key=jax.random.fold_in(state.key, jax.lax.axis_index(AXIS)))
            after, metrics = step(own, batch, reduce_fn)
        return after.replace(key=state.key), metrics

    def whole(state, batch):
        refuse_statistics(state.model_state, 'config.reduce_dtype')
        everywhere = PartitionSpec()
        return jax.shard_map(part, mesh=mesh, in_specs=(everywhere, PartitionSpec(AXIS)), out_specs=everywhere,
                             check_vma=False)(state, batch)

    return whole
