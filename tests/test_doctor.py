"""The doctor: every fault provoked, and the line that it gives; and what it must not do: compile, allocate, leave files."""
import collections
import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from bigjax import UserError, doctor, doctor_host
from bigjax import config as configs
from bigjax.parallel import mesh as meshes
from bigjax.parallel import rules, visible
from bigjax.train import compiled
from bigjax.train import settings as settings_module
from tests import tiny, workdirs
from tests.parallel.test_processes import environment, free_port
from tests.test_cli import SCRIPT, get_config, get_experiment, run

COMPILED = []  # by any thread
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event == compiled._DURATION else None)
GOOD = {'jax': '0.10.2', 'jaxlib': '0.10.2', 'flax': '0.12.8', 'optax': '0.2.8', 'orbax-checkpoint': '0.12.8', 'numpy': '2.4.6'}
REQUIRES = ['jax>=0.10.2,<0.13', 'flax>=0.12.8,<0.13', 'grain>=0.2.18', 'jax[cuda12]; extra == "cuda"']


def line(check):
    """As it is printed, blanks run together."""
    return ' '.join(str(check).split())


@pytest.mark.parametrize(('changes', 'requires', 'said'), [
    ({}, REQUIRES, 'ok versions python 3.11.9, jax 0.10.2, jaxlib 0.10.2, flax 0.12.8, optax 0.2.8, orbax-checkpoint 0.12.8, '
                   'numpy 2.4.6'),
    ({'jaxlib': '0.10.1'}, REQUIRES, "FAILED versions jax 0.10.2 with jaxlib 0.10.1; pip install 'jaxlib==0.10.2'"),
    ({'jax-cuda12-plugin': '0.10.1'}, REQUIRES,
     "FAILED versions jax-cuda12-plugin 0.10.1 with jaxlib 0.10.2; pip install 'jax-cuda12-plugin==0.10.2'"),
    ({'jax-cuda13-plugin': '0.10.2', 'libtpu': '0.0.42'}, REQUIRES, 'ok versions'),
    ({'numpy': '1.26.4'}, REQUIRES, "FAILED versions numpy 1.26.4 is outside >=2; pip install 'numpy>=2'"),
    ({'flax': '0.13.0'}, REQUIRES, "FAILED versions flax 0.13.0 is outside <0.13,>=0.12.8; pip install 'flax<0.13,>=0.12.8'"),
    ({'jax': '0.9.0', 'jaxlib': '0.9.0'}, REQUIRES, 'FAILED versions jax 0.9.0 is outside <0.13,>=0.10.2'),
    ({'jax': None}, REQUIRES, 'FAILED versions jax is not installed; pip install'),
    ({'grain': '0.2.1'}, REQUIRES, 'FAILED versions grain 0.2.1 is outside >=0.2.18'),
    ({}, [], 'warning versions python 3.11.9, jax 0.10.2')])
def test_versions(changes, requires, said):
    packages = {k: v for k, v in (GOOD | changes).items() if v}
    assert line(doctor_host.versions(packages, requires, '3.11.9')).startswith(said)


def process(root, number, command, *files):
    """A process in a folder that stands for /proc."""
    (root / f'proc/{number}/fd').mkdir(parents=True)
    (root / f'proc/{number}/cmdline').write_text(command.replace(' ', '\0') + '\0')
    for i, file in enumerate(files):
        (root / f'proc/{number}/fd/{i}').symlink_to(file)


MINE = 'python -m experiments.mnist1d doctor --process=0'


@pytest.mark.parametrize(('shown', 'others', 'said'), [
    ({}, {7: ('python', '/dev/nvidia0')}, 'ok holders no accelerator to hold'),
    ({'cuda': ['/dev/nvidia0']}, {7: ('python', '/dev/null', '/dev/nvidiactl')},
     'ok holders no other process that this user may see has /dev/nvidia0 open'),
    ({'cuda': ['/dev/nvidia0', '/dev/nvidia1']}, {7: ('python train.py', '/dev/nvidia1', '/dev/nvidia0', '/dev/nvidia0')},
     'warning holders /dev/nvidia0, /dev/nvidia1 is held by pid 7 of USER: python train.py; end it, or wait for it'),
    ({'tpu': ['/dev/vfio/0']}, {7: ('python train.py', '/dev/vfio/0')},
     'FAILED holders /dev/vfio/0 is held by pid 7 of USER: python train.py; end it, or wait for it'),
    ({'tpu': ['/dev/accel0']}, {7: ('python -m experiments.mnist1d doctor --process 1', '/dev/accel0')}, 'ok holders'),
    ({'cuda': ['/dev/nvidia0']}, {i: (f'python {i}', '/dev/nvidia0') for i in range(7, 12)},
     'pid 9 of USER: python 9; and 2 more; end it, or wait for it')])
def test_holders(tmp_path, shown, others, said):
    process(tmp_path, 5, MINE, *(file for files in shown.values() for file in files))
    for number, (command, *files) in others.items():
        process(tmp_path, number, command, *files)
    user = doctor_host._user(tmp_path / 'proc/5')
    assert said.replace('USER', user) in line(doctor_host.holders(shown, tmp_path, own=5))


@pytest.mark.parametrize(('limit', 'free'), [
    (None, 3 << 30), ('max', 3 << 30), (str(5 << 28), 1 << 30), (str(5 << 32), 3 << 30)])
def test_the_free_memory_is_that_of_the_machine_or_of_the_control_group(tmp_path, limit, free):
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/meminfo').write_text(f'MemTotal:  9999 kB\nMemAvailable:  {3 << 20} kB\n')
    if limit:
        (tmp_path / 'proc/self/cgroup').write_text('0::/job\n')
        (tmp_path / 'sys/fs/cgroup/job').mkdir(parents=True)
        (tmp_path / 'sys/fs/cgroup/job/memory.max').write_text(f'{limit}\n')
        (tmp_path / 'sys/fs/cgroup/job/memory.current').write_text(f'{1 << 28}\n')
    assert doctor_host.host_memory(tmp_path) == free
    assert doctor_host.host_memory(tmp_path / 'elsewhere') is None


GIB = 1 << 30


@pytest.mark.parametrize(('free', 'status', 'said'), [
    (8 * GIB, 'ok', ', 8.00 GiB is free'), (2 * GIB, 'FAILED', ', 2.00 GiB is free; buy more'),
    (4 * GIB, 'warning', ', 4.00 GiB is free, which may not be enough; buy more'),
    (None, 'ok', '; how much is free is not told here')])
def test_room(free, status, said):
    found = doctor_host.room('memory', 'the run', {'parameters': GIB, 'best': 0, 'data': 2 * GIB}, free, 'buy more')
    need = 'the run needs at least 3.00 GiB (parameters 1.00 GiB, data 2.00 GiB)'
    assert line(found) == f'{status} memory {need}{said}'


@pytest.mark.parametrize(('need', 'said'), [
    (2 * GIB, 'ok disk the checkpoints in FOLDER need 2.00 GiB, 3.00 GiB is free'),
    (0, 'ok disk the checkpoints in FOLDER need an unknown size, 3.00 GiB is free'),
    (4 * GIB, 'FAILED disk the checkpoints in FOLDER need 4.00 GiB, 3.00 GiB is free; free some, choose another --workdir, or '
              '--config.checkpoint_keep=1')])
def test_disk(tmp_path, need, said):
    def usage(place):
        assert place == tmp_path  # the nearest that exists
        return collections.namedtuple('Usage', 'free')(3 * GIB)

    folder = tmp_path / 'not' / 'yet'
    assert line(doctor_host.disk(folder, need, usage)).startswith(said.replace('FOLDER', str(folder)))


def test_the_cache_of_compiled_programs(tmp_path):
    assert line(doctor_host.cache(str(tmp_path))) == f'ok cache compiled programs are kept in {tmp_path}'
    assert not list(tmp_path.iterdir())
    assert line(doctor_host.cache(None)).startswith('warning cache compiled programs are kept nowhere')
    said = line(doctor_host.cache('/proc/nothing'))
    assert said.startswith('warning cache /proc/nothing: compiled programs cannot be kept there (No such file')
    assert said.endswith('--compile_cache=DIR names another folder')


ALONE = lambda number: [number]


def test_a_workdir_that_is_well_is_left_as_it_was(tmp_path):
    for folder in (tmp_path, tmp_path / 'a' / 'b'):
        checks = doctor_host.workdir(folder, 0, 1, ALONE)
        assert [line(c) for c in checks] == [
            f'ok workdir {folder}: it can be written',
            f'ok disk clock the clock of the file system of {folder} is that of this machine, within 5 s']
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('folder', ['/proc/nothing/here', '/dev/null/run'])
def test_a_workdir_that_cannot_be_made(folder):
    said = [line(c) for c in doctor_host.workdir(pathlib.Path(folder), 0, 1, ALONE)]
    assert len(said) == 1 and said[0].startswith(f'FAILED workdir {folder}: it cannot be written (')
    assert said[0].endswith('; choose another --workdir')


@pytest.mark.parametrize('call', ['fsync', 'replace', 'unlink'])
def test_a_workdir_that_takes_no_checkpoint(tmp_path, monkeypatch, call):
    def broken(*args, **kwargs):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(*((pathlib.Path, 'unlink') if call == 'unlink' else (doctor_host.os, call)), broken)
    said = [line(c) for c in doctor_host.workdir(tmp_path, 0, 1, ALONE)]
    assert said == [f'FAILED workdir {tmp_path}: it cannot be written (Read-only file system); choose another --workdir']


@pytest.mark.parametrize(('shift', 'said'), [
    (-8, 'warning disk clock the clock of the file system of FOLDER is 8 s ahead of this machine; synchronise them'),
    (8, 'warning disk clock the clock of the file system of FOLDER is 8 s behind this machine; synchronise them'),
    (70, 'FAILED disk clock the clock of the file system of FOLDER is 70 s behind this machine; synchronise them')])
def test_the_clock_of_the_file_system(tmp_path, monkeypatch, shift, said):
    clock = types.SimpleNamespace(**{**vars(time), 'time': lambda: time.time() + shift})
    monkeypatch.setattr(doctor_host, 'time', clock)
    assert line(doctor_host.workdir(tmp_path, 0, 1, ALONE)[1]).startswith(said.replace('FOLDER', str(tmp_path)))


@pytest.mark.parametrize(('there', 'said'), [
    (1, 'FAILED workdir FOLDER: process 0 does not see the files of process 1; it has to be on a file system'),
    (0, 'ok workdir FOLDER: it can be written, and all 2 processes see it')])
def test_another_process_that_writes_elsewhere_or_cannot_write(tmp_path, there, said):
    """Where the other could not write, it is the other that says so."""
    answers = iter([[77, 5], [1, there], [0, 0], [0, 0]])
    checks = doctor_host.workdir(tmp_path, 0, 2, lambda number: next(answers), seconds=0.2)
    assert line(checks[0]).startswith(said.replace('FOLDER', str(tmp_path))) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(('times', 'said'), [
    ([100, 101, 99], 'ok clocks'), ([100, 100], 'ok clocks those of 2 processes are the same, to a second'),
    ([100, 93, 101], 'warning clocks the clock of process 1 is 7 s behind process 0; synchronise them'),
    ([100, 100, 161], 'FAILED clocks the clock of process 2 is 61 s ahead of process 0; synchronise them')])
def test_the_clocks_of_the_processes(times, said):
    answers = iter([[0] * len(times), times])
    assert line(doctor_host.clocks(lambda number: next(answers), lambda: 100.5)).startswith(said)


def test_a_workdir_that_holds_a_run(tmp_path):
    workdirs.make(tmp_path / 'done', artifacts=False)
    config = json.loads((tmp_path / 'done' / 'config.json').read_text())
    workdirs.make(tmp_path / 'going', status='running', artifacts=False)
    ask = lambda name, variant='cnn', **changes: line(doctor.held(tmp_path / name, 'mnist1d', variant, {**config, **changes}))
    assert ask('none') == f"ok run {tmp_path / 'none'}: no other run is there"
    assert ask('done') == f"ok run {tmp_path / 'done'}: holds this run, done"
    assert ask('going').startswith(f"warning run {tmp_path / 'going'}: a run wrote there 0 s ago; let it end")
    os.utime(tmp_path / 'going' / 'run.json', (0, time.time() - 3600))
    assert ask('going').startswith(f"ok run {tmp_path / 'going'}: holds this run at step ")
    with pytest.raises(UserError, match='another variant'):
        ask('done', 'mlp')
    with pytest.raises(UserError, match='batch_size'):
        ask('done', batch_size=7)


def settings(**changes):
    return settings_module.read(configs.Reader(tiny.config(**changes)), 53)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'mesh': 'data:8'}, 'ok devices 8 x cpu (cpu), mesh data:8, 1 examples of 8 on each part'),
    ({'mesh': 'data:2,tensor:4'}, 'ok devices 8 x cpu (cpu), mesh data:2,tensor:4, 4 examples of 8 on each part'),
    ({'mesh': 'data:2'}, 'warning devices 8 x cpu (cpu), mesh data:2, 4 examples of 8 on each part; 6 devices stay idle')])
def test_devices(changes, said):
    assert line(doctor.devices(settings(**changes))).startswith(said)


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
    raise ValueError('not a picture')


@pytest.mark.parametrize(('changes', 'said'), [
    ({}, 'ok data train 53 records (label int32[], x float32[5]); test 17 records (label int32[], x float32[5])'),
    ({'evals': {'val': Broken()}}, 'FAILED data val: record 2 cannot be read (OSError: [Errno 5] Input/output error); get the'),
    ({'evals': {'val': Broken(0)}}, 'FAILED data val: the split is empty; name other data'),
    ({'transform': spoil}, 'FAILED data train: record 52 cannot be read (ValueError: not a picture); get the data anew')])
def test_records(changes, said):
    data = dataclasses.replace(tiny.experiment().data, **changes)
    assert line(doctor.attempt('data', lambda: doctor.records(data), 10)[0]).startswith(said)


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
    shapes = doctor.shapes(program.experiment, program.settings)
    need = doctor.state_bytes(shapes, program.experiment, program.settings, meshes.abstract(changes['mesh']))
    assert sum(need.values()) - need['gradients'] == held
    assert need['gradients'] == need['parameters'] > 0


def test_the_memory_of_an_accelerator_and_of_its_machine(monkeypatch):
    s, e = settings(mesh='data:8'), tiny.experiment()
    state = doctor.shapes(e, s)
    kept = sum(a.nbytes for source in (e.data.train, e.data.evals['test']) for a in source.arrays.values())
    assert doctor.resident_bytes(e.data, s) == kept and doctor.resident_bytes(e.data, settings(resident='no')) == 0
    assert [c.status for c in doctor.memory(e, s, state, 1 << 30)] == ['ok']
    assert [c.status for c in doctor.memory(e, s, state, 1)] == ['FAILED']
    assert f'data {doctor_host.gib(8 * kept)}' in doctor.memory(e, s, state, 1)[0].text  # eight devices share the machine
    for used, status in ((100, 'ok'), (1 << 30, 'FAILED')):
        chip = types.SimpleNamespace(platform='gpu', memory_stats=lambda n=used: {'bytes_limit': 1 << 30, 'bytes_in_use': n})
        monkeypatch.setattr(jax, 'local_devices', lambda chip=chip: [chip])
        device, machine = doctor.memory(e, s, state, 1 << 30)
        assert (device.status, machine.status, machine.name) == (status, 'ok', 'host memory')
    assert doctor.memory(e, s, state, 1)[1].status == 'FAILED'


@pytest.mark.parametrize(('error', 'said'), [
    (UserError('wrong'), 'FAILED it wrong'), (ValueError('two\nlines'), 'FAILED it ValueError: two lines'),
    (SystemExit(3), 'FAILED it SystemExit: 3'), (None, 'FAILED it no answer within 1 s')])
def test_a_check_that_raises_or_does_not_answer_is_a_line(error, said):
    def check():
        if error is None:
            time.sleep(5)
        raise error

    assert line(doctor.attempt('it', check, 0.1)[0]).startswith(said)


def changed(**parts):
    return types.SimpleNamespace(**{**vars(SCRIPT), **parts})


def no_data(config):
    raise UserError('config.data: mnist is nowhere; get it')


def unread(config):
    return dataclasses.replace(tiny.experiment(), optimizer=config.optimizer)


@pytest.mark.parametrize(('argv', 'script', 'code', 'said'), [
    ((), SCRIPT, 0, ('ok experiment 12 steps of 8', 'ok run', 'ok data train 53', 'ok model 179 parameters', 'ok memory',
                     'ok disk')),
    (('--config.mesh=data:9',), SCRIPT, 4, ("FAILED devices config.mesh: 'data:9' asks for 9 devices and there are 8",
                                            'ok model')),
    (('--config.mesh=data:3',), SCRIPT, 4, ('FAILED devices config.batch_size: 8 is not divisible by 3 devices',)),
    (('--config.batch_size=0',), SCRIPT, 4, ('FAILED experiment config.batch_size: 0 is not', 'ok disk')),
    (('--config.optimizer.name=adm',), SCRIPT, 4, ("did you mean 'adam'", 'FAILED model', 'ok disk')),
    ((), changed(get_experiment=no_data), 4, ('FAILED experiment config.data: mnist is nowhere; get it', 'warning devices',
                                              'ok disk')),
    ((), changed(get_experiment=unread), 4, ('FAILED model config.', 'set, and never read by this run')),
    (('--variant=c',), SCRIPT, 4, ("FAILED experiment variant: there is no 'c'",)),
    (('--compile_cache=off',), SCRIPT, 0, ('warning cache',))])
def test_the_verb(capsys, tmp_path, monkeypatch, argv, script, code, said):
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    jax.clear_caches()  # so that whatever is computed has to be compiled
    kept, programs, arrays = jax.config.jax_enable_compilation_cache, len(COMPILED), len(jax.live_arrays())
    try:
        ended, out, err = run(capsys, 'doctor', f'--workdir={tmp_path}/run', *argv, script=script)
    finally:
        jax.config.update('jax_enable_compilation_cache', kept)
    lines = [' '.join(text.split()) for text in out.splitlines()]
    assert ended == code and not err and lines[0].split()[:2] in (['ok', 'versions'], ['warning', 'versions'])
    for words in said:
        assert any(words in text for text in lines), (words, lines)
    assert sum(text.startswith('FAILED') for text in lines) == bool(code) and f'{int(bool(code))} FAILED' in lines[-1]
    assert not list(tmp_path.iterdir()) and len(jax.live_arrays()) == arrays and len(COMPILED) == programs


def test_every_row_is_looked_at_while_there_is_time(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    script = changed(get_config=lambda row: get_config(''), TABLE=('a', 'c'))
    code, out, _ = run(capsys, 'doctor', f'--workdir={tmp_path}', script=script)
    assert code == 0 and 'a model' in out and 'c model' in out and f'{tmp_path}/c' in out
    monkeypatch.setattr(doctor, 'ROW_SECONDS', doctor.TOTAL)
    code, out, _ = run(capsys, 'doctor', script=script)
    assert code == 0 and 'c model' not in out and '1 of 2 rows were looked at' in out and '--workdir=DIR names it' in out


def test_data_that_takes_too_long_is_a_warning_and_the_devices_are_still_looked_at(capsys, monkeypatch):
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    monkeypatch.setattr(doctor, 'OPENING', 0.1)
    ended = []

    def slow(config):
        time.sleep(2)
        ended.append(1)
        return get_experiment(config)

    code, out, _ = run(capsys, 'doctor', '--config.mesh=data:8', script=changed(get_experiment=slow, TABLE=('a', 'b')))
    lines = [' '.join(text.split()) for text in out.splitlines()]
    assert code == 0 and not ended and any(text.startswith('warning a experiment no answer within 1 s') for text in lines)
    assert any(text.startswith('ok a devices 8 x cpu') for text in lines) and 'b experiment' not in out


@pytest.mark.parametrize(('environ', 'status', 'words'), [
    ({'JAX_PLATFORMS': 'cpu'}, 'warning', 'JAX_PLATFORMS=cpu in the environment'),
    ({}, 'FAILED', '/dev/nvidia0 is there and JAX does not compute on it')])
def test_an_accelerator_that_jax_does_not_use(monkeypatch, environ, status, words):
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    shown = {'cuda': ['/dev/nvidia0']}
    monkeypatch.setattr(visible, 'accelerators', lambda *_: shown)
    found = doctor.attempt('accelerators', lambda: doctor.accelerators(shown, ''), 10)[0]
    assert found.status == status and words in found.text


@pytest.mark.slow
@pytest.mark.parametrize('shared', [True, False])
def test_two_processes_look_together(tmp_path, shared):
    """In folders of their own, a relative --workdir is not the same place."""
    places = [tmp_path / ('all' if shared else f'host{i}') for i in range(2)]
    port, running = free_port(), []
    for i, place in enumerate(places):
        place.mkdir(exist_ok=True)
        running.append(subprocess.Popen(
            [sys.executable, '-m', 'experiments.mnist1d', 'doctor', '--variant=mlp', '--config.data=fake', '--workdir=run',
             f'--coordinator=127.0.0.1:{port}', '--processes=2', f'--process={i}'], cwd=place, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        outs = [p.communicate(timeout=200)[0] for p in running]
    finally:
        for p in running:
            p.kill()
    assert [p.returncode for p in running] == [0 if shared else 4] * 2, '\n---\n'.join(outs)
    first = ' '.join(outs[0].split())
    assert 'ok clocks those of 2 processes' in first or 'ok clocks the clock of process 1' in first
    for i, out in enumerate(outs):
        assert ('does not see' in out) == (not shared)
        assert shared or f'process {i} does not see the files of process {1 - i};' in out
    assert shared or '1 FAILED, and 1 on other processes' in first
    assert not [p for place in places for p in place.iterdir()]
