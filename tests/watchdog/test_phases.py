"""Where the time goes: phases that add up, budgets, and what is lost with a process."""
import time

import pytest

from bigjax.errors import UserError
from bigjax.watchdog import phases


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


def test_budgets_over_the_defaults():
    found = phases.budgets('step:2.5,save:0')
    assert found['step'] == 2.5 and 'save' not in found and found['compile'] == phases.BUDGETS['compile']


@pytest.mark.parametrize('text', ['step', 'step:soon', 'steps:3', 'step:-1', 'step:nan'])
def test_budgets_that_are_none(text):
    with pytest.raises(UserError, match='PHASE:SECONDS'):
        phases.budgets(text)
