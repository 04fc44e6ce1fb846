"""Setups that are possible and hardly meant: one line each at the start of a run, or a refusal where they were written down."""
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigjax.data import sources
from bigjax.errors import UserError
from bigjax.experiment import Data, Experiment
from bigjax.train import schedules
from bigjax.train.param_rules import as_spec
from bigjax.train.settings import Settings

LENGTH = ('steps', 'batch_size', 'data')  # keys that decide how long a run is


def lines(experiment: Experiment, settings: Settings) -> list[str]:
    """The warnings of a run."""
    found = [repeats(experiment.data, settings.batch_size), one_class(experiment.data)]
    found += [f'{key}: {settings.steps:,} steps end before its {at:,}' for key, at in unreached(experiment, settings)]
    return [f'warning: {line}' for line in found if line]


def repeats(data: Data, batch_size: int) -> str:
    """A warning where a batch holds more examples than there are, else ''."""
    if batch_size <= data.size:
        return ''
    return (f'config.batch_size: {batch_size} is more than the {data.size} training examples, so every batch holds each of '
            f'them {batch_size / data.size:.3g} times; --config.batch_size={data.size} is one epoch per step')


def one_class(data: Data) -> str:
    """A warning where all training examples have one label, else ''; sources that open late stay closed."""
    if isinstance(data.train, sources.LazySource):
        return ''
    labels = sources.labels(data.train)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in 'iu' or len(labels) < 2:
        return ''
    if (labels != labels[0]).any():
        return ''
    return f'config.data: all {len(labels):,} training examples have the label {labels[0]}, so there is nothing to tell apart'


def check_schedule(experiment: Experiment, settings: Settings, differs: Mapping[str, Any]) -> None:
    """Raises UserError where a part of the learning rate's schedule lies after the last step.

    The setup of a paper, tried with fewer steps, is allowed: there `lines` warns.

    Args:
      differs: the keys in which the config is not the script's.
    """
    shortened = any(key in differs for key in LENGTH) and not any(key.startswith('optimizer.schedule') for key in differs)
    for key, at in () if shortened else unreached(experiment, settings):
        raise UserError(f'config.{key}: got {at:,} steps of a run of {settings.steps:,}, expected at most those; fix: '
                        f'--config.{key}=… below them, or more --config.steps', code='schedule/beyond')


def unreached(experiment: Experiment, settings: Settings) -> Iterator[tuple[str, int]]:
    """(key, step) of the parts of schedules that lie after the last step."""
    spec = as_spec(experiment.optimizer)
    parts = {'optimizer': spec} if not spec.get('groups') else {
        f'optimizer.groups[{i}]': ChainMap(as_spec(group), spec) for i, (_, group) in enumerate(spec['groups'])}
    for place, part in parts.items():
        for key, at in schedules.spans(part.get('schedule'), total_steps=settings.steps, batch_size=settings.batch_size,
                                       steps_per_epoch=settings.steps_per_epoch):
            if at > settings.steps:
                yield f'{place}.schedule.{key}', at
