"""Sweeps: which arms there are, that each is done once whatever is killed, and that a population of arms is those arms."""
import argparse
import functools
import itertools
import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest

from bigjax import sweep
from launch import __main__ as command_line
from launch import arms as workers
from launch import sweep as verb
from tests.launch.tools import ROOT, launcher, program, until
from tests.refused import refused

MLP = 'python -m experiments.mnist1d --variant=mlp --config.data=fake --config.population=1 --config.steps=20'


def test_a_grid_is_every_combination_the_last_key_fastest():
    pairs = itertools.product((1, 2), 'xy')
    assert sweep.grid({'a': (1, 2), 'b': 'xy'}) == [dict(zip('ab', pair, strict=True)) for pair in pairs]
    assert sweep.grid({}) == [{}]


def test_zipped_and_product_compose():
    both = sweep.product(sweep.zipped({'a': (1, 2), 'b': (3, 4)}), sweep.grid({'c': (5, 6)}))
    assert both == [{'a': a, 'b': b, 'c': c} for a, b in ((1, 3), (2, 4)) for c in (5, 6)]
    with refused('sweep/counts', 'a, b', '1, 2'):
        sweep.zipped({'a': (1,), 'b': (1, 2)})


def test_random_arms_repeat_and_grow():
    draws = {'lr': sweep.log_uniform(1e-4, 1e-1), 'p': sweep.uniform(0.2, 0.8), 'n': (1, 2, 3)}
    few, many = sweep.random(4, draws, seed=7), sweep.random(400, draws, seed=7)
    assert many[:4] == few != sweep.random(4, draws, seed=8)
    assert all(1e-4 <= arm['lr'] <= 1e-1 and 0.2 <= arm['p'] <= 0.8 and arm['n'] in (1, 2, 3) for arm in many)
    assert 0.25 < sum(arm['lr'] < 10**-3.0 for arm in many) / 400 < 0.42, 'a third of the orders of magnitude lie below'


@pytest.mark.parametrize(('arm', 'folder'), [
    ({'seed': 0, 'optimizer.lr': 0.1}, 'optimizer.lr=0.1,seed=0'), ({}, 'as-it-is'), ({'b': 1, 'a': 2}, 'a=2,b=1')])
def test_an_arm_has_a_name_that_a_person_reads(arm, folder):
    assert sweep.name(arm) == sweep.name(dict(reversed(arm.items()))) == folder


def test_no_two_arms_share_a_folder():
    generator = random.Random(0)
    texts = ['/', '..', 'a b', 'a-b', 'ä', 'x' * 300, 'x' * 301, '', '=', ',']
    arms = [{'k': text} for text in texts] + [{'k': generator.random()} for _ in range(100)]
    names = [sweep.name(arm) for arm in arms]
    assert len(set(names)) == len(arms)
    assert all('/' not in name and name not in ('.', '..') and len(name) < 120 for name in names)


def test_arms_train_together_where_nothing_else_differs():
    arms = [{'optimizer.lr': lr, 'seed': s, 'batch_size': b} for b in (8, 16) for lr in (1, 2) for s in (0, 1)]
    assert sweep.together(arms, ['optimizer.lr']) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sweep.together(arms, []) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sweep.together([{'optimizer.lr': 1}, {'seed': 1}], ['optimizer.lr']) == [[0], [1]]


@pytest.mark.parametrize(('words', 'argv'), [
    ('optimizer.lr', ['--grid=optimizer.l=1,2']), ('big', ['--grid=optimizer.lr=big']),
    ('KEY=VALUE', ['--grid=optimizer.lr']), ('seed=1', ['--grid=seed=1,1']),
    ('--grid=seed=2', ['--grid=seed=1', '--grid=seed=2'])])
def test_a_wrong_sweep_is_refused_before_anything_runs(tmp_path, capfd, words, argv):
    argv = ['sweep', 'run', '--on=local:2', *argv, '--', *shlex.split(MLP), f'--workdir={tmp_path}/s']
    assert command_line.main(argv) == 2
    assert words in capfd.readouterr().err and not (tmp_path / 's').exists()


@pytest.mark.parametrize(('command', 'code', 'value'), [
    ('python -m experiments.mnist1d --variant=mlp', 'sweep/no-workdir', '--workdir'),
    ('sleep 1 --workdir=x', 'sweep/not-an-experiment', 'sleep 1'),
    ('python -m experiments.mnist1d --workdir=x', 'sweep/several-rows', '--variant=…, one of logistic'),
    ('python -m experiments.nothing --workdir=x', 'sweep/not-importable', 'experiments.nothing')])
def test_a_command_that_cannot_be_swept(command, code, value):
    with refused(code, value):
        workers.plan([{'seed': 1}], shlex.split(command), False)


@pytest.mark.parametrize('words', [
    '--variant=mlp --config.steps=7 --workdir=W', '--variant mlp --config.steps 7 --workdir W',
    '-variant=mlp -config.steps=7 -workdir W --check'])
def test_a_command_is_read_in_every_form_of_its_flags(words):
    command = shlex.split(f'python -m experiments.mnist1d {words}')
    config = workers.config_of(command, {'seed': 3})
    assert (config.steps, config.seed, str(workers.folder_of(command))) == (7, 3, 'W')
    (work,) = workers.plan([{'seed': 3}], command, False)
    assert 'W' not in work.command and '--workdir=W/seed=3' in work.command and work.command[:3] == tuple(command[:3])


def test_a_python_without_bigjax_is_refused_before_anything_runs(tmp_path):
    other = program(tmp_path / 'python', f'cd / && exec {sys.executable} -I -S "$@"')
    for python in (str(other), 'echo'):
        with refused('sweep/python', python, sys.executable):
            verb.check_python(python)
    verb.check_python(sys.executable)
    command = [str(other), *shlex.split(MLP)[1:], f'--workdir={tmp_path}/s']
    assert command_line.main(['sweep', 'run', '--on=local:2', '--grid=seed=0,1', '--', *command]) == 2
    assert not (tmp_path / 's').exists()


@pytest.mark.parametrize('flag', ['--jobs=2', '--parallel=2'])
def test_runs_side_by_side(tmp_path, capfd, flag):
    command = [*shlex.split(MLP), f'--workdir={tmp_path}/s']
    assert command_line.main(['sweep', 'run', '--on=local', flag, '--grid=seed=0,1,2', '--dry_run', '--', *command]) == 0
    assert [line.split()[1] for line in capfd.readouterr().out.splitlines() if line.startswith('env ')] == [
        'BIGJAX_SHARE=0/2', 'BIGJAX_SHARE=1/2']


def test_a_sweep_of_an_experiment_without_one():
    with refused('sweep/no-arms', 'scan', '--grid='):
        verb.arms_of([], shlex.split('python -m experiments.scan'))
    assert len(verb.arms_of([], shlex.split(MLP))) == 5


@pytest.mark.parametrize(('share', 'expected'), [(None, (0, 1)), ('2/5', (2, 5)), ('0/1', (0, 1))])
def test_the_share_of_a_worker(monkeypatch, share, expected):
    monkeypatch.delenv('BIGJAX_SHARE', raising=False)
    if share:
        monkeypatch.setenv('BIGJAX_SHARE', share)
    assert workers.share() == expected


@pytest.mark.parametrize('share', ['5/5', 'a/b', '-1/2', '3', '/'])
def test_a_share_that_is_none(monkeypatch, share):
    monkeypatch.setenv('BIGJAX_SHARE', share)
    with refused('sweep/bad-share', share):
        workers.share()


def test_shares_are_all_of_it_once(tmp_path, monkeypatch):
    """With a program in the place of an experiment that notes what it was told."""
    note = tmp_path / 'note'
    script = f"import sys; open({str(note)!r}, 'a').write(sys.argv[1] + chr(10))"
    work = [workers.Work((i,), tmp_path / str(i), (sys.executable, '-c', script, str(i))) for i in range(7)]
    for index in range(3):
        assert workers.run([w for i, w in enumerate(work) if i % 3 == index], tmp_path) == 0
    assert sorted(note.read_text().split()) == list('0123456')


@pytest.mark.parametrize(('code', 'result', 'ran'), [(0, 0, 3), (4, 0, 3), (1, 1, 3), (2, 1, 3), (75, 75, 1)])
def test_how_an_arm_ends_decides_about_the_others(tmp_path, code, result, ran):
    note = tmp_path / 'note'
    script = f"import sys; open({str(note)!r}, 'a').write('x'); sys.exit({code})"
    work = [workers.Work((i,), tmp_path / str(i), (sys.executable, '-c', script)) for i in range(3)]
    assert workers.run(work, tmp_path) == result and len(note.read_text()) == ran


def test_what_another_worker_holds_is_left_to_it(tmp_path):
    work = [workers.Work((0,), tmp_path / 'a', ('false',))]
    with workers.locked(tmp_path / '.locks' / 'a') as mine:
        assert mine and workers.run(work, tmp_path) == 0
    assert workers.run(work, tmp_path) == 1


def test_a_signal_to_a_worker_reaches_the_run_and_is_75(tmp_path):
    script = 'import signal, time; signal.signal(15, lambda *_: exit(0)); print(1, flush=True); time.sleep(60)'
    inner = f'''import sys; sys.path.insert(0, {str(ROOT)!r})
from launch import arms; sys.exit(arms._run_one([sys.executable, "-c", {script!r}]))'''
    process = subprocess.Popen([sys.executable, '-c', inner], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75


def test_another_sweep_in_the_folder_is_refused_and_arms_may_be_added(tmp_path):
    workers.keep(tmp_path, [{'seed': 1}], ['a'], False)
    workers.keep(tmp_path, [{'seed': 2}], ['a'], False)
    assert json.loads((tmp_path / 'sweep.json').read_text())['arms'] == [{'seed': 1}, {'seed': 2}]
    for command, together in ((['b'], False), (['a'], True)):
        with refused('sweep/another', str(tmp_path)):
            workers.keep(tmp_path, [{'seed': 1}], command, together)
    (tmp_path / 'sweep.json').write_text('{')
    with refused('sweep/damaged', 'sweep.json'):
        workers.keep(tmp_path, [{'seed': 1}], ['a'], False)


def swept(folder, *options, grid=('optimizer.lr=0.01,0.001', 'seed=0,1')):
    """The command of a sweep of the small MLP."""
    return launcher('sweep', 'run', '--on=local:1', *(f'--grid={g}' for g in grid), *options, '--', sys.executable,
                    *shlex.split(MLP)[1:], f'--workdir={folder}')


def run(command, timeout=300):
    """(exit code, stdout)."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert 'Traceback' not in done.stderr, done.stderr
    return done.returncode, done.stdout


def losses(folder) -> dict:
    """{(lr, seed): final test loss} as the table's own reader has it."""
    _, rows = verb.read(pathlib.Path(folder))
    return {(row['arm']['optimizer.lr'], row['arm']['seed']): verb.values(row, 'test/loss') for row in rows}


@pytest.mark.slow
def test_a_population_of_arms_is_those_arms(tmp_path):
    assert run(swept(tmp_path / 'alone'))[0] == 0
    code, out = run(swept(tmp_path / 'together', '--together'))
    assert code == 0 and '4 of 4 arms done' in out and (tmp_path / 'together' / 'sweep.html').exists()
    alone, together = losses(tmp_path / 'alone'), losses(tmp_path / 'together')
    assert alone.keys() == together.keys() and len(alone) == 4 and len({tuple(v) for v in alone.values()}) == 4
    for arm, values in alone.items():
        assert together[arm] == pytest.approx(values, rel=1e-5), arm
    assert [len(list((tmp_path / name).glob('*/run.json'))) for name in ('together', 'alone')] == [1, 4]


@pytest.mark.slow
def test_twelve_arms_killed_twice_are_twelve_results(tmp_path):
    """kill -9 of the launcher in the middle of an arm, twice; the third start does the rest, and nothing is done again."""
    grid = ('optimizer.lr=0.01,0.003,0.001', 'seed=0,1,2,3')
    command = swept(tmp_path / 's', grid=grid)
    for done in (2, 6):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(functools.partial(over_or_done, process, tmp_path / 's', done), 240)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1.0)  # what it had started ends with it
    before = ended(tmp_path / 's')
    assert 6 <= len(before) < 12
    code, out = run(command)
    assert code == 0 and '12 of 12 arms done' in out
    after = ended(tmp_path / 's')
    assert len(after) == 12 and all(after[path] == before[path] for path in before), 'done again'
    for path in (tmp_path / 's').glob('*/metrics.jsonl'):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [(line['step'], name) for line in lines for name in line if name != 'step']
        assert len(rows) == len(set(rows)), path
    assert run(swept(tmp_path / 'undisturbed', grid=grid))[0] == 0
    assert table(tmp_path / 's') == table(tmp_path / 'undisturbed')


def over_or_done(process, folder, arms: int) -> bool:
    """Whether a launcher has ended, or so many arms are done."""
    return process.poll() is not None or len(ended(folder)) >= arms


def ended(folder) -> dict:
    """{folder of an arm that is done: when its record was written}."""
    return {path.parent: path.stat().st_mtime_ns for path in pathlib.Path(folder).glob('*/run.json')
            if workers.finished(path.parent)}


def table(folder) -> list[str]:
    """The output of `sweep table`, without the path of its page."""
    code, out = run(launcher('sweep', 'table', str(folder)))
    assert code == 0
    return out.splitlines()[:-1]


def test_the_table_puts_the_best_first_over_its_seeds(tmp_path, capfd):
    """Against means and deviations worked out by hand."""
    arms = sweep.grid({'optimizer.lr': (0.1, 0.2), 'seed': (0, 1)})
    command = [*shlex.split(MLP), f'--workdir={tmp_path}']
    workers.keep(tmp_path, arms, command, False)
    for arm, accuracy in zip(arms[:3], (0.5, 0.7, 0.9), strict=True):
        folder = tmp_path / sweep.name(arm)
        folder.mkdir()
        final = {'test/accuracy': {'mean': accuracy, 'std': None, 'members': [accuracy]}}
        run = {'experiment': 'mnist1d', 'status': 'done', 'config': {}, 'final': final}
        (folder / 'run.json').write_text(json.dumps(run))
    assert verb.verb(argparse.Namespace(metric='', to=''), ['table', str(tmp_path)], []) == 4
    lines = capfd.readouterr().out.splitlines()
    assert lines[2].split() == ['0.2', '0.9000', '1', '1/2'] and lines[3].split() == ['0.1', '0.60', '±', '0.14', '2', '2/2']
    assert lines[4] == '3 of 4 arms done; missing: optimizer.lr=0.2,seed=1'
    assert '<svg' in (tmp_path / 'sweep.html').read_text()
    assert verb.verb(argparse.Namespace(metric='test/loss', to=str(tmp_path)), ['table', str(tmp_path)], []) == 4


@pytest.mark.parametrize(('metric', 'best'), [
    ('val/map', 'width=1'), ('val/rmse', 'width=0'), ('val/two_sample', ''), ('max val/two_sample', 'width=1'),
    ('min val/two_sample', 'width=0')])
def test_the_best_is_judged_by_the_metrics_direction(metric, best):
    name = metric.split()[-1]
    rows = [{'arm': {'width': width}, 'slice': None, 'run': {'status': 'done', 'final': {name: {'mean': width + 1.0}}}}
            for width in (0, 1)]
    assert verb.lines_of(rows, metric)[2].partition(', ')[0] == best
