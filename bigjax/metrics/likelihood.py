"""Metrics of log-likelihoods: perplexity per token, negative log-likelihood per example.

Glossary: N examples of a split · T tokens of a window.
"""
import numpy as np


def perplexity(outputs, examples, ignore: int | None = -1, targets: str = 'targets') -> dict[str, float]:
    """{'perplexity': exp of the mean nats per token} of log-likelihoods [N, T], 0 where a token is ignored.

    Args:
      ignore: the target that does not count, for which the evaluator keeps the key `targets`; None counts all.
    """
    nats = -np.asarray(outputs, np.float64)
    count = nats.size if ignore is None else np.count_nonzero(np.asarray(examples[targets]) != ignore)
    return {'perplexity': float(np.exp(nats.sum() / count))}


def nll(outputs, examples) -> dict[str, float]:
    """{'nll': nats per example} of log-likelihoods [N]."""
    return {'nll': float(-np.mean(np.asarray(outputs, np.float64)))}
