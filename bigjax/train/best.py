"""The best weights so far: the metric that judges them, and the weights that a run reports.

`config.best` is a metric, with a direction where the metric carries none: 'val/loss', 'max val/map', 'min test/cost'. The
carry of training then holds a copy of the weights, for every member of a population its own:

    {'value': float32, 'step': int32, 'variables': …}

"No best yet" is a state of its own: `value` is NaN, and `step` is that of the first evaluation, 0 before there was one. A value
that is not finite is never the best, so NaN cannot hide a result and +inf cannot win forever; patience counts from the first
evaluation, and until one was finite the newest weights are the ones reported.

The copy is the only mechanism: a checkpoint of its own for the best weights could not hold each member's best, and
`best='train/loss'` (judged at every log, thousands of times in a run) would save the whole state as often.
"""
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import metrics
from bigjax.errors import UserError
from bigjax.experiment import Evaluator
from bigjax.io.text import nearest, printable

DIRECTIONS = {'max': True, 'min': False}


class Best(NamedTuple):
    """The metric that judges the weights, and whether more of it is better."""

    metric: str
    higher: bool


def parse(text: str) -> tuple[str, str]:
    """'max val/map' -> ('val/map', 'max'); without a direction the second is ''.

    Raises:
      UserError: it is neither a metric nor a direction and a metric.
    """
    if not text:
        return '', ''
    direction, _, metric = text.strip().rpartition(' ')
    if direction not in ('', *DIRECTIONS) or not re.fullmatch(r'[^\s/]+/\S+', metric):
        raise UserError(f"config.best: got '{printable(text)}', expected SPLIT/METRIC, or 'max' or 'min' and that; fix: write "
                        "for example --config.best='max val/accuracy'", code='config/best')
    return metric, direction


def checked(text: str) -> str:
    """The text of `config.best`, once its form is right; `resolve` checks its metric when the evaluators are known."""
    parse(text)
    return text


def resolve(text: str, evaluators: Mapping[str, Evaluator], known: set[str], open_splits: set[str]) -> Best | None:
    """The metric that `config.best` names, with its direction.

    Args:
      known: the metrics that training and the evaluators will have.
      open_splits: the splits whose evaluators also have a `compute`, which names its metrics when it is called.

    Raises:
      UserError: no such metric (the nearest is named), or nothing gives its direction.
    """
    metric, direction = parse(text)
    if not metric:
        return None
    split, _, name = metric.partition('/')
    if metric not in known and split not in open_splits:
        raise missing(metric, known)
    declared = {key: way for e in evaluators.values() if e.split == split for key, way in e.better.items()}
    way = declared.get(name) or metrics.better(name)
    tails = [other.partition('/')[2] for other in known if other.startswith(f'{split}/')]
    if not direction and not way and metric not in known and nearest(name, tails):
        raise missing(metric, known)  # of 'test/acc' the direction is not what is wrong
    if not direction and not way:
        raise UserError(f"config.best: got '{metric}', of which neither its evaluator (better) nor bigjax.metrics gives a "
                        f"direction; fix: --config.best='max {metric}' or 'min {metric}'", code='config/best-direction')
    return Best(metric, DIRECTIONS[direction] if direction else way == 'higher')


def missing(metric: str, known) -> UserError:
    """The error for a metric that a run does not have."""
    near = nearest(metric, sorted(known), 0.4)
    hint = f'fix: --config.best={near}' if near else 'fix: name one of them'
    return UserError(f"config.best: got '{printable(metric)}', expected one of {', '.join(sorted(known))}; {hint}",
                     code='config/best-metric')


def none_yet(state) -> dict:
    """The carry's 'best' before the first evaluation of one member; the weights only hold the place."""
    return {'value': jnp.float32(jnp.nan), 'step': jnp.int32(0), 'variables': jax.tree.map(jnp.copy, state.variables())}


def update(best: dict, value, state, higher: bool) -> dict:
    """`best` after `value` was measured of the weights of `state`; one member."""
    value = jnp.asarray(value, jnp.float32)
    none = ~jnp.isfinite(best['value'])  # checkpoints of earlier versions have an infinity here
    better = jnp.isfinite(value) & (none | (value > best['value'] if higher else value < best['value']))
    judged = better | (none & (best['step'] == 0))
    new = jax.tree.map(lambda a, b: jnp.where(better, a, b), state.variables(), best['variables'])
    return {'value': jnp.where(better, value, jnp.where(none, jnp.nan, best['value'])).astype(jnp.float32),
            'step': jnp.where(judged, state.step, best['step']), 'variables': new}


def reported(best: dict, newest: dict) -> dict:
    """The best weights, or the newest ones where no value was finite; one member."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(best['value']), a, b), best['variables'], newest)


def stale(best: dict, step: int, patience: int) -> bool:
    """Whether no member has improved for `patience` steps; never before the first evaluation."""
    since = np.atleast_1d(np.asarray(best['step']))
    return bool(np.all((since > 0) & (step - since > patience)))


def never_finite(best: dict) -> list[int]:
    """The members of which no value was finite."""
    return np.flatnonzero(~np.isfinite(np.atleast_1d(np.asarray(best['value'])))).tolist()
