"""Regression by squared error, and predictions by Monte-Carlo dropout.

Glossary: B examples in a batch · T stochastic passes. A batch holds targets in their own unit; `mean` and `std` of the training
targets map them to the network's scale, and predictions back.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.tasks import Aux, Task, Term, check_shape, mask, of_parts, weighted
from bigjax.tasks.tokens import beside


def squared_error(x: str = 'x', target: str = 'target', mean=0.0, std=1.0) -> Task:
    """Squared error in units of `std`, averaged over an example's outputs.

    The model gives the target's shape; a last axis of one may be missing on either side. Metrics: mse and mae in the target's
    own unit. Predictions: in the target's own unit, without a last axis of one.

    Args:
      x, target: keys of the batch.
      mean, std: of the training targets; numbers, or arrays that broadcast to a target.
    """
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def loss(apply, variables, batch, rng, train):
        output, state = apply(variables, batch[x], **beside(batch), train=train, rng=rng)
        truth, weights = batch[target].astype(jnp.float32), mask(batch)
        check_shape("the model's output", _squeeze(output), _squeeze(truth).shape)
        error = output.astype(jnp.float32).reshape(truth.shape) - (truth - mean) / std
        per_example = lambda e: e.reshape(e.shape[0], -1).mean(axis=1)
        metrics = {'mse': weighted(per_example(jnp.square(error * std)), weights),
                   'mae': weighted(per_example(jnp.abs(error * std)), weights)}
        return {'squared_error': Term(per_example(optax.squared_error(error)), weights)}, Aux(state, metrics)

    def predict(apply, variables, batch, rng):
        return _squeeze(apply(variables, batch[x], **beside(batch), rng=rng)[0].astype(jnp.float32)) * std + mean

    def ranges(output):
        of_parts(output)
        return {}

    return Task(lambda batch: (batch[x],), loss, predict, ranges=ranges)


def _squeeze(output):
    """[B, 1] -> [B]."""
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output


def mc_dropout(passes: int, x: str = 'x', mean=0.0, std=1.0, together: int = 100) -> Callable:
    """A `predict` for an evaluator: `passes` predictions with dropout on -> [B, T], in the target's own unit.

    Args:
      passes: T; Gal & Ghahramani 2016 take 10,000.
      x, mean, std: as in `squared_error`.
      together: the number of passes computed at once.
    """
    def predict(apply, variables, batch, rng):
        def one_pass(key):
            return _squeeze(apply(variables, batch[x], train=True, rng=key)[0].astype(jnp.float32))

        draws = jax.lax.map(one_pass, jax.random.split(rng, passes), batch_size=min(together, passes))
        return jnp.moveaxis(draws, 0, 1) * std + mean

    return predict
