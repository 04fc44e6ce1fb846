"""Averaged parameters: optimizers that train at one point and are evaluated at another.

`eval_params` finds the point to evaluate at in the optimizer's state, whatever wraps it: the average of schedule-free
methods, the slow weights of Lookahead, the mean of stochastic weight averaging.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AverageState(NamedTuple):
    """The state of an optimizer with averaged parameters.

    Attributes:
      average: the parameters to evaluate at.
      step: int32, updates so far.
      inner: the state of the optimizer inside.
    """

    average: Any
    step: jax.Array
    inner: Any


def swa(tx: optax.GradientTransformation, start: int, every: int = 1) -> optax.GradientTransformationExtraArgs:
    """Stochastic weight averaging (Izmailov et al., 2018, algorithm 1); Polyak averaging with `every=1`.

    The average is the mean of the parameters after steps start, start + every, …; before, it is the newest parameters.
    """
    def follow(average, new, step):
        models = (step - start) // every + 1  # in the mean, this one included
        due = (step >= start) & ((step - start) % every == 0)
        weight = jnp.where(step < start, 1.0, jnp.where(due, 1.0 / jnp.maximum(models, 1), 0.0))
        return average + weight.astype(new.dtype) * (new - average), new
    return _averaged(tx, follow)


def lookahead(tx: optax.GradientTransformation, period: int, step_size: float = 0.5) -> optax.GradientTransformationExtraArgs:
    """Lookahead (Zhang et al., 2019, algorithm 1).

    After every `period` steps the slow weights move by `step_size` towards the fast ones, which start again from there. The
    average is the slow weights.
    """
    def follow(average, new, step):
        due = step % period == 0
        slow = jnp.where(due, average + step_size * (new - average), average)
        return slow, jnp.where(due, slow, new)
    return _averaged(tx, follow)


def moving(tx: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """An exponential moving average of the parameters, from the initial ones on."""
    return _averaged(tx, lambda average, new, step: (average + (1 - decay) * (new - average), new))


def _averaged(tx, follow) -> optax.GradientTransformationExtraArgs:
    """`follow(average, parameters after the step, step number from 1) -> (average, parameters)`, leaf by leaf."""
    tx = optax.with_extra_args_support(tx)

    def init(params):
        return AverageState(jax.tree.map(jnp.array, params), jnp.zeros([], jnp.int32), tx.init(params))

    def update(updates, state, params=None, **extra):
        updates, inner = tx.update(updates, state.inner, params, **extra)
        step = state.step + 1

        def one(w, u, average):
            new = w + u
            average, target = follow(average, new, step)
            return average, u if target is new else jnp.where(target == new, u, target - w)

        flat, structure = jax.tree.flatten(params)
        pairs = [one(w, u, a) for w, u, a in
                 zip(flat, jax.tree.leaves(updates), jax.tree.leaves(state.average), strict=True)]
        average, updates = (jax.tree.unflatten(structure, part) for part in zip(*pairs, strict=True)) if flat else (
            params, updates)
        return updates, AverageState(average, step, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate at: `params` where the optimizer keeps no others. In a population, all members at once."""
    masked = lambda x: isinstance(x, optax.MaskedNode)
    for state in states(opt_state, (optax.contrib.ScheduleFreeState, AverageState)):
        if isinstance(state, AverageState):
            take, other = lambda average, w: w if masked(average) else average, state.average
        else:  # y = b1 x + (1 - b1) z (Defazio et al., 2024, eq. 4), of which x is the average
            def take(z, y, b1=state.b1):
                b1 = jnp.reshape(b1, (*jnp.shape(b1), *(1,) * (jnp.ndim(y) - jnp.ndim(b1))))
                return y if masked(z) else ((y - (1 - b1) * z) / b1).astype(y.dtype)
            other = state.z
        params = jax.tree.map(take, other, params, is_leaf=masked)
    return params


def states(opt_state: Any, kinds) -> list:
    """The outermost states of some classes in an optimizer's state."""
    return [x for x in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds)) if isinstance(x, kinds)]
