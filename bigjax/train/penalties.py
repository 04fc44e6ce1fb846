"""Decay, penalties and the bound on a unit's weights: they act on parameters beside an optimizer's own rule."""
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax

from bigjax.errors import UserError
from bigjax.sharding.tree_paths import map_leaves


def decay_factor(mults: Mapping, rank: Mapping, mask: str | None, place: str) -> Callable | None:
    """`factor(path)` on decay and penalties, or None where it is 1 everywhere.

    Args:
      mults: {path: factor}, from `wd_mults`.
      rank: {path: number of dimensions of one layer}.
      mask: `wd_mask`.
      place: the section of the config, for errors.
    """
    if mask not in (None, '', 'all', 'kernels'):
        raise UserError(f"{place}.wd_mask: got {mask!r}, expected 'all' or 'kernels'", code='optimizer/mask')
    if not mults and mask != 'kernels':
        return None
    return lambda path: 0.0 if mask == 'kernels' and rank[path] < 2 else mults.get(path, 1.0)


def add(term: Callable) -> optax.GradientTransformationExtraArgs:
    """Adds `term(path, w, step)` to every update."""

    def update(updates, step, params=None, **_):
        new = map_leaves(lambda path, w, u: u + term(path, w, step).astype(u.dtype), params, updates)
        return new, optax.safe_increment(step)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros([], jnp.int32), update)


def max_norm(radius, leads: Mapping[str, tuple[int, ...]]) -> optax.GradientTransformation:
    """The projection of each unit's incoming weights onto a ball, after the update.

    Args:
      leads: {path: sizes of the stacked axes}, from `bigjax.train.layers.leads`.
    """
    def one(path, w, u):
        first = len(leads[path])
        if w.ndim - first < 2:
            return u
        new = w + u
        norm = jnp.sqrt(jnp.sum(jnp.square(new), axis=tuple(range(first, w.ndim - 1)), keepdims=True))
        return jnp.where(norm > radius, new * (radius / norm) - w, u)  # where it does not bind, the update is exact
    return optax.stateless(lambda updates, params: map_leaves(one, params, updates))
