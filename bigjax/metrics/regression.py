"""Metrics of regression: root mean squared error, and the predictive likelihood of stochastic passes.

Glossary: N examples of a split · T stochastic passes.
"""
import numpy as np


def rmse(outputs, examples, target: str = 'target') -> dict[str, float]:
    """{'rmse': the root mean squared error of a whole split}."""
    truth = np.asarray(examples[target], np.float64)
    error = np.asarray(outputs, np.float64).reshape(truth.shape) - truth
    return {'rmse': float(np.sqrt(np.mean(np.square(error))))}


def predictive(outputs, examples, tau: float, target: str = 'target') -> dict[str, float]:
    """RMSE of the mean over passes, and the predictive log-likelihood per example (Gal & Ghahramani 2016, eq. 8).

    ll = logsumexp_t(-tau/2 (y - y_t)²) - log T - log(2 pi)/2 + log(tau)/2

    Args:
      outputs: predictions [N, T] of `bigjax.tasks.regression.mc_dropout`.
      examples: with the targets [N] or [N, 1].
      tau: the precision of the observations, in the target's own unit.

    Returns:
      {'rmse': …, 'log_likelihood': nats}.
    """
    truth = np.asarray(examples[target], np.float64).reshape(-1)
    draws = np.asarray(outputs, np.float64)
    passes = draws.shape[1]
    ll = np.logaddexp.reduce(-0.5 * tau * np.square(truth[:, None] - draws), axis=1)
    ll = ll - np.log(passes) - 0.5 * np.log(2 * np.pi) + 0.5 * np.log(tau)
    return {**rmse(draws.mean(axis=1), examples, target), 'log_likelihood': float(ll.mean())}
