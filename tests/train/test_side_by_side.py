"""Rows of a table side by side: the same runs as one after the other, printed in order, and ended as one."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = '''
from bigjax import cli
from bigjax.errors import UserError
from tests import tiny

TABLE = ('one', 'two', 'three')


def get_config(variant=''):
    config = tiny.config(population=1, ema=0.0)
    config.optimizer = dict(name='adam', lr=1e-2)
    config.seed = TABLE.index(variant)
    config.bad = ''
    return config


def get_experiment(config):
    if config.bad and config.seed == TABLE.index(config.bad):
        raise UserError(f'row {config.bad}: bad', code='test/row')
    return tiny.experiment(optimizer=config.optimizer)


if __name__ == '__main__':
    cli.main()
'''


@pytest.fixture
def start(tmp_path):
    """`start('--jobs=2', …)`: the script's table as a process."""
    (tmp_path / 'three_rows.py').write_text(SCRIPT)
    begun = []

    def start(*argv):
        env = {**os.environ, 'PYTHONPATH': str(ROOT)}
        begun.append(subprocess.Popen([sys.executable, 'three_rows.py', *argv], cwd=tmp_path, env=env, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def runs(folder):
    return {row: json.loads((folder / row / 'run.json').read_text()) for row in ('one', 'two', 'three')}


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_the_same_runs_printed_in_order(start, tmp_path):
    both = {jobs: ended(start(f'--workdir={jobs}', f'--jobs={jobs}')) for jobs in (1, 3)}
    for jobs, (code, out, err) in both.items():
        assert code == 0, err
        places = [max(i for i, line in enumerate(out.splitlines()) if line.startswith(row)) for row in ('one', 'two', 'three')]
        assert places == sorted(places) and (tmp_path / str(jobs) / 'report.html').exists()
    one, three = runs(tmp_path / '1'), runs(tmp_path / '3')
    assert [run['final'] for run in one.values()] == [run['final'] for run in three.values()]
    table = lambda out: [line for line in out.splitlines() if 'test/accuracy' in line][-3:]
    assert table(both[1][1]) == table(both[3][1])
    assert '--jobs' not in three['one']['command']


def test_a_row_that_is_refused_ends_the_table(start, tmp_path):
    code, _, err = ended(start('--workdir=run', '--jobs=2', '--config.bad=two', '--config.steps=100000'))
    assert code == 2 and 'row two' in err and err.count('\n') == 1
    assert {run['status'] for run in rows_there(tmp_path / 'run')} <= {'preempted', 'running', 'failed'}


def test_a_table_that_is_refused_prints_nothing_but_why(start, tmp_path):
    code, out, err = ended(start('--workdir=run', '--jobs=2', '--config.optimizer.name=adm'))
    assert (code, out) == (2, '') and 'adam' in err and err.count('\n') == 1 and not rows_there(tmp_path / 'run')


def rows_there(folder):
    return [json.loads(path.read_text()) for path in folder.glob('*/run.json')]


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_every_row_and_the_same_command_resumes(start, tmp_path, number):
    argv = ('--workdir=run', '--jobs=3', '--config.steps=3000', '--config.checkpoint_every=50')
    process = start(*argv)
    until(lambda: len(list((tmp_path / 'run').glob('*/checkpoints/*/manifest.json'))) >= 3 or process.poll() is not None)
    children = [int(p.name) for p in pathlib.Path('/proc').glob('[0-9]*') if parent_of(p) == process.pid]
    process.send_signal(number)
    code, _, err = ended(process)
    assert code == (75 if number == signal.SIGTERM else -number), err
    until(lambda: not any(alive(pid) for pid in children), 30)
    assert len(children) == 3
    code, out, err = ended(start(*argv))
    assert code == 0, err
    assert {run['status'] for run in runs(tmp_path / 'run').values()} == {'done'} and 'resum' in out


def parent_of(path):
    try:
        return int((path / 'stat').read_text().rpartition(')')[2].split()[1])
    except (OSError, IndexError):
        return 0


def alive(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False

