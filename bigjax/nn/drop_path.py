"""Stochastic depth (Huang et al. 2016): residual branches that are left out for some of the training examples."""
import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """The branch [B, …], zero for a share `rate` of the examples and divided by 1 - rate for the others."""

    @nn.compact
    def __call__(self, branch: jax.Array, rate) -> jax.Array:
        kept = jax.random.bernoulli(self.make_rng('dropout'), 1 - rate, (branch.shape[0], *[1] * (branch.ndim - 1)))
        return jnp.where(kept, branch / jnp.asarray(1 - rate, branch.dtype), 0)


def drop_path(branch: jax.Array, rate, train: bool) -> jax.Array:
    """`DropPath` in training, the branch as it is otherwise.

    Called in the compact scope of a module; draws from the random numbers of 'dropout'.

    Args:
      rate: a number, or a traced one where the rates of several blocks are looped over.
    """
    if not train or (isinstance(rate, int | float) and not rate):
        return branch
    return DropPath()(branch, rate)


def drop_rates(last: float, blocks: int) -> list[float]:
    """The rate of each block, from zero at the first linearly to `last` (section 3.1: earlier features are kept more often)."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]
