"""The doctor: every fault provoked, and the line that it gives; and what it must not do: compile, allocate, leave files."""
import collections
import dataclasses
import errno
import json
import os
import pathlib
import re
import time
import types

import jax
import numpy as np
import pytest

from bigjax import UserError, doctor, doctor_experiment, doctor_host
from bigjax import config as configs
from bigjax.parallel import mesh as meshes
from bigjax.parallel import rules, visible
from bigjax.parallel.start import Start
from bigjax.train import compiled
from bigjax.train import settings as settings_module
from tests import tiny, workdirs
from tests.test_cli import SCRIPT, get_config, get_experiment, run

COMPILED = []  # by any thread
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event == compiled._DURATION else None)
def line(check):
    """As it is printed, blanks run together."""
    return ' '.join(str(check).split())


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """The doctor returns also where a check hangs, and its environment is not that of the next test."""
    monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'true')
    left = []
    monkeypatch.setattr(doctor, 'leave', lambda job, together, code: left.append(code) or code)
    return left


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


def group(folder, limit, used, cached=0, names=('memory.max', 'memory.current', 'inactive_file')):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=False):
        (folder / name).write_text(f'{value}\n')
    (folder / 'memory.stat').write_text(f'anon 5\nxinactive_file 9\n{names[2]} {cached}\nactive_file 7\n')


@pytest.mark.parametrize(('version', 'groups', 'free'), [
    (2, {'a/job_1/step_0/task': ('max', 1, 0), 'a/job_1': (5, 1, 0), 'a': (9, 1, 0)}, 4),  # SLURM's limit is the job's
    (2, {'a/job_1': ('max', 1, 0), 'a': (7, 2, 1)}, 6), (2, {'a/job_1/step_0/task': (5, 4, 3), 'a': (99, 1, 0)}, 4),
    (2, {'': (6, 1, 0)}, 5),  # a container that is told the path of its host
    (1, {'a/job_1/step_0/task': ((1 << 63) - 4096 >> 20, 1, 0), 'a/job_1': (5, 2, 1)}, 4), (1, {'': (6, 5, 2)}, 3),
    (2, {'a': (5, 1, 0), 'a/job_1': (None, 0, 0)}, 4)])
def test_the_control_groups_above_count_and_the_page_cache_is_free(tmp_path, version, groups, free):
    """Sizes in MiB."""
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/meminfo').write_text(f'MemAvailable:  {1 << 20} kB\n')
    path = 'a/job_1/step_0/task'
    told = f'0::/{path}\n' if version == 2 else f'4:cpu,cpuacct:/x\n9:memory:/{path}\n0::/\n'
    (tmp_path / 'proc/self/cgroup').write_text(told)
    names = {} if version == 2 else {'names': ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')}
    for where, (limit, used, cached) in groups.items():
        limit = limit << 20 if isinstance(limit, int) else limit
        group(tmp_path / 'sys/fs/cgroup' / ('' if version == 2 else 'memory') / where, limit, used << 20, cached << 20, **names)
    assert doctor_host.host_memory(tmp_path) == free << 20


@pytest.mark.parametrize('hidden', ['refused', 'mounted', 'seen'])
def test_what_could_not_be_seen_is_told(tmp_path, monkeypatch, hidden):
    process(tmp_path, 5, MINE)
    process(tmp_path, 7, 'python train.py', '/dev/nvidia0')
    (tmp_path / 'proc/mounts').write_text(f"proc /proc proc rw,nosuid{',hidepid=invisible' * (hidden == 'mounted')} 0 0\n")
    if hidden == 'refused':
        listed = pathlib.Path.iterdir
        monkeypatch.setattr(pathlib.Path, 'iterdir', lambda self: listed(self) if self.parent.name != '7' else refused())
    said = line(doctor_host.holders({'cuda': ['/dev/nvidia0']}, tmp_path, own=5))
    assert ('what 1 processes of other users have open could not be seen (sudo fuser -v /dev/nvidia0 shows' in said) == (
        hidden == 'refused')
    assert ('processes of other users are hidden here (sudo fuser -v /dev/nvidia0 shows them)' in said) == (hidden == 'mounted')
    assert ('is held by pid 7' in said) == (hidden != 'refused')


def refused(*_):
    raise PermissionError(errno.EACCES, 'Permission denied')


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


def test_a_workdir_that_holds_a_run(tmp_path):
    workdirs.make(tmp_path / 'done', artifacts=False)
    config = json.loads((tmp_path / 'done' / 'config.json').read_text())
    workdirs.make(tmp_path / 'going', status='running', artifacts=False)

    def ask(name, variant='cnn', **changes):
        return line(doctor_experiment.held(tmp_path / name, 'mnist1d', variant, {**config, **changes}))

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
    assert line(doctor_experiment.devices(settings(**changes))).startswith(said)


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
    assert line(doctor.attempt('data', lambda: doctor_experiment.records(data), 10)[0]).startswith(said)


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
    shapes = doctor_experiment.shapes(program.experiment, program.settings)
    need = doctor_experiment.state_bytes(shapes, program.experiment, program.settings, meshes.abstract(changes['mesh']))
    assert sum(need.values()) - need['gradients'] == held
    assert need['gradients'] == need['parameters'] > 0


def test_the_memory_of_an_accelerator_and_of_its_machine(monkeypatch):
    s, e = settings(mesh='data:8'), tiny.experiment()
    state = doctor_experiment.shapes(e, s)
    kept = sum(a.nbytes for source in (e.data.train, e.data.evals['test']) for a in source.arrays.values())
    assert doctor_experiment.resident_bytes(e.data, s) == kept
    assert doctor_experiment.resident_bytes(e.data, settings(resident='no')) == 0
    assert [c.status for c in doctor_experiment.memory(e, s, state, 1 << 30)] == ['ok']
    assert [c.status for c in doctor_experiment.memory(e, s, state, 1)] == ['FAILED']
    whole = f'data {doctor_host.gib(8 * kept)}'  # eight devices share the machine
    assert whole in doctor_experiment.memory(e, s, state, 1)[0].text
    for used, status in ((100, 'ok'), (1 << 30, 'FAILED')):
        chip = types.SimpleNamespace(platform='gpu', memory_stats=lambda n=used: {'bytes_limit': 1 << 30, 'bytes_in_use': n})
        monkeypatch.setattr(jax, 'local_devices', lambda chip=chip: [chip])
        device, machine = doctor_experiment.memory(e, s, state, 1 << 30)
        assert (device.status, machine.status, machine.name) == (status, 'ok', 'host memory')
    assert doctor_experiment.memory(e, s, state, 1)[1].status == 'FAILED'


@pytest.mark.parametrize(('error', 'said'), [
    (UserError('wrong'), 'FAILED it wrong'), (ValueError('two\nlines'), 'FAILED it ValueError: two lines'),
    (SystemExit(3), 'FAILED it SystemExit: 3'), (None, 'FAILED it no answer within 0.5 s')])
def test_a_check_that_raises_or_does_not_answer_is_a_line(error, said):
    def check():
        if error is None:
            time.sleep(5)
        raise error

    assert line(doctor.attempt('it', check, 0.1)[0]).startswith(said)


@pytest.mark.parametrize('name', list(doctor.MENDS))
def test_an_error_that_no_check_foresees_ends_with_the_place_and_a_mend(name):
    def check():
        assert not name

    said = line(doctor.attempt(f'row {name}', check, 5)[0])
    assert re.search(rf'^FAILED row {name} AssertionError: assert .*, at test_doctor.py:\d+; ', said)
    assert said.endswith(f'; {doctor.MENDS[name]}')
    late = line(doctor.attempt(name, lambda: time.sleep(1), 0)[0]) if name == 'run' else f'; {doctor.MENDS[name]}'
    assert late.endswith(f'; {doctor.MENDS[name]}')


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


def test_data_that_takes_too_long_is_a_warning_and_the_devices_are_still_looked_at(capsys, monkeypatch, here):
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    monkeypatch.setattr(doctor_experiment, 'OPENING', 0.1)
    ended = []

    def slow(config):
        time.sleep(2)
        ended.append(1)
        return get_experiment(config)

    code, out, _ = run(capsys, 'doctor', '--config.mesh=data:8', script=changed(get_experiment=slow, TABLE=('a', 'b')))
    lines = [' '.join(text.split()) for text in out.splitlines()]
    assert code == 0 and not ended and any(text.startswith('warning a experiment no answer within 0.5 s') for text in lines)
    assert any(text.startswith('ok a devices 8 x cpu') for text in lines) and 'b experiment' not in out
    assert here == [0]  # the thread that opens the data is not waited for


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
    found = doctor.attempt('accelerators', lambda: doctor_host.accelerators(shown, ''), 10)[0]
    assert found.status == status and words in found.text


def refuse(error):
    def devices(*_):
        raise error

    return devices


@pytest.mark.parametrize(('asked', 'environ', 'error', 'said'), [
    ('', {'JAX_PLATFORMS': 'cuda'}, AssertionError(), "(JAX_PLATFORMS=cuda in the environment): AssertionError; pip install "
     "'bigjax[cuda]', or unset JAX_PLATFORMS if it is there by mistake, or --platform=cpu to run on the CPU on purpose"),
    ('tpu', {}, RuntimeError('Unable to initialize backend\n'), "(--platform=tpu): RuntimeError: Unable to initialize backend; "
     "pip install 'bigjax[tpu]', or --platform=cpu to run on the CPU on purpose"),
    ('', {}, FileNotFoundError(2, 'No such file or directory'), '(the best there is): FileNotFoundError: [Errno 2] No such '
     'file or directory; --platform=cpu to run on the CPU on purpose')])
def test_devices_that_do_not_start(monkeypatch, asked, environ, error, said):
    monkeypatch.setattr(jax, 'local_devices', refuse(error))
    found = doctor.attempt('accelerators', lambda: doctor_host.accelerators({}, asked, environ=environ), 10)[0]
    assert line(found) == f'FAILED accelerators JAX cannot start its devices {said}'


@pytest.mark.parametrize(('count', 'alone', 'environ', 'said'), [
    (2, True, {}, 'ok accelerators /dev/nvidia0, /dev/nvidia1; JAX computes on gpu'),
    (1, True, {}, "warning accelerators /dev/nvidia0, /dev/nvidia1; JAX computes on gpu, 1 of 2; free or mend the others"),
    (1, True, {'CUDA_VISIBLE_DEVICES': '0'}, 'JAX computes on gpu, 1 of 2; CUDA_VISIBLE_DEVICES=0 in the environment hides the '
                                             'others; unset it'),
    (1, False, {}, 'ok accelerators')])
def test_accelerators_that_jax_leaves_out(monkeypatch, count, alone, environ, said):
    """The mesh data:-1 takes any number of devices."""
    monkeypatch.setattr(visible, 'refuse_cpu', lambda *_, **__: None)
    monkeypatch.setattr(jax, 'local_devices', lambda: [types.SimpleNamespace(platform='gpu')] * count)
    assert said in line(doctor_host.accelerators({'cuda': ['/dev/nvidia0', '/dev/nvidia1']}, '', alone, environ))


@pytest.mark.parametrize(('start', 'alone'), [
    (Start(), True), (Start('a:1', 2, 0, hosts=2), True), (Start('a:1', 4, 0, hosts=2), False),
    (Start('a:1', 2, 0, hosts=None), False), (Start('a:1', 2, 0, (0,), hosts=2), False)])
def test_whose_the_accelerators_of_a_host_are(start, alone):
    assert doctor_host.own_host(start) == alone


def test_without_devices_the_other_checks_go_on(capsys, tmp_path, monkeypatch):
    """Nothing asks for a device any more, which may take minutes."""
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    for name in ('local_devices', 'devices', 'default_backend', 'process_index', 'process_count'):
        monkeypatch.setattr(jax, name, refuse(AssertionError()))
    for argv in ((f'--workdir={tmp_path}',), ()):
        code, out, err = run(capsys, 'doctor', *argv)
        lines = [' '.join(text.split()) for text in out.splitlines()]
        assert code == 4 and not err and lines[-1].split(';')[0].endswith(' 1 FAILED')
        for words in ('FAILED accelerators JAX cannot start its devices', 'warning devices devices, model and memory were not',
                      'ok experiment', 'ok data', 'ok disk' if argv else 'warning workdir'):
            assert any(text.startswith(words) for text in lines), (words, lines)


def test_the_memory_of_a_gpu_is_not_taken(capsys, monkeypatch):
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    for before, after in ((None, 'false'), ('true', 'true')):
        if before is None:
            monkeypatch.delenv('XLA_PYTHON_CLIENT_PREALLOCATE')
        else:
            monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', before)
        seen = []
        monkeypatch.setattr(doctor_host, 'accelerators', lambda *_, seen=seen: seen.append(
            os.environ['XLA_PYTHON_CLIENT_PREALLOCATE']) or doctor_host.Check('accelerators', 'ok', ''))
        run(capsys, 'doctor')
        assert seen == [after]


def test_a_workdir_that_is_none_is_a_line(capsys, monkeypatch):
    monkeypatch.setattr(visible, 'accelerators', lambda *_: {})
    code, out, err = run(capsys, 'doctor', '--workdir=s3://bucket/run')
    assert code == 4 and not err and out.count('FAILED ') == 1 and 'mountpoint-s3' in out and 'ok       memory' in out
