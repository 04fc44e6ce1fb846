"""What the doctor finds of a machine: in folders that stand for /proc, /sys and /dev."""
import collections
import errno
import pathlib
import types

import jax
import pytest

from bigjax.distributed import accelerators
from bigjax.distributed.bootstrap import Start
from bigjax.doctor import host
from bigjax.doctor import verb as doctor
from tests.doctor.test_doctor import line, refuse


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
    user = host._user(tmp_path / 'proc/5')
    assert said.replace('USER', user) in line(host.holders(shown, tmp_path, own=5))


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
    assert host.host_memory(tmp_path) == free
    assert host.host_memory(tmp_path / 'elsewhere') is None


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
    assert host.host_memory(tmp_path) == free << 20


@pytest.mark.parametrize('hidden', ['refused', 'mounted', 'seen'])
def test_what_could_not_be_seen_is_told(tmp_path, monkeypatch, hidden):
    process(tmp_path, 5, MINE)
    process(tmp_path, 7, 'python train.py', '/dev/nvidia0')
    (tmp_path / 'proc/mounts').write_text(f"proc /proc proc rw,nosuid{',hidepid=invisible' * (hidden == 'mounted')} 0 0\n")
    if hidden == 'refused':
        listed = pathlib.Path.iterdir
        monkeypatch.setattr(pathlib.Path, 'iterdir', lambda self: listed(self) if self.parent.name != '7' else refused())
    said = line(host.holders({'cuda': ['/dev/nvidia0']}, tmp_path, own=5))
    assert ('; 1 process of other users could not be looked into (sudo fuser -v /dev/nvidia0 shows them)' in said) == (
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
    found = host.room('memory', 'the run', {'parameters': GIB, 'best': 0, 'data': 2 * GIB}, free, 'buy more')
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
    assert line(host.disk(folder, need, usage)).startswith(said.replace('FOLDER', str(folder)))


def test_the_cache_of_compiled_programs(tmp_path):
    assert line(host.cache(str(tmp_path))) == f'ok cache compiled programs are kept in {tmp_path}'
    assert not list(tmp_path.iterdir())
    assert line(host.cache(None)).startswith('warning cache compiled programs are kept nowhere')
    said = line(host.cache('/proc/nothing'))
    assert said.startswith('warning cache /proc/nothing: compiled programs cannot be kept there (No such file')
    assert said.endswith('--compile_cache=DIR names another folder')


@pytest.mark.parametrize(('environ', 'status', 'words'), [
    ({'JAX_PLATFORMS': 'cpu'}, 'FAILED', 'JAX_PLATFORMS=cpu in the environment keeps it on the CPU; unset it'),
    ({}, 'FAILED', '/dev/nvidia0 is there and JAX does not compute on it')])
def test_an_accelerator_that_jax_does_not_use(monkeypatch, environ, status, words):
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    shown = {'cuda': ['/dev/nvidia0']}
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: shown)
    found = doctor.attempt('accelerators', lambda: host.accelerators(shown, ''), 10)[0]
    assert found.status == status and words in found.text


@pytest.mark.parametrize(('asked', 'environ', 'error', 'said'), [
    ('', {'JAX_PLATFORMS': 'cuda'}, AssertionError(), "(JAX_PLATFORMS=cuda in the environment): AssertionError; pip install "
     "'bigjax[cuda]', or unset JAX_PLATFORMS if it is there by mistake, or --platform=cpu to run on the CPU on purpose"),
    ('tpu', {}, RuntimeError('Unable to initialize backend\n'), "(--platform=tpu): RuntimeError: Unable to initialize backend; "
     "pip install 'bigjax[tpu]', or --platform=cpu to run on the CPU on purpose"),
    ('', {}, FileNotFoundError(2, 'No such file or directory'), '(the best there is): FileNotFoundError: [Errno 2] No such '
     'file or directory; --platform=cpu to run on the CPU on purpose')])
def test_devices_that_do_not_start(monkeypatch, asked, environ, error, said):
    monkeypatch.setattr(jax, 'local_devices', refuse(error))
    found = doctor.attempt('accelerators', lambda: host.accelerators({}, asked, environ=environ), 10)[0]
    assert line(found) == f'FAILED accelerators JAX cannot start its devices {said}'


@pytest.mark.parametrize(('count', 'alone', 'environ', 'said'), [
    (2, True, {}, 'ok accelerators /dev/nvidia0, /dev/nvidia1; JAX computes on gpu'),
    (1, True, {}, "warning accelerators /dev/nvidia0, /dev/nvidia1; JAX computes on gpu, 1 of 2; free or mend the others"),
    (1, True, {'CUDA_VISIBLE_DEVICES': '0'}, 'JAX computes on gpu, 1 of 2; CUDA_VISIBLE_DEVICES=0 in the environment hides the '
                                             'others; unset it'),
    (1, False, {}, 'ok accelerators')])
def test_accelerators_that_jax_leaves_out(monkeypatch, count, alone, environ, said):
    """The mesh data:-1 takes any number of devices."""
    monkeypatch.setattr(accelerators, 'refuse_cpu', lambda *_, **__: None)
    monkeypatch.setattr(jax, 'local_devices', lambda: [types.SimpleNamespace(platform='gpu')] * count)
    assert said in line(host.accelerators({'cuda': ['/dev/nvidia0', '/dev/nvidia1']}, '', alone, environ))


@pytest.mark.parametrize(('start', 'alone'), [
    (Start(), True), (Start('a:1', 2, 0, hosts=2), True), (Start('a:1', 4, 0, hosts=2), False),
    (Start('a:1', 2, 0, hosts=None), False), (Start('a:1', 2, 0, (0,), hosts=2), False)])
def test_whose_the_accelerators_of_a_host_are(start, alone):
    assert host.own_host(start) == alone
