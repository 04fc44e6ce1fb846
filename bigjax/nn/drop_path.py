"""Stochastic depth (Huang et al. 2016): residual branches that are left out for some of the training examples."""
import flax.linen as nn
import jax


def drop_path(branch: jax.Array, rate: float, train: bool) -> jax.Array:
    """The branch [B, …], in training zero for a share `rate` of the examples and divided by 1 - rate for the others.

    Called in the compact scope of a module; draws from the random numbers of 'dropout'.
    """
    if not rate:
        return branch
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, branch.ndim)), deterministic=not train)(branch)


def drop_rates(last: float, blocks: int) -> list[float]:
    """The rate of each block, from zero at the first linearly to `last` (section 3.1: earlier features are kept more often)."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]
