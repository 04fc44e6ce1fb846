"""Top-k accuracy.

Glossary: N examples of a split · K classes.
"""
from collections.abc import Sequence

import numpy as np


def top_k(outputs, examples, k: Sequence[int] = (1, 5), label: str = 'label') -> dict[str, float]:
    """{'top5': the share of examples whose label is among the five largest logits, …} for every number in `k`.

    A label counts as found when fewer than k other classes have a strictly larger logit, and ties are resolved in favour of the
    lower class, as `argmax` does.

    Args:
      outputs: logits [N, K].
      examples: with the int classes [N] under the key `label`.
    """
    logits, truth = np.asarray(outputs), np.asarray(examples[label]).reshape(-1, 1)
    own = np.take_along_axis(logits, truth, axis=1)
    ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < truth))
    rank = ahead.sum(axis=1)
    return {f'top{number}': float(np.mean(rank < number)) for number in k}
