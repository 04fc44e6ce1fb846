"""Sweeps as data: which arms there are, and which of them may train together. Nothing is run here (see launch/sweep.py).

An arm is {key of the config: value}, with 'variant' for the experiment's own. A sweep is a list of arms, so that the functions
below compose: `product(grid({'optimizer.lr': (0.1, 0.01)}), zipped({'batch_size': (64, 128), 'steps': (2000, 1000)}))`, and
`grid(…) + [{'optimizer.lr': 1.0}]` adds one. An experiment offers its own as `sweep()`.
"""
import hashlib
import json
import math
import random as randoms
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bigjax.errors import UserError

Arm = dict[str, Any]


def grid(values: Mapping[str, Iterable]) -> list[Arm]:
    """Every combination, the last key fastest."""
    arms: list[Arm] = [{}]
    for key, choices in values.items():
        arms = [{**arm, key: choice} for arm in arms for choice in tuple(choices)]
    return arms


def zipped(values: Mapping[str, Sequence]) -> list[Arm]:
    """The first of each, the second of each, …

    Raises:
      UserError: they are not equally many.
    """
    columns = {key: tuple(choices) for key, choices in values.items()}
    if len(counts := {len(choices) for choices in columns.values()}) > 1:
        lengths = ', '.join(map(str, sorted(counts)))
        raise UserError(f'zipped: {", ".join(columns)} have {lengths} values; fix: give as many of each', code='sweep/counts')
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def random(count: int, draws: Mapping[str, Callable[[randoms.Random], Any] | Sequence], seed: int = 0) -> list[Arm]:
    """`count` arms, each value drawn by a function of a `random.Random` (`uniform`, `log_uniform`), or from a sequence.

    The same seed gives the same arms, and a larger count begins with those of a smaller one.
    """
    generator = randoms.Random(seed)
    draw = lambda how: how(generator) if callable(how) else generator.choice(tuple(how))
    return [{key: draw(how) for key, how in draws.items()} for _ in range(count)]


def uniform(low: float, high: float) -> Callable[[randoms.Random], float]:
    """For `random`: anything between, three digits."""
    return lambda generator: float(f'{generator.uniform(low, high):.3g}')


def log_uniform(low: float, high: float) -> Callable[[randoms.Random], float]:
    """For `random`: anything between, each order of magnitude as likely, three digits."""
    return lambda generator: float(f'{math.exp(generator.uniform(math.log(low), math.log(high))):.3g}')


def product(*sweeps: Sequence[Arm]) -> list[Arm]:
    """Each arm of one with each arm of the others."""
    arms: list[Arm] = [{}]
    for sweep in sweeps:
        arms = [{**arm, **other} for arm in arms for other in sweep]
    return arms


def name(arm: Mapping[str, Any]) -> str:
    """An arm's folder: the same for the same values in any order, and readable, 'optimizer.lr=0.1,seed=0'."""
    text = ','.join(f'{key}={arm[key]}' for key in sorted(arm)) or 'as-it-is'
    plain = re.sub(r'[^\w.,=+-]+', '-', text)
    if plain == text and len(text) <= 100:
        return text
    return f"{plain[:80]}-{hashlib.sha256(json.dumps(arm, sort_keys=True, default=str).encode()).hexdigest()[:8]}"


def flags(arm: Mapping[str, Any]) -> list[str]:
    """The flags that an arm adds to its experiment's command."""
    return [f'--{key}={value}' if key == 'variant' else f'--config.{key}={value}' for key, value in arm.items()]


def together(arms: Sequence[Mapping[str, Any]], numbers: Iterable[str]) -> list[list[int]]:
    """Groups of arms, by their places, that can share one compiled step: they differ in the seed and in `numbers` alone."""
    own = {'seed', *numbers}
    groups: dict[str, list[int]] = {}
    for place, arm in enumerate(arms):
        differs = tuple(sorted(key for key in arm if key in own))  # members of a population set the same keys
        rest = json.dumps({key: value for key, value in arm.items() if key not in own}, sort_keys=True, default=str)
        groups.setdefault(f'{differs} {rest}', []).append(place)
    return list(groups.values())
