"""The checks of the machine, in folders that stand for /proc, /sys and /dev."""
import collections
import types

import jax
import pytest

from bigjax.distributed import accelerators
from bigjax.distributed.bootstrap import Start
from bigjax.doctor import host
from bigjax.doctor import verb as doctor
from tests.doctor.test_doctor import line, refuse


@pytest.mark.parametrize(('limit', 'free'), [
    (None, 3 << 30), ('max', 3 << 30), (str(5 << 28), 1 << 30), (str(5 << 32), 3 << 30)])
def test_the_free_memory_is_that_of_the_machine_or_of_the_control_group(tmp_path, limit, free):
    (tmp_path / 'proc').mkdir()
    (tmp_path / 'proc/meminfo').write_text(f'MemTotal:  9999 kB\nMemAvailable:  {3 << 20} kB\n')
    if limit:
        group = tmp_path / 'sys/fs/cgroup'
        group.mkdir(parents=True)
        (group / 'memory.max').write_text(f'{limit}\n')
        (group / 'memory.current').write_text(f'{3 << 28}\n')
        (group / 'memory.stat').write_text(f'anon 5\ninactive_file {2 << 28}\n')  # the page cache is free
    assert host.host_memory(tmp_path) == free
    assert host.host_memory(tmp_path / 'elsewhere') is None


GIB = 1 << 30


@pytest.mark.parametrize(('free', 'status', 'said'), [
    (8 * GIB, 'ok', ', 8.00 GiB is free'), (2 * GIB, 'FAILED', ', 2.00 GiB is free; buy more'),
    (4 * GIB, 'warning', ', 4.00 GiB is free, which may not be enough; buy more'),
    (None, 'ok', '; the free memory is not known')])
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
    for folder in (None, '/proc/nothing'):
        found = host.cache(folder)
        assert found.status == 'warning' and '--compile_cache=DIR' in found.text and (folder or '') in found.text


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
    ('tpu', {}, RuntimeError('Unable to initialize backend\n'), "(--platform=tpu): Unable to initialize backend; "
     "pip install 'bigjax[tpu]', or --platform=cpu to run on the CPU on purpose"),
    ('', {}, FileNotFoundError(2, 'No such file or directory'), '(the best there is): FileNotFoundError: [Errno 2] No such '
     'file or directory; --platform=cpu to run on the CPU on purpose')])
def test_devices_that_do_not_start(monkeypatch, asked, environ, error, said):
    for name in ('devices', 'local_devices'):
        monkeypatch.setattr(jax, name, refuse(error))
    found = doctor.attempt('accelerators', lambda: host.accelerators({}, asked, environ=environ), 10)[0]
    assert line(found) == f'FAILED accelerators JAX cannot start its devices {said}'


@pytest.mark.parametrize(('count', 'alone', 'environ', 'said'), [
    (2, True, {}, 'ok accelerators /dev/nvidia0, /dev/nvidia1; JAX computes on gpu'),
    (1, True, {}, 'warning accelerators /dev/nvidia0, /dev/nvidia1; JAX computes on gpu, 1 of 2; see'),
    (1, True, {'CUDA_VISIBLE_DEVICES': '0'}, 'JAX computes on gpu, 1 of 2; CUDA_VISIBLE_DEVICES=0 in the environment hides the '
                                             'others; unset it'),
    (1, False, {}, 'ok accelerators')])
def test_accelerators_that_jax_leaves_out(monkeypatch, count, alone, environ, said):
    """The mesh data:-1 takes any number of devices."""
    monkeypatch.setattr(accelerators, 'require_accelerator', lambda *_, **__: None)
    monkeypatch.setattr(jax, 'local_devices', lambda: [types.SimpleNamespace(platform='gpu')] * count)
    assert said in line(host.accelerators({'cuda': ['/dev/nvidia0', '/dev/nvidia1']}, '', alone, environ))


@pytest.mark.parametrize(('start', 'alone'), [
    (Start(), True), (Start('a:1', 2, 0, hosts=2), True), (Start('a:1', 4, 0, hosts=2), False),
    (Start('a:1', 2, 0, hosts=None), False), (Start('a:1', 2, 0, (0,), hosts=2), False)])
def test_whose_the_accelerators_of_a_host_are(start, alone):
    assert host.own_host(start) == alone


@pytest.mark.parametrize(('code', 'out', 'status'), [
    (0, 'No broken requirements found.\n', 'ok'),
    (1, 'jax 0.10 has requirement numpy>=2, but you have numpy 1.26.\n', 'warning')])
def test_packages(monkeypatch, code, out, status):
    monkeypatch.setattr(host.subprocess, 'run', lambda *_, **__: types.SimpleNamespace(returncode=code, stdout=out))
    found = host.packages()
    assert found.status == status and f'jax {jax.__version__}' in found.text and (code == 0 or 'numpy>=2' in found.text)


def test_packages_without_pip(monkeypatch):
    def none(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(host.subprocess, 'run', none)
    assert host.packages().status == 'ok'


def test_a_workdir_leaves_nothing_behind(tmp_path):
    assert host.workdir(tmp_path / 'a' / 'b').status == 'ok' and not list(tmp_path.iterdir())
    (tmp_path / 'file').touch()
    assert host.workdir(tmp_path / 'file' / 'run').status == 'FAILED'
