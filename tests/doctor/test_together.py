"""The doctor of several processes, and what it asks of a workdir: in threads that stand for processes, and in real ones."""
import concurrent.futures
import errno
import pathlib
import re
import subprocess
import sys
import threading
import time
import types

import pytest

from bigjax import cli
from bigjax.doctor import host
from bigjax.doctor.together import Together, several
from tests.distributed.test_processes import environment, free_port
from tests.doctor.test_doctor import line
from tests.test_cli import SCRIPT

ALONE = Together()


def test_a_workdir_that_is_well_is_left_as_it_was(tmp_path):
    for folder in (tmp_path, tmp_path / 'a' / 'b'):
        checks = host.workdir(folder, ALONE)
        assert [line(c) for c in checks] == [
            f'ok workdir {folder}: it can be written',
            f'ok disk clock the clock of the file system of {folder} is that of this machine, within 5 s']
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('folder', ['/proc/nothing/here', '/dev/null/run'])
def test_a_workdir_that_cannot_be_made(folder):
    said = [line(c) for c in host.workdir(pathlib.Path(folder), ALONE)]
    assert len(said) == 1 and said[0].startswith(f'FAILED workdir {folder}: it cannot be written (')
    assert said[0].endswith('; choose another --workdir')


@pytest.mark.parametrize('call', ['fsync', 'replace', 'unlink'])
def test_a_workdir_that_takes_no_checkpoint(tmp_path, monkeypatch, call):
    def broken(*args, **kwargs):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(*((pathlib.Path, 'unlink') if call == 'unlink' else (host.os, call)), broken)
    said = [line(c) for c in host.workdir(tmp_path, ALONE)]
    assert said == [f'FAILED workdir {tmp_path}: it cannot be written (Read-only file system); choose another --workdir']


@pytest.mark.parametrize(('shift', 'said'), [
    (-8, 'warning disk clock the clock of the file system of FOLDER is 8 s ahead of this machine; synchronise them'),
    (8, 'warning disk clock the clock of the file system of FOLDER is 8 s behind this machine; synchronise them'),
    (70, 'FAILED disk clock the clock of the file system of FOLDER is 70 s behind this machine; synchronise them')])
def test_the_clock_of_the_file_system(tmp_path, monkeypatch, shift, said):
    clock = types.SimpleNamespace(**{**vars(time), 'time': lambda: time.time() + shift})
    monkeypatch.setattr(host, 'time', clock)
    assert line(host.workdir(tmp_path, ALONE)[1]).startswith(said.replace('FOLDER', str(tmp_path)))


class Shelf:
    """Stands for JAX's store of names where the processes are threads."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def key_value_set(self, key: str, text: str) -> None:
        with self._changed:
            self._values[key] = text
            self._changed.notify_all()

    def key_value_try_get(self, key: str) -> str:
        return self.blocking_key_value_get(key, 0)

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, milliseconds / 1000):
                raise RuntimeError(f'NOT_FOUND: {key}')
            return self._values[key]


def each(count, look, **silent):
    """What `look(together)` gives in each of several processes."""
    shelf = Shelf()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda i: look(Together(i, count, shelf)), range(count)))


def test_all_hear_what_all_say():
    found = each(3, lambda t: (t.ask('a', t.process * 10, 2), t.ask('b', [t.process], 2), t.silent))
    assert found == [({0: 0, 1: 10, 2: 20}, {0: [0], 1: [1], 2: [2]}, set())] * 3
    assert Together().ask('a', 7, 0) == {0: 7} and Together().last(9) is None


@pytest.mark.parametrize('late', [0, 1])
def test_one_that_is_late_spoils_no_other_question(late):
    def look(t):
        if t.process == late:
            time.sleep(1.6 if late == 0 else 0.7)
        first = t.ask('first', t.process, 0.2)
        began = time.monotonic()
        second = t.ask('second', 10 + t.process, 0.2)
        return first, second, time.monotonic() - began, t.ask('end', 20 + t.process, 3, everybody=True), t.silent

    for i, (first, second, seconds, end, silent) in enumerate(each(3, look)):
        if i != late:
            assert late not in first and silent == {late}
            assert all(v == p for p, v in first.items()) and seconds < 0.2  # it is not waited for again
        assert all(v == 10 + p for p, v in second.items()) and end == {0: 20, 1: 21, 2: 22}


def test_the_names_of_several():
    assert several({3}) == 'process 3' and several({3, 1}) == 'processes 1, 3' and several(range(12)).endswith(', 9 …')


def test_process_0_is_the_last_to_end():
    ended = []
    each(3, lambda t: (time.sleep(0.3 * t.process), t.last(5), ended.append(t.process)))
    assert ended == [1, 2, 0]


@pytest.mark.parametrize('shared', [True, False])
def test_a_workdir_of_several(tmp_path, shared):
    roots = [tmp_path, tmp_path] if shared else [tmp_path / 'host0', tmp_path / 'host1']  # hosts share no parent that one makes
    for name in ('.', 'new', 'new/er'):
        for root in roots:
            root.mkdir(exist_ok=True)
        found = each(2, lambda t, n=name: host.workdir(roots[t.process] / n, t, 2.0, 0.3))
        for i, checks in enumerate(found):
            place = roots[i] / name
            assert line(checks[0]).startswith(
                f'ok workdir {place}: it can be written, and all 2 processes see it' if shared else
                f'FAILED workdir {place}: process {i} does not see the files of process {1 - i}; it has to be on a file system')
    assert not any([*root.iterdir()] for root in roots)


def test_a_workdir_that_one_cannot_write(tmp_path):
    """It says so itself."""
    found = each(2, lambda t: host.workdir(pathlib.Path('/proc/no') if t.process else tmp_path, t, 2.0, 0.3))
    assert line(found[0][0]) == f'ok workdir {tmp_path}: it can be written, and all 2 processes see it'
    assert line(found[1][0]).startswith('FAILED workdir /proc/no: it cannot be written (')


@pytest.mark.parametrize('hangs', [0, 1, 2])
def test_a_file_system_that_hangs_for_one(tmp_path, monkeypatch, hangs):
    """The others name it, and no later question is answered with what it says of the workdir."""
    released, probe = threading.Event(), host._probe

    def hang(path):
        if path.name.endswith(f'-{hangs}'):
            released.wait(20)
        return probe(path)

    monkeypatch.setattr(host, '_probe', hang)

    def look(t):
        ask = lambda: host.workdir(tmp_path, t, 0.4, 0.2)
        if t.process == hangs:  # the check is given up, and goes on in its thread
            threading.Thread(target=ask, daemon=True).start()
            checks = []
        else:
            checks = ask()
        return checks, host.clocks(t, 3.0, lambda: 1000.0), t.ask('end', 0, 5, everybody=True)

    found = each(3, look)
    released.set()
    for i, (checks, clocks, end) in enumerate(found):
        if i != hangs:
            assert len(checks) == 2 and line(checks[0]).startswith(
                f'FAILED workdir {tmp_path}: process {hangs} did not say in time that it can be written; look at what is')
            assert 'disk clock' in line(checks[1])
        assert clocks.status == 'ok' or f'process {hangs} did not tell the time' in clocks.text
        assert 'ahead' not in clocks.text and 'behind' not in clocks.text and set(end) == {0, 1, 2}


@pytest.mark.parametrize(('times', 'said'), [
    ([100, 101, 99], 'ok clocks'), ([100, 100], 'ok clocks those of 2 processes are the same, to a second'),
    ([100, 93, 101], 'warning clocks the clock of process 1 is 7 s behind process 0; synchronise them'),
    ([100, 100, 161], 'FAILED clocks the clock of process 2 is 61 s ahead of process 0; synchronise them')])
def test_the_clocks_of_the_processes(times, said):
    found = each(len(times), lambda t: host.clocks(t, 3.0, lambda: times[t.process] + 0.5))
    assert all(line(check).startswith(said) for check in found)


@pytest.mark.parametrize(('argv', 'seconds'), [
    (['doctor'], 10.0), (['doctor', '--start_timeout=77'], 77.0), (['train'], 300.0),
    (['doctor', '--start_timeout=300'], 300.0)])
def test_the_doctor_does_not_wait_long_for_the_other_processes(argv, seconds):
    options, verb, *_ = cli.parse(SCRIPT, 'experiments.tiny', argv)
    assert cli._start_timeout(options, verb) == seconds


def commands(port, count, *argv, before=''):
    """Of each process; `before` is Python that is run first, where `process` is its number."""
    for i in range(count):
        code = f"import runpy, time; process = {i}\n{before}\nrunpy.run_module('experiments.mnist1d', None, '__main__', True)"
        joined = [f'--coordinator=127.0.0.1:{port}', f'--processes={count}', f'--process={i}'] if port else []
        yield [sys.executable, '-c', code, 'doctor', '--variant=mlp', '--config.data=fake', *argv, *joined]


def ended(commands, seconds=100, places=(), **environ):
    """[(exit code, what it printed, seconds)]."""
    began = time.monotonic()
    running = [subprocess.Popen(command, cwd=place, env=environment() | environ, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
               for command, place in zip(commands, places or ['.'] * 9, strict=False)]
    try:
        return [(p.returncode, ' '.join(out.split()), time.monotonic() - began)
                for p, out in [(p, p.communicate(timeout=seconds)[0]) for p in running]]
    finally:
        for p in running:
            p.kill()


@pytest.mark.slow
@pytest.mark.parametrize('shared', [True, False])
def test_two_processes_look_together(tmp_path, shared):
    """In folders of their own, a relative --workdir is not the same place."""
    places = [tmp_path / ('all' if shared else f'host{i}') for i in range(2)]
    for place in places:
        place.mkdir(exist_ok=True)
    found = ended(commands(free_port(), 2, '--workdir=run'), places=places)
    outs = [out for _, out, _ in found]
    assert [code for code, _, _ in found] == [0 if shared else 4] * 2, outs
    assert 'ok clocks those of 2 processes' in outs[0] or 'ok clocks the clock of process 1' in outs[0]
    for i, out in enumerate(outs):
        assert ('does not see' in out) == (not shared)
        assert shared or f'process {i} does not see the files of process {1 - i};' in out
    assert shared or '1 FAILED, and 1 on other processes' in outs[0]
    assert not [p for place in places for p in place.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize('hangs', [0, 1])
def test_a_file_system_that_hangs_on_one_host(tmp_path, hangs):
    before = ('import bigjax.doctor.host as h\nprobe = h._probe\n'
              f"if process == {hangs}: h._probe = lambda path: time.sleep(1000) if '/run/' in str(path) else probe(path)")
    found = ended(commands(free_port(), 2, f'--workdir={tmp_path}/run', before=before))
    outs = [out for _, out, _ in found]
    assert [code for code, _, _ in found] == [4, 4] and max(seconds for _, _, seconds in found) < 40, outs
    assert f'process {hangs} did not say in time that it can be written' in outs[1 - hangs]
    assert 'FAILED workdir no answer within 12 s' in outs[hangs]
    assert 'ahead of' not in ''.join(outs) and 'behind' not in ''.join(outs) and 'Traceback' not in ''.join(outs)


@pytest.mark.slow
def test_a_process_that_does_not_come(tmp_path):
    code, out, seconds = ended([next(commands(free_port(), 2))])[0]
    assert code == 2 and 'process 1 did not come in 10 s' in out and seconds < 30


@pytest.mark.slow
def test_a_process_that_never_answers():
    before = 'import bigjax.doctor as d\nif process == 1: d.doctor = lambda job: time.sleep(25)'
    found = ended(commands(free_port(), 2, before=before))
    code, out, _ = found[0]
    assert code == 4 and 'FAILED clocks process 1 did not tell the time within 8 s; look at what is printed there' in out, found
    assert 'FAILED processes process 1 did not come to an end; look at what is printed there' in out


SLEEPS = 'import jax._src.xla_bridge as b\nb.backends = lambda: time.sleep(1000)'


@pytest.mark.slow
@pytest.mark.parametrize(('argv', 'environ', 'before', 'said'), [
    ((), {'JAX_PLATFORMS': 'cuda', 'BIGJAX_PLATFORM': ''}, '',
     r'JAX_PLATFORMS=cuda in the environment\): \w+Error.*; pip install .*unset JAX_PLATF'),
    (('--platform=tpu',), {'JAX_PLATFORMS': ''}, '', r'--platform=tpu\): \w+Error.*; pip install .*--platform=cpu'),
    ((), {}, SLEEPS, r'no answer within 15 s, a run would wait as well, if it ever ends; look at the system')])
def test_a_backend_that_does_not_start(tmp_path, argv, environ, before, said):
    for where in ((f'--workdir={tmp_path}/run',), ()):
        code, out, seconds = ended(commands(0, 1, *where, *argv, before=before), **environ)[0]
        assert code == 4 and seconds < 30 and 'Traceback' not in out, out
        assert re.search(rf'FAILED accelerators .*{said}', out), out
        for words in ('warning devices devices, model and memory were not', 'ok experiment', 'ok data train', ' 1 FAILED'):
            assert words in out, (words, out)
        assert ('ok disk' in out) == bool(where)
