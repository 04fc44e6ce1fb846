"""Straight = killed, bit for bit: SIGKILL at random moments of every phase, over runs with every kind of state.

Tried by breaking: the seed left out of the checkpoint, the save before the evaluators, lines of later steps not dropped.
"""
import random

import pytest

from tests.trust import runs

MOMENTS = {'restore': 1, 'compile': 1, 'data': 48, 'step': 46, 'save': 6, 'evaluation': 4, 'report': 1, 'lines': 28}
SEEDS = 5


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """{kind: the workdir of a run that was left alone}, made when it is asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp('straight') / 'run'
            code, out = runs.run(kind, made[kind])
            assert code == 0, out[-3000:]
        return made[kind]

    return of


@pytest.mark.trust
@pytest.mark.parametrize('seed', range(SEEDS))
@pytest.mark.parametrize('kind', runs.KINDS)
def test_killed_and_started_again_it_is_the_run_that_was_left_alone(straight, tmp_path, record_property, battery, kind, seed):
    rng, kills = random.Random(f'{kind} {seed} {battery}'), 0
    for _ in range(4 if battery == 'full' else 1):
        phase = rng.choices(list(MOMENTS), [1, 1, 3, 6, 3, 3, 1, 6])[0]
        delay = rng.choice([0, rng.uniform(0, 0.3)])
        code, out = runs.run(kind, tmp_path / 'run', trust=f'{phase}:{rng.randint(1, MOMENTS[phase])}:kill:{delay:.3f}')
        assert code == -9 or (code == 0 and delay), out[-3000:]  # a late one may come after the end
        kills += code == -9
    code, out = runs.run(kind, tmp_path / 'run')
    assert code == 0, out[-3000:]
    runs.assert_same(tmp_path / 'run', straight(kind))
    record_property('trust', {'kills tried': kills, 'kills survived': kills,
                              'of them resumed from a checkpoint': int('resuming from step' in out)})
