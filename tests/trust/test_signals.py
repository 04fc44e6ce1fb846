"""A signal in any phase: exit 75 in time, at most one step lost, and the next start ends as if nothing had been.

Tried by breaking: the signal swallowed, no save on leaving, the evaluation of the saved step forgotten.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.trust import runs
from tests.trust.test_kills import straight  # noqa: F401  a fixture

GRACE = 20.0
IN_BOTH = [('step:7', [0]), ('step:7', [1]), ('step:7', [0, 1]), ('evaluation:2', [1]), ('compile:1', [0]), ('save:2', [1]),
           ('data:9', [0]), ('restore:2', [1])]
ALL = [(at, which, name) for at in ('compile:1', 'data:9', 'step:7', 'evaluation:2', 'save:2', 'restore:2')
       for which in ([0], [1], [0, 1]) for name in ('term', 'int')]
EVEN = '--config.checkpoint_every=2'  # so that every step that is evaluated is saved, whether a signal comes there or not
SHORT = [*((at, which, 'term') for at, which in IN_BOTH), ('step:7', [1], 'int')]
PHASES = ['compile:1', 'data:1', 'data:9', 'step:7', 'evaluation:2', 'save:2', 'restore:1']
KIND = 'recurrent'
WAITS = '''
import sys
from bigjax import cli
from experiments import mnist1d
mnist1d.__file__, sys.modules['__main__'] = 'mnist1d.py', mnist1d
print('waits', flush=True)
cli.main()
'''
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


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """The workdir of a run of two processes that was left alone."""
    workdir = tmp_path_factory.mktemp('both') / 'run'
    finish(workdir)
    return workdir


def finish(workdir):
    """Runs two processes to the end of the run."""
    ended = runs.end(runs.start(KIND, workdir, EVEN, processes=2))
    assert [code for code, _ in ended] == [0, 0], '\n---\n'.join(out[-2500:] for _, out in ended)


@pytest.mark.trust
@pytest.mark.parametrize(('at', 'which', 'name'), SHORT + [case for case in ALL if case not in SHORT])
def test_all_processes_save_the_same_step(both, tmp_path, tally, battery, at, which, name):
    if battery == 'short' and (at, which, name) not in SHORT:
        pytest.skip('with --battery=full')
    workdir = tmp_path / 'run'
    if at.startswith('restore'):  # of a real checkpoint
        ended = runs.end(runs.start(KIND, workdir, EVEN, processes=2, trust='step:14:term'))
        assert [code for code, _ in ended] == [75, 75] and runs.saved(workdir)
    with tally(f'SIG{name.upper()} to one or both of two processes', HELD) as note:
        running = runs.start(KIND, workdir, EVEN, f'--grace={GRACE}', processes=2, log=tmp_path / 'log',
                             trust=f'{at}:{name}:0:{which[0] if len(which) == 1 else ""}')
        ended = runs.end(running)
        seconds = time.time() - first(tmp_path / 'log', 'signal')
        note(worst={'s to the exit': seconds}, exits=[code for code, _ in ended])
        assert [code for code, _ in ended] == [75, 75], '\n---\n'.join(out[-2500:] for _, out in ended)
        assert seconds < GRACE
        finish(workdir)
        runs.assert_same(workdir, both)


def first(log, what) -> float:
    """The number in the first line of the log that begins with `what`; waits for it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        if found := [float(line[1]) for line in lines if line[0] == what]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f'{what} never came')


@pytest.mark.trust
def test_an_evaluation_is_left_between_its_batches_by_both(both, tmp_path):
    """The first evaluation is of step 6, and has 32 batches."""
    running = runs.start(KIND, tmp_path / 'run', '--config.eval_batch_size=8', processes=2, trust='evaluation:1:term:0:1')
    ended = runs.end(running)
    assert [code for code, _ in ended] == [75, 75] and runs.saved(tmp_path / 'run') == 6, ended[0][1][-2500:]
    assert 'test/loss' not in json.dumps(runs.numbers(tmp_path / 'run'))


@pytest.mark.trust
def test_an_exception_after_a_signal_is_shown_and_is_no_preemption(tmp_path):
    running = runs.start(KIND, tmp_path / 'run', processes=2, trust='save:2:raise:0:1', log=tmp_path / 'log')
    first(tmp_path / 'log', 'save')
    running[1].send_signal(signal.SIGTERM)
    ended = runs.end(running)
    assert [code for code, _ in ended] == [1, 1], ended
    assert all('ValueError: injected' in out and 'SIGTERM: saving' in out for _, out in ended)


@pytest.mark.trust
def test_a_second_ctrl_c_to_one_stops_both(tmp_path):
    running = runs.start(KIND, tmp_path / 'run', processes=2, trust='step:7:sleep:0:1', log=tmp_path / 'log')
    first(tmp_path / 'log', 'save')
    time.sleep(1)
    for _ in range(2):
        running[0].send_signal(signal.SIGINT)
        time.sleep(0.8)
    began = time.monotonic()
    ended = runs.end(running)
    assert [code for code, _ in ended] == [130, 130] and time.monotonic() - began < 3
    assert all('Ctrl-C again' in out for _, out in ended)


@pytest.mark.trust
def test_a_signal_between_two_rows_leaves_the_finished_one_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(runs.KINDS, 'table', ('mnist1d', '--population=1', '--jobs=1'))
    code, out = runs.run('table', tmp_path, trust='report:1:term')
    assert code == 75 and 'there is nothing to save' in out, out[-2000:]
    found = [json.loads(path.read_text()) for path in tmp_path.glob('*/run.json')]
    assert [run['status'] for run in found][:1] == ['done'] and found[0]['final'] and not found[0]['error']


@pytest.mark.trust
@pytest.mark.parametrize('process', [0, 1])
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_before_the_others_have_come_there_is_nothing_to_save(tmp_path, process, name):
    env = {**os.environ, 'PYTHONPATH': str(runs.ROOT), 'BIGJAX_COORDINATOR': f'127.0.0.1:{runs.free_port()}',
           'BIGJAX_PROCESSES': '2', 'BIGJAX_PROCESS': str(process)}
    waits = subprocess.Popen([sys.executable, '-c', WAITS, f'--workdir={tmp_path}/run'], env=env, cwd=runs.ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert waits.stdout.readline() == 'waits\n'
    time.sleep(1)
    waits.send_signal(getattr(signal, name))
    [(code, out)] = runs.end([waits], 30)
    assert code == 75 and re.fullmatch(rf'\S*: {name} before the start: there is nothing to save; run the same command again\n',
                                       out), out


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
    assert code == 75 and time.monotonic() - began < 4
    assert "nothing could be saved within 3 s (step " in out and 'the last checkpoint is as it was' in out
    assert runs.saved(tmp_path / 'run') >= 4


@pytest.mark.trust
@pytest.mark.parametrize('stall', ['train:100', 'test:400'])
def test_a_signal_while_the_data_stalls_saves_the_step_before(straight, tmp_path, tally, stall):  # noqa: F811
    """The data stop after some batches of 8, or within the 256 examples of the second evaluation, that of step 12."""
    piped, log = ('--config.resident=no', '--config.data_threads=1'), tmp_path / 'log'
    with tally('SIGTERM', HELD) as note:
        [process] = runs.start(KIND, tmp_path / 'run', *piped, f'--grace={GRACE}', stall=stall, log=log)
        first(log, 'evaluation' if stall[:4] == 'test' else 'save')
        time.sleep(3)
        done = max(int(line.split()[1]) for line in log.read_text().splitlines())
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        [(code, out)] = runs.end([process])
        note(worst={'s to the exit': time.monotonic() - began}, exits=[code])
        assert code == 75 and f'SIGTERM at step {done}: the state is saved' in out, out[-2000:]
        assert runs.saved(tmp_path / 'run') == done > 4 and time.monotonic() - began < 10
        code, out = runs.run(KIND, tmp_path / 'run', *piped)
        assert code == 0, out[-2000:]
        runs.assert_same(tmp_path / 'run', straight(KIND))


@pytest.mark.trust
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    [process] = runs.start(KIND, tmp_path / 'run', trust='step:30:sleep', log=tmp_path / 'log')
    while not (tmp_path / 'log').exists() or (tmp_path / 'log').read_text().count('step ') < 15:
        assert process.poll() is None, process.communicate()[0][-2000:]
        time.sleep(0.05)
    time.sleep(1)  # the step after is the one that sleeps
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.8)
    began = time.monotonic()
    [(code, out)] = runs.end([process])
    assert code == 130 and time.monotonic() - began < 2 and 'Ctrl-C again' in out
