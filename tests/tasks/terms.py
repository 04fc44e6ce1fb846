"""A loss's only term, and the objective of a loss on one batch."""
import jax
import numpy as np

from bigjax.tasks import loss_metrics
from bigjax.tasks import mean as value_of


def evaluated(task, apply, variables, batch, rng=None, train=True):
    """The loss of a task in one compiled program; otherwise each of its operations is compiled by itself."""
    return jax.jit(lambda variables, batch, rng: task.loss(apply, variables, batch, rng, train))(variables, batch, rng)


def only(result):
    """(values, weights, aux) of a loss with a single term."""
    terms, aux = result
    (term,) = terms.values()
    return term.values, term.weights, aux


def objective(result):
    """The objective of one batch."""
    return value_of(loss_metrics(result[0])['loss'])


def mean(values, weights) -> float:
    """Σ w·v / Σ w in float64."""
    return float((np.asarray(values, np.float64) * weights).sum() / np.sum(weights))
