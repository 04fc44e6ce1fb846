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


def rmse(outputs, examples, target: str = 'target') -> dict[str, float]:
    """{'rmse': root mean squared error of a whole split}, for an evaluator's `compute`."""
    truth = np.asarray(examples[target], np.float64)
    error = np.asarray(outputs, np.float64).reshape(truth.shape) - truth
    return {'rmse': float(np.sqrt(np.mean(np.square(error))))}


def predictive(outputs, examples, tau: float, target: str = 'target') -> dict[str, float]:
    """RMSE of the mean over passes, and the predictive log-likelihood per example (Gal & Ghahramani 2016, eq. 8).

    ll = logsumexp_t(-tau/2 (y - y_t)²) - log T - log(2 pi)/2 + log(tau)/2

    Args:
      outputs: [N, T] predictions of `mc_dropout`.
      examples: with the targets [N] or [N, 1].
      tau: precision of the observations, in the target's own unit.

    Returns:
      {'rmse': …, 'log_likelihood': …}, the latter in nats.
    """
    truth = np.asarray(examples[target], np.float64).reshape(-1)
    draws = np.asarray(outputs, np.float64)
    passes = draws.shape[1]
    ll = np.logaddexp.reduce(-0.5 * tau * np.square(truth[:, None] - draws), axis=1)
    ll = ll - np.log(passes) - 0.5 * np.log(2 * np.pi) + 0.5 * np.log(tau)
    return {**rmse(draws.mean(axis=1), examples, target), 'log_likelihood': float(ll.mean())}
