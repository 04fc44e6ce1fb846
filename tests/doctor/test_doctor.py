"""The doctor: every fault provoked, and its line. It must not compile, allocate or leave files."""
import dataclasses
import gc
import json
import os
import re
import threading
import time
import types

import jax
import numpy as np
import pytest

from bigjax import compat
from bigjax import config as configs
from bigjax.distributed import accelerators
from bigjax.doctor import experiment_checks, host
from bigjax.doctor import verb as doctor
from bigjax.errors import UserError
from bigjax.io.text import gib
from bigjax.sharding import mesh as meshes
from bigjax.sharding import rules
from bigjax.train import settings as settings_module
from tests import tiny, workdirs
from tests.refused import refused
from tests.test_cli import SCRIPT, get_config, get_experiment, run

COMPILED = []  # by any thread
RELEASED = threading.Event()  # ends the checks that hang, once their test is over
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event == compat.COMPILE_SECONDS_EVENT else None)


def line(check):
    """The line as it is printed, with single blanks."""
    return ' '.join(str(check).split())


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """The doctor returns also where a check hangs, and its environment is not that of the next test."""
    monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'true')
    left = []
    monkeypatch.setattr(doctor, 'leave', lambda job, code, seconds: left.append(code) or code)
    monkeypatch.setattr(host, 'packages', lambda: host.Check('packages', 'ok', ''))  # a process of a second
    for thread in threading.enumerate():
        if thread.name.startswith(doctor.THREAD):
            thread.join(10)  # of the test before
    RELEASED.clear()
    yield left
    RELEASED.set()


def test_a_workdir_that_holds_a_run(tmp_path):
    workdirs.make(tmp_path / 'done', artifacts=False)
    config = json.loads((tmp_path / 'done' / 'config.json').read_text())
    workdirs.make(tmp_path / 'going', status='running', artifacts=False)

    def ask(name, variant='cnn', **changes):
        return line(experiment_checks.workdir_run(tmp_path / name, 'mnist1d', variant, {**config, **changes}))

    assert ask('none') == f"ok run {tmp_path / 'none'}: no other run is there"
    assert ask('done') == f"ok run {tmp_path / 'done'}: holds this run, done"
    assert ask('going').startswith(f"warning run {tmp_path / 'going'}: a run wrote there 0 s ago; wait for its end")
    os.utime(tmp_path / 'going' / 'run.json', (0, time.time() - 3600))
    assert ask('going').startswith(f"ok run {tmp_path / 'going'}: holds this run at step ")
    with refused('workdir/another-run', 'cnn', 'mlp'):
        ask('done', 'mlp')
    with refused('workdir/another-config', 'batch_size'):
        ask('done', batch_size=7)


def settings(**changes):
    return settings_module.read(configs.Reader(tiny.config(**changes)), 53)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'mesh': 'data:8'}, 'ok devices 8 x cpu (cpu), mesh data:8, 1 examples of 8 on each part'),
    ({'mesh': 'data:2,tensor:4'}, 'ok devices 8 x cpu (cpu), mesh data:2,tensor:4, 4 examples of 8 on each part'),
    ({'mesh': 'data:2'}, 'warning devices 8 x cpu (cpu), mesh data:2, 4 examples of 8 on each part; 6 idle devices')])
def test_devices(changes, said):
    assert line(experiment_checks.devices(settings(**changes))).startswith(said)


class Broken:
    """A source whose last record cannot be read."""

    def __init__(self, count=3):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.count - 1:
            raise OSError(5, 'Input/output error')
        return {'x': np.zeros(2)}


def spoil(example, rng, train):
    raise ValueError('not an image')


@pytest.mark.parametrize(('changes', 'said'), [
    ({}, 'ok data train 53 records (label int32[], x float32[5]); test 17 records (label int32[], x float32[5])'),
    ({'evals': {'val': Broken()}}, 'FAILED data val: record 2 cannot be read (OSError: [Errno 5] Input/output error); fix'),
    ({'evals': {'val': Broken(0)}}, 'FAILED data val: the split is empty; fix: name other data'),
    ({'transform': spoil}, 'FAILED data train: record 52 cannot be read (ValueError: not an image); fix')])
def test_records(changes, said):
    data = dataclasses.replace(tiny.experiment().data, **changes)
    assert line(doctor.attempt('data', lambda: experiment_checks.records(data), 10)[0]).startswith(said)


@pytest.mark.parametrize('changes', [
    {'mesh': 'data:2'}, {'mesh': 'fsdp:8'}, {'mesh': 'zero1:4'},
    {'mesh': 'fsdp:2', 'population': 3, 'best': 'test/loss', 'ema': 0.0}])
def test_the_estimate_of_the_state_is_what_the_devices_hold(monkeypatch, changes):
    monkeypatch.setattr(rules, 'FSDP_SIZE', 1)
    program = tiny.program(**changes)
    carry = program.init()
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(
        [carry['state'].params, carry['state'].model_state, carry['state'].opt_state, carry['state'].ema,
         carry['best'] and carry['best']['variables']]))
    shapes = experiment_checks.shapes(program.experiment, program.settings)
    need = experiment_checks.state_bytes(shapes, program.experiment, program.settings, meshes.abstract(changes['mesh']))
    assert sum(need.values()) - need['gradients'] == held
    assert need['gradients'] == need['parameters'] > 0


def test_the_memory_of_an_accelerator_and_of_its_machine(monkeypatch):
    s, e = settings(mesh='data:8'), tiny.experiment()
    state = experiment_checks.shapes(e, s)
    kept = sum(a.nbytes for source in (e.data.train, e.data.evals['test']) for a in source.arrays.values())
    assert experiment_checks.resident_bytes(e.data, s) == kept
    assert experiment_checks.resident_bytes(e.data, settings(resident='no')) == 0
    assert [c.status for c in experiment_checks.memory(e, s, state, 1 << 30)] == ['ok']
    assert [c.status for c in experiment_checks.memory(e, s, state, 1)] == ['FAILED']
    whole = f'data {gib(8 * kept)}'  # eight devices share the machine
    assert whole in experiment_checks.memory(e, s, state, 1)[0].text
    for used, status in ((100, 'ok'), (1 << 30, 'FAILED')):
        chip = types.SimpleNamespace(platform='gpu', memory_stats=lambda n=used: {'bytes_limit': 1 << 30, 'bytes_in_use': n})
        monkeypatch.setattr(jax, 'local_devices', lambda chip=chip: [chip])
        device, machine = experiment_checks.memory(e, s, state, 1 << 30)
        assert (device.status, machine.status, machine.name) == (status, 'ok', 'host memory')
    assert experiment_checks.memory(e, s, state, 1)[1].status == 'FAILED'


@pytest.mark.parametrize(('error', 'said'), [
    (UserError('wrong'), 'FAILED it wrong'), (ValueError('two\nlines'), 'FAILED it ValueError: two lines'),
    (SystemExit(3), 'FAILED it SystemExit: 3'), (None, 'FAILED it no answer within 0.5 s')])
def test_a_check_that_raises_or_does_not_answer_is_a_line(error, said):
    def check():
        if error is None:
            RELEASED.wait(5)
        raise error or AssertionError

    assert line(doctor.attempt('it', check, 0.1)[0]).startswith(said)


@pytest.mark.parametrize('name', list(doctor.FIXES))
def test_an_error_that_no_check_foresees_ends_with_the_place_and_a_fix(name):
    def check():
        assert not name

    said = line(doctor.attempt(f'row {name}', check, 5)[0])
    assert re.search(rf'^FAILED row {name} AssertionError: assert .*, at test_doctor.py:\d+; ', said)
    assert said.endswith(f'; {doctor.FIXES[name]}')
    late = line(doctor.attempt(name, lambda: RELEASED.wait(5), 0)[0]) if name == 'run' else f'; {doctor.FIXES[name]}'
    assert late.endswith(f'; {doctor.FIXES[name]}')


def changed(**parts):
    return types.SimpleNamespace(**{**vars(SCRIPT), **parts})


def no_data(config):
    raise UserError('config.data: mnist is nowhere; get it')


def unread(config):
    return dataclasses.replace(tiny.experiment(), optimizer=config.optimizer)


@pytest.mark.parametrize(('argv', 'script', 'code', 'said'), [
    ((), SCRIPT, 0, ('ok experiment 12 steps of 8', 'ok run', 'ok data train 53', 'ok model 179 parameters', 'ok memory',
                     'ok disk')),
    (('--config.mesh=data:9',), SCRIPT, 4, ('FAILED devices config.mesh: ',
                                            'ok model')),
    (('--config.mesh=data:3',), SCRIPT, 4, ('FAILED devices config.batch_size: got 8',)),
    (('--config.batch_size=0',), SCRIPT, 4, ('FAILED experiment config.batch_size: got 0', 'ok disk')),
    (('--config.optimizer.name=adm',), SCRIPT, 4, ("nearest is adam", 'FAILED model', 'ok disk')),
    ((), changed(get_experiment=no_data), 4, ('FAILED experiment config.data: mnist is nowhere; get it', 'warning devices',
                                              'ok disk')),
    ((), changed(get_experiment=unread), 4, ('FAILED model config.', 'set, and never read by this run')),
    (('--variant=c',), SCRIPT, 4, ("FAILED experiment variant: there is no 'c'",)),
    (('--compile_cache=off',), SCRIPT, 0, ('warning cache',))])
def test_the_verb(capsys, tmp_path, monkeypatch, argv, script, code, said):
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    jax.clear_caches()  # so that whatever is computed has to be compiled
    gc.collect()  # arrays of earlier tests must not end while this one counts
    kept, programs, arrays = jax.config.jax_enable_compilation_cache, len(COMPILED), len(jax.live_arrays())
    try:
        ended, out, err = run(capsys, 'doctor', f'--workdir={tmp_path}/run', *argv, script=script)
    finally:
        jax.config.update('jax_enable_compilation_cache', kept)
    lines = [' '.join(text.split()) for text in out.splitlines()]
    assert ended == code and not err and lines[0].split()[:2] == ['ok', 'packages']
    for words in said:
        assert any(words in text for text in lines), (words, lines)
    assert sum(text.startswith('FAILED') for text in lines) == bool(code) and f'{int(bool(code))} FAILED' in lines[-1]
    assert not list(tmp_path.iterdir()) and len(jax.live_arrays()) == arrays and len(COMPILED) == programs


def test_every_row_is_looked_at_while_there_is_time(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    script = changed(get_config=lambda row: get_config(''), TABLE=('a', 'c'))
    code, out, _ = run(capsys, 'doctor', f'--workdir={tmp_path}', script=script)
    assert code == 0 and 'a model' in out and 'c model' in out and f'{tmp_path}/c' in out
    monkeypatch.setattr(doctor, 'ROW_S', doctor.TOTAL_S)
    code, out, _ = run(capsys, 'doctor', script=script)
    assert code == 0 and 'c model' not in out and '1 of 2 rows were checked' in out and '--workdir=DIR names it' in out


def test_data_that_takes_too_long_is_a_warning_and_the_devices_are_still_looked_at(capsys, monkeypatch, here):
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    monkeypatch.setattr(experiment_checks, 'OPEN_DATA_S', 0.1)
    ended = []

    def slow(config):
        RELEASED.wait(5)
        ended.append(1)
        return get_experiment(config)

    code, out, _ = run(capsys, 'doctor', '--config.mesh=data:8', script=changed(get_experiment=slow, TABLE=('a', 'b')))
    lines = [' '.join(text.split()) for text in out.splitlines()]
    assert code == 0 and not ended and any(text.startswith('warning a experiment no answer within 0.5 s') for text in lines)
    assert any(text.startswith('ok a devices 8 x cpu') for text in lines) and 'b experiment' not in out
    assert here == [0]  # the thread that opens the data is not waited for


def refuse(error):
    def devices(*_):
        raise error

    return devices


def test_without_devices_the_other_checks_go_on(capsys, tmp_path, monkeypatch, here):
    """No other check starts a device, which may take minutes."""
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    for name in ('local_devices', 'devices', 'default_backend', 'process_index', 'process_count'):
        monkeypatch.setattr(jax, name, refuse(AssertionError()))
    for argv in ((f'--workdir={tmp_path}',), ()):
        code, out, err = run(capsys, 'doctor', *argv)
        lines = [' '.join(text.split()) for text in out.splitlines()]
        assert code == 4 and not err and lines[-1].split(';')[0].endswith(' 1 FAILED')
        for words in ('FAILED accelerators JAX cannot start its devices', 'warning devices devices, model and memory were not',
                      'ok experiment', 'ok data', 'ok disk' if argv else 'warning workdir'):
            assert any(text.startswith(words) for text in lines), (words, lines)
    assert here == [4, 4]  # a driver may hang in a thread of JAX, for which the end of a program would wait


def test_where_nothing_answers_the_doctor_does(capsys, tmp_path, monkeypatch, here):
    """The last check begins by 18 s, and nine more after it take half a second each."""
    assert doctor.TOTAL_S + 9 * doctor.LEAST_S < doctor.EXIT_S
    hang = lambda *_: RELEASED.wait(5)
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    for name in ('cache', 'workdir', 'accelerators'):
        monkeypatch.setattr(host, name, hang)
    for name, seconds in {'CHECK_S': 0.2, 'DEVICES_S': 0.3, 'TOTAL_S': 1.2, 'LEAST_S': 0.05}.items():
        monkeypatch.setattr(doctor, name, seconds)
    before = time.monotonic()
    code, out, _ = run(capsys, 'doctor', f'--workdir={tmp_path}', script=changed(get_experiment=hang))
    assert time.monotonic() - before < 2.5 and code == 4 and here == [4]
    lines = [' '.join(text.split()) for text in out.splitlines()]
    for words in ('FAILED cache', 'FAILED workdir', 'FAILED accelerators', 'warning experiment'):
        assert any(text.startswith(f'{words} no answer within ') for text in lines), (words, lines)


def test_the_memory_of_a_gpu_is_not_taken(capsys, monkeypatch):
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    for before, after in ((None, 'false'), ('true', 'true')):
        if before is None:
            monkeypatch.delenv('XLA_PYTHON_CLIENT_PREALLOCATE')
        else:
            monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', before)
        seen = []
        monkeypatch.setattr(host, 'accelerators', lambda *_, seen=seen: seen.append(
            os.environ['XLA_PYTHON_CLIENT_PREALLOCATE']) or host.Check('accelerators', 'ok', ''))
        run(capsys, 'doctor')
        assert seen == [after]


def test_a_workdir_that_is_none_is_a_line(capsys, monkeypatch):
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    code, out, err = run(capsys, 'doctor', '--workdir=s3://bucket/run')
    assert code == 4 and not err and out.count('FAILED ') == 1 and 'mountpoint-s3' in out and 'ok       memory' in out
