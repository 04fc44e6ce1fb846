"""Saves checkpoints as fast as it can until it is killed, and prints which ones are finished: the subject of `test_saves`.

    python -m tests.trust.saver WORKDIR
"""
import sys

import jax
import jax.numpy as jnp

from bigjax.checkpoint.manager import Checkpoints


def tree(step: int) -> dict:
    """Arrays filled with the number of their step."""
    return {'state': {'params': {f'layer_{i}': jnp.full((64, 64), step, jnp.float32) for i in range(8)}}}


def main(workdir: str) -> None:
    """Saves, beginning after the newest good checkpoint."""
    keeper = Checkpoints(workdir)
    step = max([0, *keeper.steps()])
    if step:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree(0))
        read = keeper.restore(step, like)['state']['params']
        assert all((x == step).all() for x in jax.tree.leaves(read)), 'a checkpoint of two steps'
    print(f'found {step}', flush=True)
    while True:
        step += 1
        keeper.save(step, tree(step))
        if step > 1:
            print(f'saved {step - 1}', flush=True)  # `save` waits for the one before


if __name__ == '__main__':
    main(sys.argv[1])
