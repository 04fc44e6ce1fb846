"""Phases whose seconds add up, and their timeouts."""
import time

import pytest

from bigjax.watchdog import phases
from tests.refused import refused


def test_the_parts_add_up_to_the_time_that_passed():
    began, clock = time.monotonic(), phases.Clock()
    with clock.within('restore'):
        time.sleep(0.05)
        with clock.within('save'):
            time.sleep(0.02)
    clock.enter('step', 3)
    time.sleep(0.03)
    spent, wall = clock.spent(), time.monotonic() - began
    assert sum(spent.values()) == pytest.approx(wall, abs=0.005)
    assert spent['restore'] >= 0.05 and spent['save'] >= 0.02 and spent['step'] >= 0.03 and spent['restore'] < 0.07 + wall - 0.1
    assert clock.now.phase == 'step' and clock.now.step == 3


def test_the_next_round_of_a_phase_starts_its_time_anew():
    clock = phases.Clock()
    clock.enter('step', 1)
    time.sleep(0.02)
    clock.enter('step', 2)
    assert time.monotonic() - clock.now.since < 0.02 <= clock.spent()['step']


def test_timeouts_over_the_defaults():
    found = phases.phase_timeouts('step:2.5,save:0')
    assert found['step'] == 2.5 and 'save' not in found and found['compile'] == phases.TIMEOUTS_S['compile']


@pytest.mark.parametrize('text', ['step', 'step:soon', 'steps:3', 'step:-1', 'step:nan'])
def test_wrong_timeouts_are_refused(text):
    with refused('watchdog/phase-timeouts', text):
        phases.phase_timeouts(text)
