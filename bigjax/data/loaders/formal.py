"""Strings of formal languages: the regular tasks of Delétang et al., "Neural Networks and the Chomsky Hierarchy" (2023).

A string is a row of tokens 1, 2, …, filled with 0 at its end, and its label a property of the whole string.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

POSITIONS = 5  # of the cycle


class Language(NamedTuple):
    """A task on strings: its letters (token t is letter t - 1), its classes, and `label(tokens [N, T]) -> [N]`."""

    letters: str
    classes: tuple[str, ...]
    label: Callable[[np.ndarray], np.ndarray]


def _even_pairs(tokens: np.ndarray) -> np.ndarray:
    """Whether the number of places where a follows b or b follows a is odd: whether the first and the last letter differ."""
    changes = (tokens[:, 1:] != tokens[:, :-1]) & (tokens[:, 1:] > 0)
    return changes.sum(axis=1) % 2


def _parity_check(tokens: np.ndarray) -> np.ndarray:
    """Whether the number of b's is odd."""
    return (tokens == 2).sum(axis=1) % 2


def _cycle_navigation(tokens: np.ndarray) -> np.ndarray:
    """The place on a cycle of five after steps of 0 (=), +1 (+) and -1 (-), from place 0."""
    return ((tokens == 2).sum(axis=1) - (tokens == 3).sum(axis=1)) % POSITIONS


LANGUAGES = {
    'even_pairs': Language('ab', ('even', 'odd'), _even_pairs),
    'parity_check': Language('ab', ('even', 'odd'), _parity_check),
    'cycle_navigation': Language('=+-', tuple(str(place) for place in range(POSITIONS)), _cycle_navigation)}
TRAIN, TEST = range(1, 41), range(41, 501)  # lengths
RECORDS, VAL_PER_LENGTH, PER_LENGTH = 2**18, 25, 4  # training strings of random lengths, and strings of each length
SIZES = {'train': RECORDS, 'val': VAL_PER_LENGTH * len(TRAIN), 'test': PER_LENGTH * len(TEST)}


def strings(name: str, lengths: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """{'tokens': int32 [N, the longest], 'label': int32 [N]} of N random strings of these lengths."""
    language, lengths = LANGUAGES[name], np.asarray(lengths)
    rng = np.random.default_rng([seed, *name.encode()])
    tokens = rng.integers(1, len(language.letters) + 1, (len(lengths), lengths.max()), np.int32)
    tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return {'tokens': tokens, 'label': language.label(tokens).astype(np.int32)}


def splits(name: str, seed: int = 0, records: int = RECORDS) -> dict[str, dict[str, np.ndarray]]:
    """{'train': strings of 1 to 40 letters, 'val': others of these lengths, 'test': of 41 to 500}."""
    drawn = np.random.default_rng([seed, 1]).choice(TRAIN, records)
    lengths = {'train': np.concatenate([drawn[1:], [TRAIN[-1]]]), 'val': np.repeat(TRAIN, VAL_PER_LENGTH),
               'test': np.repeat(TEST, PER_LENGTH)}
    return {split: strings(name, lengths[split], seed + number) for number, split in enumerate(lengths)}
