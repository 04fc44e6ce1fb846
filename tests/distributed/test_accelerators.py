"""Accelerators that the system shows, in a folder that takes the place of the root; and no CPU beside one unless asked for."""
import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

from bigjax import cli
from bigjax.bench import cases
from bigjax.distributed import accelerators
from tests.refused import refused
from tests.tiers import first


def system(root, *files, vendors=()):
    """A folder with device files, and PCI devices of some vendors."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for i, vendor in enumerate(vendors):
        place = root / f'sys/bus/pci/devices/0000:00:0{i}.0'
        place.mkdir(parents=True)
        (place / 'vendor').write_text(f'{vendor}\n')
    return root


@pytest.mark.parametrize(('files', 'vendors', 'found'), [
    ((), (), {}),
    (('dev/null', 'dev/nvidiactl', 'dev/nvidia-uvm', 'dev/nvidia-caps/nvidia-cap1'), (), {}),
    (('dev/nvidiactl', 'dev/nvidia10', 'dev/nvidia2'), (), {'cuda': ['/dev/nvidia2', '/dev/nvidia10']}),
    (('dev/accel0', 'dev/accel1'), (), {'tpu': ['/dev/accel0', '/dev/accel1']}),
    (('dev/accel/accel0',), (), {}),
    (('dev/vfio/vfio', 'dev/vfio/0'), ('0x8086',), {}),
    (('dev/vfio/vfio', 'dev/vfio/0'), ('0x8086', '0x1ae0'), {'tpu': ['/dev/vfio/0']}),
    (('dev/vfio/vfio',), ('0x1ae0',), {}),
    (('dev/kfd', 'dev/nvidia0'), (), {'cuda': ['/dev/nvidia0'], 'rocm': ['/dev/kfd']})])
def test_what_shows(tmp_path, files, vendors, found):
    assert accelerators.accelerators(system(tmp_path, *files, vendors=vendors)) == found


def devices(platform='cpu', **errors):
    """`jax.devices` of a machine: its default, and the kinds that fail."""
    def ask(kind='default'):
        if kind in errors:
            raise RuntimeError(errors[kind])
        return [types.SimpleNamespace(platform=platform)]

    return ask


CUDA, LIB = {'jax-cuda12-plugin': '0.10.2'}, {'jaxlib': '0.10.2'}


@pytest.mark.parametrize(('file', 'ask', 'packages', 'environ', 'words'), [
    ('nvidia0', devices(), LIB, {},
     "/dev/nvidia0 is there and JAX does not compute on it: no plugin for cuda is installed; pip install 'bigjax[cuda]', or "
     '--platform=cpu to run on the CPU on purpose'),
    ('accel0', devices(), LIB, {}, "no plugin for tpu is installed; pip install 'bigjax[tpu]', or --platform=cpu"),
    ('kfd', devices(), LIB, {}, "no plugin for rocm is installed; install JAX's plugin for ROCm, or --platform=cpu"),
    ('nvidia0', devices(default="Unable to initialize\n backend 'cuda': no driver"), CUDA | LIB, {},
     "jax-cuda12-plugin 0.10.2 is installed and failed (Unable to initialize backend 'cuda': no driver)"),
    ('accel0', devices(tpu="Backend 'tpu' failed to initialize: in use"), LIB | {'libtpu': '0.0.42'}, {},
     "libtpu 0.0.42 is installed and failed (Backend 'tpu' failed to initialize: in use); free"),
    ('nvidia0', devices(cuda='Unknown backend cuda'), CUDA | LIB, {}, 'failed (see the output of JAX above)'),
    ('nvidia0', devices(), CUDA | {'jaxlib': '0.11.0'}, {}, 'jax-cuda12-plugin 0.10.2 is not for jaxlib 0.11.0; pip install'),
    ('nvidia0', devices(), CUDA | LIB, {'CUDA_VISIBLE_DEVICES': ''}, 'CUDA_VISIBLE_DEVICES= in the environment hides it')])
def test_the_cpu_beside_an_accelerator_is_refused_with_the_cause(tmp_path, file, ask, packages, environ, words):
    root = system(tmp_path, f'dev/{file}')
    with refused('accelerator/unused', f'/dev/{file}', '--platform=cpu', words):
        accelerators.require_accelerator(root=root, devices=ask, packages=packages, environ=environ)


def never(*_):
    pytest.fail('asked for devices')


@pytest.mark.parametrize(('files', 'platform', 'ask', 'environ'), [
    ((), '', never, {}),
    ((), '', never, {'JAX_PLATFORMS': 'cpu'}),
    (('nvidia0',), 'cpu', never, {}),
    (('nvidia0',), 'cpu', never, {'JAX_PLATFORMS': 'cpu'}),
    (('nvidia0',), '', devices('gpu'), {'CUDA_VISIBLE_DEVICES': '0'}),
    (('nvidia0',), '', devices('gpu'), {'JAX_PLATFORMS': 'cuda,cpu'}),
    (('nvidia0',), 'cuda', devices('gpu'), {'JAX_PLATFORMS': 'cpu'})])
def test_the_cpu_is_allowed_where_it_is_asked_for_or_alone(tmp_path, files, platform, ask, environ):
    root = system(tmp_path, *(f'dev/{name}' for name in files))
    accelerators.require_accelerator(platform, root=root, devices=ask, packages={}, environ=environ)


@pytest.mark.parametrize(('files', 'name', 'value', 'shown'), [
    (('nvidia0', 'nvidia1'), 'JAX_PLATFORMS', 'cpu', '/dev/nvidia0 and 1 more'),
    (('accel0',), 'JAX_PLATFORM_NAME', 'cpu', '/dev/accel0'),
    (('accel0',), 'JAX_PLATFORMS', 'cpu,tpu', '/dev/accel0')])
def test_a_variable_that_may_have_been_forgotten_is_not_on_purpose(tmp_path, files, name, value, shown):
    root = system(tmp_path, *(f'dev/{name}' for name in files))
    with refused('accelerator/unused', f'{shown} is there', f'{name}={value}', '--platform=cpu'):
        accelerators.require_accelerator(root=root, devices=never, packages={}, environ={name: value})


def test_a_driver_that_does_not_answer_is_told_in_time(tmp_path):
    root, held = system(tmp_path, 'dev/accel0'), threading.Event()
    for kinds, packages in (((), {}), (('tpu',), {'libtpu': '1'})):  # the first question, or the second one
        def ask(*kind, kinds=kinds):
            return [types.SimpleNamespace(platform='cpu')] if kind != kinds else held.wait(60)

        began = time.monotonic()
        with refused('accelerator/no-answer', '/dev/accel0', '1 s', 'BIGJAX_DEVICE_SECONDS=60', '--platform=cpu'):
            accelerators.require_accelerator(root=root, devices=ask, packages=packages, environ={'BIGJAX_DEVICE_SECONDS': '1'})
        assert 0.9 < time.monotonic() - began < 5
    held.set()


def test_an_error_that_is_not_jax_s_is_not_taken_for_an_answer(tmp_path):
    with pytest.raises(ZeroDivisionError):
        accelerators.require_accelerator(root=system(tmp_path, 'dev/accel0'), devices=lambda *_: 1 / 0, packages={}, environ={})


@pytest.mark.parametrize(('platform', 'environ', 'names'), [
    ('cuda', {}, ('--platform=cuda', "pip install 'bigjax[cuda]'", '--platform=cpu')),
    ('gpu', {}, ('--platform=gpu', "pip install 'bigjax[cuda]'")), ('quantum', {}, ('--platform=quantum',)),
    ('', {'JAX_PLATFORMS': 'tpu'}, ('JAX_PLATFORMS=tpu', "pip install 'bigjax[tpu]'", 'unset JAX_PLATFORMS'))])
@pytest.mark.parametrize('error', [RuntimeError("Unable to initialize backend\nx"), AssertionError(), None])
def test_a_platform_that_is_not_here_is_one_line(tmp_path, platform, environ, names, error):
    def ask(*_):
        if error:
            raise error
        return [types.SimpleNamespace(platform='cpu')]

    with refused('accelerator/none', *names):
        accelerators.require_accelerator(platform, root=tmp_path, devices=ask, packages={}, environ=environ)


SCRIPT = """
import pathlib, runpy, sys, time
from bigjax import cli
from bigjax.distributed import accelerators as visible
from experiments import mnist1d
root, hangs, *argv = sys.argv[1:]
shown = visible.accelerators(pathlib.Path(root))
visible.accelerators = lambda root: shown
if hangs:
    from jax._src import xla_bridge
    xla_bridge._init_backend = lambda platform: time.sleep(1000)  # as a driver does, with JAX's lock held
if argv[0] == 'bigjax.bench':
    sys.argv = argv
    runpy.run_module('bigjax.bench', run_name='__main__')
sys.modules['__main__'].__dict__.update(mnist1d.__dict__ | {'__spec__': mnist1d.__spec__})
sys.argv = argv
cli.main()
"""


WHERE = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME', 'BIGJAX_PLATFORM')  # the variables that say where to compute


def command(root, *argv, hangs=False, **environ):
    """The finished command of a machine of which only `root` shows, and the seconds that it took."""
    env = {k: v for k, v in os.environ.items() if k not in WHERE} | environ
    started = time.monotonic()
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(root), 'hangs' * hangs, *argv], capture_output=True, text=True,
                          timeout=100, env=env, cwd=pathlib.Path(__file__).parents[2])
    return done, time.monotonic() - started


alone = pytest.mark.skipif(bool(accelerators.accelerators()), reason='an accelerator is here: JAX may well compute on it')
KINDS = {'/dev/nvidia0': (), '/dev/accel0': (), '/dev/vfio/0': ('0x1ae0',)}  # what shows: PCI vendors
TRAIN, BENCH = ('mnist1d', '--variant=mlp', '--config.data=fake'), ('bigjax.bench', '--case=mlp')


@alone
@pytest.mark.parametrize(('file', 'argv'), first(1, [
    (file, argv) for file in KINDS for argv in (TRAIN, BENCH)]))
def test_a_command_stops_in_seconds(tmp_path, file, argv):
    system(tmp_path, file[1:], vendors=KINDS[file])
    done, seconds = command(tmp_path, *argv, *(() if 'bench' in argv[0] else (f'--workdir={tmp_path}/run',)))
    assert done.returncode == 2 and seconds < 20 and not (tmp_path / 'run').exists(), done
    name = argv[0].rpartition('.')[2]
    assert done.stderr.strip().splitlines()[-1].startswith(f'{name}: {file} is there and JAX does not compute on it: ')


@alone
def test_a_command_for_a_platform_that_is_not_here_exits_2(tmp_path):
    done, _ = command(tmp_path, *TRAIN, f'--workdir={tmp_path}/run', '--platform=cuda')
    assert done.returncode == 2 and '--platform=cuda' in done.stderr.strip().splitlines()[-1], done
    assert 'Traceback' not in done.stderr and not (tmp_path / 'run').exists()


@alone
@pytest.mark.slow
@pytest.mark.parametrize(('file', 'argv'), [*((file, TRAIN) for file in KINDS), ('/dev/accel0', BENCH)])
def test_a_command_stops_in_seconds_where_the_driver_hangs(tmp_path, file, argv):
    system(tmp_path, file[1:], vendors=KINDS[file])
    done, seconds = command(tmp_path, *argv, hangs=True)
    assert done.returncode == 2 and seconds < 20, done
    name = argv[0].rpartition('.')[2]
    assert done.stderr.strip().splitlines()[-1].startswith(f'{name}: {file} is there and JAX got no answer from it in 14 s: ')


@alone
@pytest.mark.parametrize(('name', 'said'), [
    ('JAX_PLATFORMS', 'JAX_PLATFORMS=cpu in the environment keeps it on the CPU'), ('BIGJAX_PLATFORM', 'no checkpoint there')])
def test_what_the_environment_of_a_command_may_say(tmp_path, name, said):
    done, seconds = command(system(tmp_path, 'dev/nvidia0'), 'mnist1d', 'eval', *TRAIN[1:], f'--workdir={tmp_path}/run',
                            **{name: 'cpu'})
    assert done.returncode == 2 and said in done.stderr and seconds < 20 and not done.stdout


@alone
@pytest.mark.parametrize('file', KINDS)
def test_the_bench_is_refused(capsys, tmp_path, monkeypatch, file):
    for name in WHERE:
        monkeypatch.delenv(name, raising=False)
    shown = accelerators.accelerators(system(tmp_path, file[1:], vendors=KINDS[file]))
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: shown)
    monkeypatch.setattr(cases, 'measure', lambda *_: 77)
    monkeypatch.setattr(cases, 'show', lambda rows, out: print(rows))
    assert cases.main(['--case=mlp']) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f'bench: {file} is there and JAX does not compute on it: ') and err.count('\n') == 1
    before = jax.config.jax_platforms
    try:
        assert cases.main(['--case=mlp', '--platform=cpu']) == 0 and capsys.readouterr().out == '[77]\n'
    finally:
        jax.config.update('jax_platforms', before)


@alone
@pytest.mark.parametrize(('verb', 'checked'), [
    ('train', True), ('eval', True), ('bench', True), ('plan', False), ('shard', False), ('doctor', False)])
def test_the_verbs_that_compute_are_refused(capsys, tmp_path, monkeypatch, verb, checked):
    for name in WHERE:
        monkeypatch.delenv(name, raising=False)
    shown = accelerators.accelerators(system(tmp_path, 'dev/nvidia0'))
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: shown)
    monkeypatch.setitem(cli.VERBS, verb, dataclasses.replace(cli.VERBS[verb], run=lambda job, **flags: 77))
    assert cli.run(None, 'experiments.tiny', [verb]) == (cli.USER if checked else 77)
    assert ('/dev/nvidia0 is there' in capsys.readouterr().err) == checked
    assert cli.run(None, 'experiments.tiny', [verb, '--platform=cpu']) == 77
