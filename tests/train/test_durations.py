"""Durations in every unit, their rounding, and their errors."""
import numpy as np
import pytest

from bigjax.train import durations
from tests.refused import refused

RUN = {'total_steps': 1000, 'steps_per_epoch': 50, 'batch_size': 32}


@pytest.mark.parametrize('duration, expected', [
    (200, 200), (200.0, 200), (np.int64(7), 7), ('200', 200), ('200 steps', 200), ('1 step', 1), ('1e3 steps', 1000),
    ('10_000', 10000), ('10 epochs', 500), ('1 epoch', 50), ('0.5 epochs', 25), ('2ep', 100), ('.5 ep', 25),
    ('3200 examples', 100), ('3200 ex', 100), ('1 example', 1), ('5%', 50), ('0.25 %', 3), ('2 percent', 20),
    (' 5 % ', 50), ('10 Epochs', 500), ('1. epochs', 50),
    ('', 0), (None, 0), (0, 0), ('0', 0), ('0 epochs', 0), ('0%', 0),
    ('0.001%', 1), ('1 ex', 1), ('0.031 epochs', 2),  # at least one step; to the nearest
    ('48 ex', 2), ('47 ex', 1),  # halves go up
])
def test_steps(duration, expected):
    result = durations.steps(duration, **RUN)
    assert result == expected
    assert type(result) is int


@pytest.mark.parametrize('duration', [
    'ten epochs', 'epochs', '5 minutes', '-1', -3, '-5%', 'nan', 'inf', float('nan'), float('inf'), True, [1], '%',
    '5 % epochs', '5e', 2.5, '2.5 steps', '1e', '1.2.3 epochs', '0x10'])
def test_errors_name_the_value(duration):
    with refused('duration/form', repr(duration)):
        durations.steps(duration, **RUN)


def test_an_error_lists_the_forms():
    with refused('duration/form', '5 minutes', '200 steps', '10 epochs', '5000 examples', '5%'):
        durations.steps('5 minutes', **RUN)


def test_units_that_have_no_meaning_here():
    with refused('duration/unit', '5%'):
        durations.steps('5%', steps_per_epoch=50, batch_size=32)
    with refused('duration/unit', '5 epochs'):
        durations.steps('5 epochs', total_steps=10)
    with refused('duration/unit', '5 ex'):
        durations.steps('5 ex', total_steps=10)
    assert durations.steps('50 steps') == 50
