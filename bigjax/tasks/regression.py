"""Regression by squared error, and what Monte-Carlo dropout makes of it.

Glossary: B examples in a batch · N examples of a split · T stochastic passes. Targets stand in a batch in their own
unit; `mean` and `std` of the training targets map them to the network's scale and predictions back.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.tasks import Aux, Task, mask, weighted


def squared_error(x: str = 'x', target: str = 'target', mean=0.0, std=1.0) -> Task:
    """Squared error in units of `std`, averaged over an example's outputs.

    The model gives the target's shape, or that with a last axis of one. Metrics: mse and mae in the target's own unit.
    Predictions: in the target's own unit and shape.

    Args:
      x, target: keys of the batch.
      mean, std: of the training targets; numbers, or arrays that broadcast to a target.
    """
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def inputs(batch):
        return (batch[x],)

    def loss(apply, variables, batch, rng, train):
        output, state = apply(variables, batch[x], train=train, rng=rng)
        truth = batch[target].astype(jnp.float32)
        error = output.astype(jnp.float32).reshape(truth.shape) - (truth - mean) / std
        flat = lambda e: e.reshape(e.shape[0], -1).mean(axis=1)
        weights = mask(batch)
        metrics = {'mse': weighted(flat(jnp.square(error * std)), weights),
                   'mae': weighted(flat(jnp.abs(error * std)), weights)}
        return flat(optax.squared_error(error)), weights, Aux(state, metrics)

    def predict(apply, variables, batch):
        output = apply(variables, batch[x])[0].astype(jnp.float32)
        return _squeeze(output) * std + mean

    return Task(inputs, loss, predict)


def _squeeze(output):
    """[B, 1] -> [B]."""
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output


def mc_dropout(passes: int, x: str = 'x', mean=0.0, std=1.0, seed: int = 0, together: int = 100) -> Callable:
    """A `predict` for an evaluator: `passes` predictions with dropout on -> [B, T], in the target's own unit.

    Args:
      passes: T; Gal & Ghahramani 2016 take 10,000.
      x, mean, std: as in `squared_error`.
      seed: of the dropout masks.
      together: passes computed at once.
    """
    def predict(apply, variables, batch):
        def one(key):
            return _squeeze(apply(variables, batch[x], train=True, rng=key)[0].astype(jnp.float32))

        keys = jax.random.split(jax.random.key(seed), passes)
        return jnp.moveaxis(jax.lax.map(one, keys, batch_size=min(together, passes)), 0, 1) * std + mean

    return predict
