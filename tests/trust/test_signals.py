"""A signal in any phase: exit 75 in time, at most one step lost, and the next start ends as if nothing had been.

Tried by breaking: the signal swallowed, no save on leaving, the evaluation of the saved step forgotten.
"""
import json
import signal
import time

import pytest

from tests.trust import runs
from tests.trust.test_kills import straight  # noqa: F401  a fixture

GRACE = 20.0
PHASES = ['compile:1', 'data:1', 'data:9', 'step:7', 'evaluation:2', 'save:2', 'restore:1']
KIND = 'recurrent'
HELD = 'the state is saved, and the next start ends as if nothing had been'


@pytest.mark.trust
@pytest.mark.parametrize(('at', 'name'), [*((at, 'term') for at in PHASES), ('compile:1', 'int'), ('step:7', 'int')])
def test_a_process_saves_and_leaves(straight, tmp_path, tally, at, name):  # noqa: F811
    (tmp_path / 'log').touch()
    with tally(f'SIG{name.upper()}', HELD) as note:
        code, out = runs.run(KIND, tmp_path / 'run', f'--grace={GRACE}', trust=f'{at}:{name}', log=tmp_path / 'log')
        assert code == 75 and f'SIG{name.upper()}' in out, out[-2000:]
        seconds, lines = time.time(), [line.split() for line in (tmp_path / 'log').read_text().splitlines()]
        seconds -= next(float(value) for what, value in lines if what == 'signal')
        lost = max([0, *(int(step) for what, step in lines if what == 'step')]) - runs.saved(tmp_path / 'run')
        note(worst={'steps lost': max(0, lost), 's to the exit': seconds}, exits=[code])
        assert lost <= 1 and seconds < GRACE
        assert json.loads((tmp_path / 'run' / 'run.json').read_text())['status'] == 'preempted'
        code, out = runs.run(KIND, tmp_path / 'run')
        assert code == 0, out[-2000:]
        runs.assert_same(tmp_path / 'run', straight(KIND))


@pytest.mark.trust
@pytest.mark.parametrize(('at', 'which'), [
    ('step:7', [0]), ('step:7', [1]), ('step:7', [0, 1]), ('evaluation:2', [1]), ('compile:1', [0]), ('save:2', [1])])
def test_all_processes_save_the_same_step(straight, tmp_path, tally, at, which):  # noqa: F811
    with tally('SIGTERM to one or both of two processes', HELD) as note:
        running = runs.start(KIND, tmp_path / 'run', f'--grace={GRACE}', processes=2, log=tmp_path / 'log',
                             trust=f'{at}:term:0:{which[0] if len(which) == 1 else ""}')
        ended = runs.end(running)
        note(exits=[code for code, _ in ended])
        assert [code for code, _ in ended] == [75, 75], '\n---\n'.join(out[-2500:] for _, out in ended)
        code, out = runs.run(KIND, tmp_path / 'run')
        assert code == 0 and (runs.saved(tmp_path / 'run') == runs.STEPS), out[-2000:]
        straightly, ours = runs.numbers(straight(KIND)), runs.numbers(tmp_path / 'run')
        assert [(row['step'], sorted(row)) for row in ours] == [(row['step'], sorted(row)) for row in straightly]


@pytest.mark.trust
def test_where_no_step_ends_in_time_the_last_checkpoint_stands(tmp_path):
    [process] = runs.start(KIND, tmp_path / 'run', '--grace=3', trust='step:30:sleep', log=tmp_path / 'log')
    while not (tmp_path / 'log').exists() or (tmp_path / 'log').read_text().count('step ') < 15:
        assert process.poll() is None, process.communicate()[0][-2000:]
        time.sleep(0.05)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    [(code, out)] = runs.end([process])
    assert code == 75 and time.monotonic() - began < 8
    assert 'no step ended within 3 s' in out and 'the last checkpoint is as it was' in out
    assert runs.saved(tmp_path / 'run') >= 4


@pytest.mark.trust
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    [process] = runs.start(KIND, tmp_path / 'run', trust='step:30:sleep', log=tmp_path / 'log')
    while not (tmp_path / 'log').exists() or (tmp_path / 'log').read_text().count('step ') < 15:
        assert process.poll() is None, process.communicate()[0][-2000:]
        time.sleep(0.05)
    time.sleep(1)  # the step after is the one that sleeps
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    began = time.monotonic()
    [(code, out)] = runs.end([process])
    assert code == 130 and time.monotonic() - began < 2 and 'Ctrl-C again' in out
