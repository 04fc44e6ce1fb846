"""The files of a workdir: whole after any crash, one value a (step, name), and never of two runs."""
import dataclasses
import errno
import io
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from bigjax.errors import NonFinite, Preempted
from bigjax.experiment import Confusion, Expected
from bigjax.io import atomic, storage
from bigjax.runs import artifacts, provenance, reader, writer
from bigjax.runs.summary import judge
from bigjax.runs.workdir import CADENCE, MACHINE
from bigjax.runs.writer import Records
from tests.refused import refused

CONFIG = {'steps': 100, 'log_every': '1 epoch', 'seed': 0, 'optimizer': {'name': 'adam', 'lr': 0.1}, 'sizes': (3, 4)}


def make(workdir, **changes):
    kwargs = {'experiment': 'toy', 'variant': 'small', 'config': CONFIG, 'command': 'python -m experiments.toy',
              'devices': {'platform': 'cpu', 'kind': 'cpu', 'count': 8}, 'parameters': 10, 'info': {'classes': ['a']}}
    return Records(workdir, **{**kwargs, **changes})


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_a_run_from_start_to_end(tmp_path):
    run = make(tmp_path / 'a' / 'b')
    workdir = run.workdir
    assert json.loads((workdir / 'config.json').read_text()) == {**CONFIG, 'sizes': [3, 4]}
    started = json.loads((workdir / 'run.json').read_text())
    assert (started['status'], started['experiment'], started['variant']) == ('running', 'toy', 'small')
    assert started['versions']['jax'] == __import__('jax').__version__
    assert started['devices'] == {'platform': 'cpu', 'kind': 'cpu', 'count': 8}
    run.metrics(10, {'train/loss': [0.5], 'time/steps_per_second': [4.0]})
    run.metrics(20, {'train/loss': [0.25], 'time/steps_per_second': [6.0]})
    run.metrics(20, {'test/accuracy': [0.75]})
    run.finish('done', 20, {'test/accuracy': [0.75]}, (Expected('test/accuracy', 0.8, 0.1, 'Table 1'),),
               [{'note': 'hello', 'confusion': Confusion(np.eye(2), ('x', 'y'))}])
    end = reader.read_run(workdir)
    assert (end['status'], end['steps'], end['steps_per_second']) == ('done', 20, 5.0)
    assert end['final'] == {'test/accuracy': {'mean': 0.75, 'std': None, 'members': [0.75]}}
    assert end['expected'] == [{'metric': 'test/accuracy', 'value': 0.8, 'tolerance': 0.1, 'std': None, 'runs': None,
                                'source': 'Table 1', 'better': None, 'measured': 0.75, 'spread': None, 'ok': True}]
    assert reader.read_metrics(workdir) == [
        {'step': 10, 'train/loss': 0.5, 'time/steps_per_second': 4.0},
        {'step': 20, 'train/loss': 0.25, 'time/steps_per_second': 6.0, 'test/accuracy': 0.75}]
    assert artifacts.load(workdir)['note'] == 'hello'
    names = {p.name for p in workdir.iterdir()} - {provenance.PATCH}  # which is there where the checkout has changes
    assert names == {'.lock', 'artifacts', 'config.json', 'metrics.jsonl', 'run.json'}


@pytest.mark.parametrize(('status', 'saved'), [('done', {}), ('preempted', {'60': {}, '100': {}}), ('done', {'100': {}})])
def test_fewer_steps_than_a_run_has_done_are_refused_and_nothing_is_touched(tmp_path, status, saved):
    run = make(tmp_path, total_steps=100)
    run.metrics(100, {'train/loss': [0.5]})
    run.run['saved'] = saved
    run.finish(status, 100, {})
    run.close()
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with refused('workdir/fewer-steps', '40', '100', '--config.steps=100'):
        make(tmp_path, config={**CONFIG, 'steps': 40}, total_steps=40)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert make(tmp_path, config={**CONFIG, 'steps': 140}, total_steps=140).run['config']['steps'] == 140


@pytest.mark.parametrize('change', [
    {'splits': {'train': {'records': 9, 'sample': 'a'}}}, {'splits': {'train': {'records': 10, 'sample': 'b'}}},
    {'splits': {'train': {'records': 10, 'sample': 'a'}}, 'classes': ['x']}])
def test_other_data_than_before_is_refused_and_nothing_is_touched(tmp_path, change):
    data = {'splits': {'train': {'records': 10, 'sample': 'a'}}}
    make(tmp_path, data=data).close()
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with refused('data/changed', str(tmp_path)):
        make(tmp_path, data=change)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    make(tmp_path, data=data)


def test_the_keys_of_run_json(tmp_path):
    make(tmp_path).finish('done', 1, {})
    assert set(reader.read_run(tmp_path)) == {
        'experiment', 'variant', 'command', 'config', 'git', 'versions', 'devices', 'host_cpus', 'seed', 'population',
        'parameters', 'started', 'starts', 'wall_seconds', 'seconds', 'saved', 'damaged', 'steps', 'steps_per_second',
        'status', 'error', 'final', 'expected',
        'info', 'data', 'compiled'}


def test_a_population_has_mean_spread_and_members(tmp_path):
    run = make(tmp_path, population=3)
    run.metrics(5, {'m': [0.1, 0.2, 0.6], 'one': [2.0]})
    line = lines(tmp_path)[0]
    assert line['m'] == pytest.approx(0.3)
    assert line['m/std'] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert line['m/members'] == [0.1, 0.2, 0.6]
    assert set(line) == {'step', 'm', 'm/std', 'm/members', 'one'}


def test_every_bit_of_a_float32_and_no_invalid_json(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    run = make(tmp_path)
    for step, value in enumerate(values):
        run.metrics(step, {'x': [value]})
    assert [np.float32(line['x']) for line in lines(tmp_path)] == list(values)
    run.metrics(99, {'x': [float('nan')], 'y': [float('inf'), 1.0]})
    text = (tmp_path / 'metrics.jsonl').read_text().splitlines()[-1]
    assert json.loads(text, parse_constant=pytest.fail) == {
        'step': 99, 'x': None, 'y': None, 'y/std': None, 'y/members': [None, 1.0]}


@pytest.mark.parametrize('tail', ['', '{"step": 30, "train/lo', '{"step": 30}garbage\n', '\x00\x00', '"text"\n[1]\n'])
def test_truncate_after_keeps_each_step_and_name_once(tmp_path, tail):
    """A run killed after step 30 whose checkpoint is of step 20 goes on and writes 30 again."""
    run = make(tmp_path)
    for step in (10, 20, 30):
        run.metrics(step, {'train/loss': [1 / step]})
    if tail:
        with open(tmp_path / 'metrics.jsonl', 'a') as file:
            file.write(tail)
    again = make(tmp_path)
    again.truncate_after(20)
    again.metrics(30, {'train/loss': [0.5]})
    assert lines(tmp_path) == [{'step': 10, 'train/loss': 0.1}, {'step': 20, 'train/loss': 0.05},
                               {'step': 30, 'train/loss': 0.5}]
    fresh = make(tmp_path)
    fresh.truncate_after(0)
    assert reader.read_metrics(tmp_path) == []


def test_a_resumed_run_keeps_its_start_and_adds_up_its_time(tmp_path):
    make(tmp_path)
    run = json.loads((tmp_path / 'run.json').read_text())
    seconds = {'compile': 100.0, 'step': 900.0}
    saved = {'3': {'compile': 100.0, 'step': 500.0}}
    atomic.write_json(tmp_path / 'run.json', {
        **run, 'started': '2020-01-01T00:00:00+00:00', 'wall_seconds': 1000.0, 'seconds': seconds, 'saved': saved})
    again = make(tmp_path)
    again.truncate_after(3)
    again.finish('done', 5, {})
    assert again.run['started'] == '2020-01-01T00:00:00+00:00' and again.run['starts'] == 2
    assert 1000 <= again.run['wall_seconds'] < 1100
    assert again.run['seconds']['step'] == 500 and again.run['seconds']['lost'] == pytest.approx(400, abs=1)
    assert sum(again.run['seconds'].values()) == pytest.approx(again.run['wall_seconds'], abs=0.01)


def test_a_finished_run_is_recognised_and_a_longer_one_goes_on(tmp_path):
    make(tmp_path).finish('done', 100, {'m': [1.0]})
    before = (tmp_path / 'run.json').read_bytes()
    again = make(tmp_path)
    assert again.finished
    assert again.run['final']['m']['mean'] == 1.0
    assert (tmp_path / 'run.json').read_bytes() == before
    longer = make(tmp_path, config={**CONFIG, 'steps': 200})
    assert not longer.finished
    assert reader.read_run(tmp_path)['config']['steps'] == 200


@pytest.mark.parametrize('changes, words', [
    ({'experiment': 'other'}, ["'toy'", "'other'", 'experiment']),
    ({'variant': 'large'}, ["'small'", "'large'", 'variant']),
    ({'config': {**CONFIG, 'optimizer': {'name': 'adam', 'lr': 0.2}}}, ['optimizer.lr (there 0.1, now 0.2)']),
    ({'config': {**CONFIG, 'sizes': (3, 5), 'new': 1}}, ['sizes (there [3, 4], now [3, 5])', 'new (there ']),
])
def test_a_workdir_of_another_run_is_refused_and_untouched(tmp_path, changes, words):
    make(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    code = 'workdir/another-config' if 'config' in changes else 'workdir/another-run'
    with refused(code, *words, str(tmp_path), '--workdir'):
        make(tmp_path, **changes)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize('key', CADENCE + MACHINE)
def test_how_long_and_where_may_differ(tmp_path, key):
    make(tmp_path, config={**CONFIG, key: 1})
    assert make(tmp_path, config={**CONFIG, key: 2}).run['config'][key] == 2


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    for bad in (tmp_path / 'file', tmp_path / 'file' / 'run', pathlib.Path('/proc/run')):
        with refused('workdir/unwritable', str(bad)):
            make(bad)


def test_a_folder_that_holds_no_run_or_a_broken_one(tmp_path):
    with refused('workdir/no-run', 'run.json'):
        reader.read_run(tmp_path / 'nowhere')
    (tmp_path / 'run.json').write_text('{"a":')
    with refused('workdir/unreadable', 'run.json'):
        reader.read_run(tmp_path)
    (tmp_path / 'run.json').write_text('{"a": 1}')
    with refused('workdir/unreadable', 'run.json'):
        make(tmp_path)


class Filling(io.FileIO):
    room = 10

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, 'No space left on device')
        written, self.room = super().write(data[:self.room]), 0
        return written


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full, a device that is always full')
def test_what_a_kill_in_the_middle_of_writing_left_is_removed(tmp_path):
    make(tmp_path)
    (tmp_path / '.run.json.4711.4712.tmp').write_text('{"half')
    make(tmp_path)
    assert not list(tmp_path.glob('.*.tmp'))


def test_a_name_may_hold_what_some_take_for_the_end_of_a_line(tmp_path):
    run = make(tmp_path)
    run.metrics(1, {'train/loss\u2028of\x85two': [0.5]})
    run.truncate_after(1)
    assert json.loads((tmp_path / 'metrics.jsonl').read_text())['train/loss\u2028of\x85two'] == 0.5


def test_a_full_disk_leaves_what_stood_there(tmp_path, monkeypatch):
    run = make(tmp_path)
    run.metrics(1, {'a': [1.0]})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = io.open

    def full(path, mode='r', *rest, **options):
        if 'x' in mode:
            return real('/dev/full', 'wb', *rest, **options)
        return real(path, mode, *rest, **options) if 'r' in mode else Filling(path, mode)  # part of the line still fits

    for module in (storage, atomic):
        monkeypatch.setattr(module, 'open', full, raising=False)
    for write in (lambda: run.metrics(2, {'a': [1.0]}), lambda: run.finish('done', 2, {}),
                  lambda: run.save_artifact('x', 'text')):
        with pytest.raises(OSError) as error:
            write()
        assert error.value.errno == errno.ENOSPC
    run.fail(RuntimeError('x'))  # says nothing of its own
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path):
    """A child is killed five times while it rewrites run.json; each time a whole record is there."""
    code = ('import sys\nfrom pathlib import Path\nfrom bigjax.io import atomic\n'
            'n = 0\nprint("go", flush=True)\n'
            'while True:\n    n += 1\n    atomic.write_json(Path(sys.argv[1]), {"n": n, "pad": "x" * 20000})\n')
    path = tmp_path / 'run.json'
    for wait in np.linspace(0.0, 0.05, 5):
        child = subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE, text=True,
                                 cwd=pathlib.Path(writer.__file__).parents[2])
        child.stdout.readline()

        time.sleep(0.05 + wait)
        child.kill()
        child.wait()
        assert len(json.loads(path.read_text())['pad']) == 20000


@pytest.mark.parametrize('error, status, text', [
    (RuntimeError('a\nb'), 'failed', 'RuntimeError: a b'),
    (KeyboardInterrupt(), 'stopped', 'KeyboardInterrupt'),
    ('NonFinite', 'nonfinite', 'NonFinite: step 3'),
    ('Preempted', 'preempted', 'Preempted: step 3'),
])
def test_how_it_failed(tmp_path, error, status, text):
    if isinstance(error, str):
        error = {'NonFinite': NonFinite, 'Preempted': Preempted}[error]('step 3')
    make(tmp_path).fail(error)
    run = reader.read_run(tmp_path)
    assert (run['status'], run['error']) == (status, text)
    assert not make(tmp_path).finished


EXPECTED = Expected('m', 0.94, 0.03, 'Table 1', better=None)


@pytest.mark.parametrize('measured, better, ok', [
    (0.94, None, True), (0.97, None, True), (0.91, None, True), (0.9701, None, False), (0.9099, None, False),
    (0.99, 'higher', True), (0.91, 'higher', True), (0.90, 'higher', False),
    (0.50, 'lower', True), (0.97, 'lower', True), (0.98, 'lower', False),
    (float('nan'), None, False), (float('nan'), 'higher', False), (None, None, False), (float('inf'), 'higher', False),
])
def test_judge(measured, better, ok):
    expected = dataclasses.replace(EXPECTED, better=better)
    row, = judge({'m': {'mean': measured, 'std': 0.01, 'members': [1, 2]}}, [expected])
    assert row['ok'] is ok
    assert row['spread'] == 0.01
    again, = judge({'m': {'mean': measured, 'std': 0.01, 'members': [1, 2]}}, [row])  # from run.json
    assert again == row


def test_judge_without_the_metric():
    row, = judge({}, [EXPECTED])
    assert (row['measured'], row['spread'], row['ok']) == (None, None, False)


def test_artifacts_come_back(tmp_path):
    cv2 = pytest.importorskip('cv2', reason='reads the PNG back')
    images = np.random.default_rng(0).uniform(size=(5, 4, 6, 3)).astype(np.float32)
    artifacts.save(tmp_path, 'samples/fake', images)
    artifacts.save(tmp_path, 'grey', np.ones((2, 3, 3, 1)))
    artifacts.save(tmp_path, 'text', 'two\nlines')
    artifacts.save(tmp_path, 'odd', {'a': np.float32(0.5), 'b': (1, {2}), 'c': float('nan')})
    artifacts.save(tmp_path, 'confusion', Confusion(np.array([[3, 1], [0, 2]]), ('cat', 'dog')))
    found = artifacts.load(tmp_path)
    picture = cv2.imdecode(np.frombuffer(found['samples_fake'], np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert picture.shape == (14, 13, 3)  # two columns of three rows, wide images
    np.testing.assert_array_equal(picture[5:9, 7:13], np.round(images[3] * 255))
    assert np.all(picture[4] == 255)
    assert cv2.imdecode(np.frombuffer(found['grey'], np.uint8), cv2.IMREAD_UNCHANGED).shape == (3, 7)
    assert found['text'] == 'two\nlines'
    assert found['odd'] == {'a': 0.5, 'b': [1, [2]], 'c': None}
    np.testing.assert_array_equal(found['confusion'].counts, [[3, 1], [0, 2]])
    assert found['confusion'].classes == ['cat', 'dog']


def test_a_population_sums_its_confusion_and_shows_the_first_members_samples():
    merged = artifacts.merge([{'c': Confusion(np.eye(2), 'ab'), 'text': 'first'},
                              {'c': Confusion(np.ones((2, 2)), 'ab'), 'text': 'second'}])
    np.testing.assert_array_equal(merged['c'].counts, [[2, 1], [1, 2]])
    assert merged['text'] == 'first'


def test_git_names_this_checkout():
    root = pathlib.Path(writer.__file__).parents[2]
    if not (root / '.git').exists():
        assert provenance.git() == {'sha': None, 'dirty': None}
    else:
        head = subprocess.run(['git', '-C', root, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
        assert provenance.git()['sha'] == head
