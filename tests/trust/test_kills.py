"""Straight = killed, bit for bit: SIGKILL at random moments of every phase, over runs with every kind of state.

Tried by breaking: the seed left out of the checkpoint, the save before the evaluators, lines of later steps not dropped.
"""
import json
import random
import re
import shutil
import time

import pytest

from bigjax.runs import lock
from tests.trust import runs

# How many of each phase a run has, of which one is drawn; and how often each phase has its turn in the short battery.
MOMENTS = {'restore': 1, 'compile': 1, 'data': 48, 'step': 46, 'save': 6, 'evaluation': 4, 'report': 1, 'lines': 28}
TURNS = {'restore': 1, 'compile': 2, 'data': 3, 'step': 4, 'save': 4, 'evaluation': 3, 'report': 1, 'lines': 2}
SEEDS = 5
KILLED = 'SIGKILL at a random moment', 'the next start ends bit for bit as the run that was left alone'


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """`straight(kind)`: the workdir of a run that was left alone, made at the first call."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp('straight') / 'run'
            code, out = runs.run(kind, made[kind])
            assert code == 0, out[-3000:]
        return made[kind]

    return of


def turn(kind: str, seed: int) -> str:
    """The phase of a first kill: the short battery has each of `TURNS`."""
    turns = [phase for phase, many in TURNS.items() for _ in range(many)]
    random.Random(0).shuffle(turns)
    return turns[list(runs.KINDS).index(kind) * SEEDS + seed]


@pytest.mark.trust
@pytest.mark.parametrize('seed', range(SEEDS))
@pytest.mark.parametrize('kind', runs.KINDS)
def test_killed_and_started_again_it_is_the_run_that_was_left_alone(straight, tmp_path, tally, battery, kind, seed):
    """The first start is killed at a moment of the phase whose turn it is; with seed 0, the next one while it restores."""
    rng, workdir = random.Random(f'{kind} {seed} {battery}'), tmp_path / 'run'
    phases = [turn(kind, seed), *(['restore'] if seed == 0 else [])]
    if battery == 'full':
        phases += rng.choices(list(MOMENTS), [1, 1, 3, 6, 3, 3, 1, 6], k=4 - len(phases))
    kills = 0
    for again, phase in enumerate(phases):
        left = MOMENTS[phase] * (runs.STEPS - runs.saved(workdir)) // runs.STEPS
        moment = f'{phase}:{rng.randint(1, max(1, left))}:kill'
        code, out = runs.run(kind, workdir, trust=f'{moment}:{rng.choice([0, rng.uniform(0, 0.3)]):.3f}')
        if code == 0 and not again:  # it came after the end
            shutil.rmtree(workdir)
            code, out = runs.run(kind, workdir, trust=moment)
        assert code == -9 or (code == 0 and again), out[-3000:]
        kills += code == -9
    with tally(*KILLED) as note:
        note(times=kills, exits=[-9] * kills)
        reached, ended = runs.reached(workdir), code == 0
        code, out = runs.run(kind, workdir)
        assert code == 0, out[-3000:]
        runs.assert_same(workdir, straight(kind))
        resumed = re.search(r'resuming from step (\d+)', out)
        ended |= 'this run is done' in out  # killed while its report was drawn
        lost = 0 if ended else max(0, reached - int(resumed[1]) if resumed else reached)
        assert lost <= 2 * runs.EVERY, (reached, out[-3000:])  # an interval, and that of a save that was under way
        note(worst={'steps done again': lost})


@pytest.mark.trust
def test_the_time_of_all_starts_adds_up_however_they_end(tmp_path, tally):
    """Goodput: three starts are killed between two checkpoints, one is asked to stop, one fails, and the last ends the run."""
    ends = {'step:12:kill': -9, 'step:10:term': 75, 'step:8:raise': 1, 'step:10:kill': -9, 'step:6:kill': -9, '': 0}
    outside = 0.0
    with tally('six starts, of which five die, stop or fail', 'the seconds in run.json are those that passed outside') as note:
        for harm, code in ends.items():
            began = time.monotonic()
            found, out = runs.run('recurrent', tmp_path / 'run', trust=harm)
            outside += time.monotonic() - began
            note(exits=[found])
            assert found == code, out[-3000:]
        run = json.loads((tmp_path / 'run' / 'run.json').read_text())
        parts = run['seconds']
        assert run['starts'] == len(ends) and run['status'] == 'done'
        assert sum(parts.values()) == pytest.approx(run['wall_seconds'], rel=0.01)
        assert parts['lost'] > 0 and set(parts) >= {'start', 'compile', 'restore', 'data', 'step', 'evaluation', 'save', 'lost'}
        unseen = outside - run['wall_seconds']
        unseen_each = lock.HEARTBEAT_S + 1.0
        assert -0.01 * outside <= unseen <= 0.01 * outside + len(ends) * unseen_each, (outside, run['wall_seconds'], parts)
        note(worst={'s per start outside the record': unseen / len(ends)})


@pytest.mark.trust
def test_the_time_of_a_long_step_in_which_it_was_killed_is_lost_and_not_forgotten(tmp_path):
    began = time.monotonic()
    process, = runs.start('recurrent', tmp_path / 'run', trust='step:14:sleep')
    while runs.reached(tmp_path / 'run') < 6:
        time.sleep(0.1)
    time.sleep(8)
    process.kill()
    process.communicate()
    outside = time.monotonic() - began
    code, out = runs.run('recurrent', tmp_path / 'run')
    assert code == 0, out[-3000:]
    lost = json.loads((tmp_path / 'run' / 'run.json').read_text())['seconds']['lost']
    assert lost >= 8 - lock.HEARTBEAT_S - 1 and outside > 8
