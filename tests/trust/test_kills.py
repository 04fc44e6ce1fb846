"""Straight = killed, bit for bit: SIGKILL at random moments of every phase, over runs with every kind of state.

Tried by breaking: the seed left out of the checkpoint, the save before the evaluators, lines of later steps not dropped.
"""
import json
import random
import re
import time

import pytest

from tests.trust import runs

MOMENTS = {'restore': 1, 'compile': 1, 'data': 48, 'step': 46, 'save': 6, 'evaluation': 4, 'report': 1, 'lines': 28}
SEEDS = 5
KILLED = 'SIGKILL at a random moment', 'the next start ends bit for bit as the run that was left alone'


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
def test_killed_and_started_again_it_is_the_run_that_was_left_alone(straight, tmp_path, tally, battery, kind, seed):
    rng, kills = random.Random(f'{kind} {seed} {battery}'), 0
    for again in range(4 if battery == 'full' else 1):
        phase = rng.choices(list(MOMENTS), [1, 1, 3, 6, 3, 3, 1, 6])[0]
        delay = rng.choice([0, rng.uniform(0, 0.3)])
        left = MOMENTS[phase] * (runs.STEPS - runs.saved(tmp_path / 'run')) // runs.STEPS
        code, out = runs.run(kind, tmp_path / 'run', trust=f'{phase}:{rng.randint(1, max(1, left))}:kill:{delay:.3f}')
        assert code == -9 or (code == 0 and (delay or again)), out[-3000:]  # it may come after the end of what was left
        kills += code == -9
    reached, ended = runs.reached(tmp_path / 'run'), code == 0
    with tally(*KILLED) as note:
        note(times=kills, exits=[-9] * kills)
        code, out = runs.run(kind, tmp_path / 'run')
        assert code == 0, out[-3000:]
        runs.assert_same(tmp_path / 'run', straight(kind))
        resumed = re.search(r'resuming from step (\d+)', out)
        lost = 0 if ended else max(0, reached - int(resumed[1]) if resumed else reached)
        assert lost <= 2 * runs.EVERY, (reached, out[-3000:])  # the newest save may have been under way
        note(worst={'steps done again': lost})


@pytest.mark.trust
def test_five_failures_and_the_time_of_all_starts_adds_up(tmp_path):
    """Goodput: five starts die between two checkpoints, after so many steps of theirs, and the sixth ends the run."""
    outside, starts = 0.0, (6, 5, 3, 5, 4)
    for done in (*starts, None):
        began = time.monotonic()
        code, out = runs.run('recurrent', tmp_path / 'run', trust=f'step:{2 * done}:kill' if done else '')
        outside += time.monotonic() - began
        assert code == (-9 if done else 0), out[-3000:]
    run = json.loads((tmp_path / 'run' / 'run.json').read_text())
    parts = run['seconds']
    assert run['starts'] == 6 and run['status'] == 'done'
    assert sum(parts.values()) == pytest.approx(run['wall_seconds'], rel=0.01)
    assert parts['lost'] > 0 and set(parts) >= {'compile', 'restore', 'data', 'step', 'evaluation', 'save', 'lost'}
    imports = 6 * 10.0  # before the clock of a start begins
    assert run['wall_seconds'] <= outside <= run['wall_seconds'] + imports, (outside, run['wall_seconds'], parts)
