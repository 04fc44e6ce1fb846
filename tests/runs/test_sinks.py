"""TensorBoard, W&B and own sinks: a dead one never stops a run, and a restart repeats no point."""
import json
import struct
import sys
import types

import pytest

from tests.refused import refused
from tests.runs.test_writer import lines, make


class Sink:
    def __init__(self, fail_at=None):
        self.seen, self.fail_at, self.closed = [], fail_at, False

    def write(self, step, values):
        if step == self.fail_at:
            raise ConnectionError('the server is\ngone')
        self.seen.append((step, values))

    def close(self):
        self.closed = True


def test_a_sink_that_raises_is_dropped_with_one_warning(tmp_path, capsys):
    good, bad = Sink(), Sink(fail_at=2)
    run = make(tmp_path, sinks=(bad, good))
    for step in (1, 2, 3):
        run.metrics(step, {'a': [1.0, 3.0], 'b': [float('nan')]})
    run.finish('done', 3, {})
    assert [step for step, _ in good.seen] == [1, 2, 3]
    assert good.seen[0][1] == {'a': 2.0, 'a/std': pytest.approx(2 ** 0.5)}
    assert [step for step, _ in bad.seen] == [1]
    assert good.closed
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert 'Sink failed and is dropped' in err[0]
    assert 'the server is gone' in err[0]
    assert len(lines(tmp_path)) == 3


def test_the_sinks_have_names(tmp_path, monkeypatch):
    with refused('config/sinks', 'tensorbord', 'tensorboard', 'wandb'):
        make(tmp_path, sinks=('tensorbord',))
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    with refused('config/sinks', 'pip install'):
        make(tmp_path, sinks=('tensorboard',))
    assert not list(tmp_path.iterdir())


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboardX', reason='the sink writes with it')
    run = make(tmp_path, sinks=('tensorboard',))
    run.metrics(7, {'train/loss': [0.5]})
    run.finish('done', 7, {})
    event = next((tmp_path / 'tensorboard').glob('events.*')).read_bytes()
    assert b'train/loss' in event


def events(workdir) -> list:
    """What a reader of TensorBoard gets: the events of all files in the order in which they were begun."""
    event_pb2 = pytest.importorskip('tensorboardX.proto.event_pb2', reason='the sink writes with it')
    found = []
    for path in sorted((workdir / 'tensorboard').glob('events.*'), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        data = path.read_bytes()
        while data:
            size, = struct.unpack('<Q', data[:8])
            found.append(event_pb2.Event.FromString(data[12:12 + size]))
            data = data[16 + size:]
    return found


def points(found) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them: the start of a session at step t purges everything from t on."""
    shown = []
    for event in found:
        if event.session_log.status == 1:  # START
            shown = [(step, value) for step, value in shown if step < event.step]
        shown += [(event.step, v.simple_value) for v in event.summary.value if v.tag == 'train/loss']
    return shown


def test_tensorboard_shows_each_point_once_after_a_restart(tmp_path):
    pytest.importorskip('tensorboardX', reason='the sink writes with it')
    run = make(tmp_path, sinks=('tensorboard',))
    run.truncate_after(0)
    for step in range(1, 9):
        run.metrics(step, {'train/loss': [step]})
    run._sinks.close()  # killed; the checkpoint is of step 5
    run._release()
    again = make(tmp_path, sinks=('tensorboard',))
    again.truncate_after(5)
    for step in range(6, 11):
        again.metrics(step, {'train/loss': [10 * step]})
    again.finish('done', 10, {})
    assert points(events(tmp_path)) == [(s, s) for s in range(1, 6)] + [(s, 10 * s) for s in range(6, 11)]


def test_wandb_continues_the_same_run_after_a_restart(tmp_path, monkeypatch):
    started = []
    fake = types.ModuleType('wandb')
    fake.__spec__ = types.SimpleNamespace(name='wandb')
    session = types.SimpleNamespace(log=lambda *a, **k: None, finish=lambda: None)
    fake.init = lambda **options: started.append(options) or session
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    for step in (0, 5):
        run = make(tmp_path, sinks=('wandb',))
        run.truncate_after(step)
        run.metrics(step + 1, {'train/loss': [0.5]})
        run.fail(RuntimeError('killed'))
    assert started[0]['id'] == started[1]['id'] == json.loads((tmp_path / 'run.json').read_text())['wandb']
    assert all(options['resume'] == 'allow' for options in started)
