"""Confusion counts of a classifier, and the error rate that follows from them.

Glossary: N examples of a split · K classes.
"""
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Confusion:
    """An artifact of a classifier's evaluation: counts[true, predicted], and the names of the classes."""

    counts: Any
    classes: Sequence[str]


def counts(outputs, labels, classes: int) -> np.ndarray:
    """counts[true, predicted], int64 [classes, classes], of logits [N, K] or of one binary logit [N]."""
    outputs = np.asarray(outputs)
    predicted = outputs.argmax(axis=-1) if outputs.ndim == 2 else (outputs > 0).astype(np.int64)
    cells = np.asarray(labels).reshape(-1).astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def confusion(outputs, examples, classes: Sequence[str], label: str = 'label') -> dict[str, Confusion]:
    """{'confusion': the counts of the logits of a whole split}."""
    return {'confusion': Confusion(counts(outputs, examples[label], len(classes)), tuple(classes))}


def error_rate(outputs, examples, classes: Sequence[str], label: str = 'label') -> dict:
    """{'error': wrong answers in percent, the unit of papers on images, 'confusion': the counts}."""
    found = confusion(outputs, examples, classes, label)
    cells = found['confusion'].counts
    return {'error': 100.0 * (1.0 - np.trace(cells) / cells.sum()), **found}
