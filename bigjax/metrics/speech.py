"""Metrics of recognised speech: errors of words and of characters.

A rate is the number of edits of the whole split over the number of units of its references, so that long texts count for more.
"""
from collections.abc import Sequence

import numpy as np


def edits(found: Sequence, expected: Sequence) -> int:
    """The least number of substitutions, deletions and insertions between two sequences (Levenshtein 1966)."""
    row = np.arange(len(expected) + 1)
    names = {unit: i for i, unit in enumerate(dict.fromkeys([*found, *expected]))}
    reference = np.array([names[unit] for unit in expected], np.int64)
    steps = np.arange(len(expected) + 1)
    for i, unit in enumerate(found, 1):
        kept = np.minimum(row[1:] + 1, row[:-1] + (reference != names[unit]))
        # A run of insertions from any earlier cell: the least of row[j] - j, plus j
        row = np.minimum.accumulate(np.concatenate([[i], kept]) - steps) + steps
    return int(row[-1])


def word_errors(found: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """{'wer': edits of words over words of the references, 'cer': likewise of characters, 'exact_match': the share of equal
    texts}; words are separated by any blanks.

    An error rate may be above 1. References without a word at all have the rate 0 where nothing was recognised, else the number
    of edits.
    """
    pairs = [(' '.join(a.split()), ' '.join(b.split())) for a, b in zip(found, expected, strict=True)]
    words = sum(edits(a.split(), b.split()) for a, b in pairs) / max(1, sum(len(b.split()) for _, b in pairs))
    characters = sum(edits(a, b) for a, b in pairs) / max(1, sum(len(b) for _, b in pairs))
    return {'wer': words, 'cer': characters, 'exact_match': float(np.mean([a == b for a, b in pairs]))}
