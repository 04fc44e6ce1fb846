"""`python -m launch run --on=local:N` as a user runs it, with small programs; nothing outlives a test."""
import collections
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from launch import __main__ as command_line
from launch.engines import local
from launch.job import Job
from tests.launch.tools import ROOT, SOON_S, alive, launcher, until

PROLOGUE = """
import os, pathlib, signal, subprocess, sys, time
me, here = int(os.environ.get('BIGJAX_PROCESS', 0)), pathlib.Path(sys.argv[1])
starts = len(list(here.glob(f'{me}.start*')))
told = [os.environ.get(f'BIGJAX_{name}') for name in ('COORDINATOR', 'PROCESSES')]
(here / f'{me}.start{starts}').write_text(f'{os.getpid()} {told[0]} {told[1]}')
"""


class Launcher:
    """A launcher that runs `program` with everything of PROLOGUE at hand."""

    def __init__(self, here, program, *options, on='local:2', **settings):
        self.here = here
        script = here / 'program.py'
        script.write_text(PROLOGUE + textwrap.dedent(program))
        argv = launcher('run', f'--on={on}', *options, '--', sys.executable, str(script), str(here))
        env = {**os.environ, 'PYTHONPATH': str(ROOT), **settings}
        self.process = subprocess.Popen(argv, cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        start_new_session=True)

    def finish(self):
        """(exit code, stdout, stderr)."""
        out, err = self.process.communicate(timeout=SOON_S)
        return self.process.returncode, out.decode(), err.decode()

    def pids(self, pattern='*.start*'):
        """Those that the programs wrote down."""
        return [int(path.read_text().split()[0]) for path in self.here.glob(pattern)]

    def kill(self):
        """Whatever is left, also of a launcher that is broken."""
        for pid in [self.process.pid, *self.pids()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def launch(tmp_path):
    """Starts launchers, and sees that nothing of them is left."""
    started = []

    def start(program, *options, **more):
        started.append(Launcher(tmp_path, program, *options, **more))
        return started[-1]
    yield start
    for running in started:
        running.kill()


def own(err):
    """The launcher's own lines."""
    return [line.removeprefix('launch: ') for line in err.splitlines() if line.startswith('launch: ')]


def test_all_meet_at_a_new_port_each_time(launch, tmp_path):
    code, _, err = launch('sys.exit(0 if starts else 75)', on='local:3').finish()
    assert code == 0, err
    found = {path.name: path.read_text().split()[1:] for path in tmp_path.glob('*.start*')}
    assert sorted(found) == [f'{p}.start{s}' for p in range(3) for s in range(2)] and {v[1] for v in found.values()} == {'3'}
    ports = [{found[f'{p}.start{s}'][0] for p in range(3)} for s in range(2)]
    assert [len(p) for p in ports] == [1, 1] and ports[0] != ports[1]
    assert all(re.fullmatch(r'127\.0\.0\.1:\d+', port) for (port,) in ports)


@pytest.mark.parametrize(('code', 'starts', 'launchers', 'words'), [
    (0, 1, 0, '· done ·'), (2, 1, 2, 'wrong input (process 1 ended with exit code 2)'),
    (3, 1, 3, 'non-finite loss (process 1'), (4, 1, 4, 'the answer is no (process 1'),
    (75, 3, 75, 'preempted, run it again (process 1'), (7, 2, 1, 'failed (process 1 ended with exit code 7)'),
    (-9, 2, 1, 'failed (process 1 was killed by SIGKILL)'), (-11, 2, 1, 'failed (process 1 was killed by SIGSEGV)'),
])
@pytest.mark.slow
def test_every_exit_class(launch, tmp_path, code, starts, launchers, words):
    launcher = launch(f"""
        if me == 1:
            print('the reason', file=sys.stderr, flush=True)
            os.kill(os.getpid(), {-code}) if {code} < 0 else sys.exit({code})
    """, '--max_restarts=1', '--max_preemptions=2', '--logs=logs')
    found, _, err = launcher.finish()
    last = own(err)[-1]
    assert found == launchers and words in last and len(list(tmp_path.glob('1.start*'))) == starts, err
    restarts, preemptions = (0, starts - 1) if code == 75 else (starts - 1, 0)
    assert f"{restarts} restart{'s' * (restarts != 1)}, {preemptions} preemption{'s' * (preemptions != 1)}" in last
    assert re.search(r' on local:2 · 2 processes · 0:00:\d\d · ', last) and last.endswith('no --workdir · logs logs')
    assert ('  the reason' in own(err)) == (code not in (0, 75)) and ('[1] the reason' in err.splitlines())


def test_the_cause_is_who_ended_first(launch, tmp_path):
    launcher = launch("""
        signal.signal(signal.SIGTERM, lambda *_: os.abort())
        (here / f'{me}.ready').touch()
        if me == 2:
            while len(list(here.glob('*.ready'))) < 4:
                time.sleep(0.01)
            sys.exit(9)
        time.sleep(60)
    """, on='local:4')
    code, _, err = launcher.finish()
    assert code == 1 and 'failed (process 2 ended with exit code 9)' in own(err)[-1], err
    assert not any(map(alive, launcher.pids()))


@pytest.mark.slow
def test_after_the_grace_sigkill_to_all_of_a_group(launch, tmp_path):
    launcher = launch("""
        if me == 0:
            signal.signal(signal.SIGTERM, lambda *_: print('not yet', flush=True))
            stubborn = 'from signal import *; import time; signal(SIGTERM, SIG_IGN); print(1, flush=True); time.sleep(60)'
            child = subprocess.Popen([sys.executable, '-c', stubborn], stdout=subprocess.PIPE)
            child.stdout.readline()
            (here / 'child.start').write_text(str(child.pid))
            while True:
                time.sleep(1)
        while not (here / 'child.start').exists():
            time.sleep(0.01)
        sys.exit(1)
    """, '--grace=1')
    code, out, err = launcher.finish()
    assert code == 1 and out == '[0] not yet\n' and 'process 1 ended' in own(err)[-1], err
    assert len(launcher.pids()) == 3 and not any(map(alive, launcher.pids()))


@pytest.mark.slow
def test_what_a_process_leaves_running_has_the_grace_to_end(launch, tmp_path):
    launcher = launch("""
        save = "from signal import *; import sys, time; signal(SIGTERM, lambda *_: sys.exit(time.sleep(0.5) or print('saved')))"
        child = subprocess.Popen([sys.executable, '-c', save + "; print('up', flush=True); time.sleep(60)"])
        (here / 'child.start').write_text(str(child.pid))
        time.sleep(60 if me == 0 else 0.5)
    """, on='local:1')
    until(lambda: (tmp_path / 'child.start').exists())
    time.sleep(0.3)
    launcher.process.send_signal(signal.SIGTERM)
    code, out, err = launcher.finish()
    assert code == 1 and out == 'up\nsaved\n', err
    assert not any(map(alive, launcher.pids()))


@pytest.mark.slow
def test_every_line_of_a_flood_arrives_whole(launch, tmp_path):
    lines = 20_000
    code, out, err = launch(f"""
        for i in range({lines}):
            stream = sys.stderr if i % 10 == 0 else sys.stdout
            stream.write(f'{{me}} {{i}} ' + 'abc' * (i % 40 if i % 1000 else 50_000) + ' end\\n')
        sys.stdout.write(f'{{me}} last, without newline')
    """, '--logs=logs/deep', on='local:4').finish()
    assert code == 0, err[-1000:]
    found = collections.defaultdict(list)
    for stream, text in (('out', out), ('err', err)):
        for line in text.splitlines():
            if not line.startswith('launch: '):
                match = re.fullmatch(r'\[(\d)\] (\d) (?:(\d+) (?:abc)* end|(last, without newline))', line)
                assert match and match[1] == match[2], line[:200]
                found[stream, match[1]].append(int(match[3] or lines))
    for process in map(str, range(4)):
        assert found['out', process] == [i for i in range(lines + 1) if i % 10]  + [lines] * (lines % 10 == 0)
        assert found['err', process] == list(range(0, lines, 10))
        kept = (tmp_path / 'logs' / 'deep' / f'{process}.log').read_text().splitlines()
        assert re.match(rf'--- \S+ process {process} of 4: ', kept[0]) and len(kept) == lines + 2
        assert sorted(int(line.split()[1]) for line in kept[1:-1]) == list(range(lines))


@pytest.mark.slow
def test_logs_go_on_over_restarts(launch, tmp_path):
    assert launch("print('start', starts); sys.exit(0 if starts else 75)", '--logs=logs').finish()[0] == 0
    kept = [line for line in (tmp_path / 'logs' / '1.log').read_text().splitlines() if not line.startswith('---')]
    assert kept == ['start 0', 'start 1']


@pytest.mark.slow
def test_a_reader_that_leaves_stops_nobody(launch, tmp_path):
    launcher = launch("""
        print('one', flush=True)
        while not (here / 'closed').exists():
            time.sleep(0.01)
        for i in range(100_000):
            print('a line', i)
        (here / f'{me}.done').touch()
    """)
    assert launcher.process.stdout.readline().endswith(b'one\n')
    launcher.process.stdout.close()
    (tmp_path / 'closed').touch()
    err = launcher.process.stderr.read().decode()
    assert launcher.process.wait(SOON_S) == 0 and len(list(tmp_path.glob('*.done'))) == 2, err
    assert any('stdout' in line and 'Broken pipe' in line for line in own(err)), err


WAITING = """
    def heard(*_):
        with open(here / f'{me}.heard', 'a') as file:
            file.write('x')
        if len(sys.argv) > 2:
            sys.exit(75)
    signal.signal(signal.SIGTERM, heard)
    child = subprocess.Popen(['sleep', '300'])
    (here / f'child{me}.start').write_text(str(child.pid))
    (here / f'{me}.ready').touch()
    while True:
        time.sleep(0.05)
"""


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_once_and_nothing_starts_again(launch, tmp_path, number):
    launcher = launch(WAITING.replace('len(sys.argv) > 2', 'True'), '--max_restarts=5')
    until(lambda: len(list(tmp_path.glob('*.ready'))) == 2)
    launcher.process.send_signal(number)
    code, _, err = launcher.finish()
    assert code == 75 and 'stopped by a signal to the launcher; process' in own(err)[-1], err
    assert [(tmp_path / f'{p}.heard').read_text() for p in range(2)] == ['x', 'x'] and len(launcher.pids('*.start0')) == 2
    assert not any(map(alive, launcher.pids()))


@pytest.mark.slow
def test_the_second_signal_kills_at_once(launch, tmp_path):
    launcher = launch(WAITING, '--max_restarts=5')
    until(lambda: len(list(tmp_path.glob('*.ready'))) == 2)
    launcher.process.send_signal(signal.SIGINT)
    until(lambda: len(list(tmp_path.glob('*.heard'))) == 2)
    assert launcher.process.poll() is None and all(map(alive, launcher.pids('?.start*')))
    launcher.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _, err = launcher.finish()
    assert code == 1 and time.monotonic() - began < 10 and 'was killed by SIGKILL' in own(err)[-1], err
    assert [(tmp_path / f'{p}.heard').read_text() for p in range(2)] == ['x', 'x']
    assert len(launcher.pids()) == 4 and not any(map(alive, launcher.pids()))


@pytest.mark.slow
def test_the_second_signal_kills_also_when_nobody_reads(launch, tmp_path):
    launcher = launch(WAITING.replace('time.sleep(0.05)', "print('x' * 10_000)"))
    until(lambda: len(list(tmp_path.glob('*.ready'))) == 2)
    time.sleep(0.5)  # the pipe to this test is full
    for _ in range(2):
        launcher.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    until(lambda: not any(map(alive, launcher.pids())))
    assert launcher.finish()[0] == 1


def test_a_killed_launcher_takes_all_with_it(launch, tmp_path):
    launcher = launch(WAITING)
    until(lambda: len(list(tmp_path.glob('*.ready'))) == 2)
    assert len(launcher.pids()) == 4 and all(map(alive, launcher.pids()))
    launcher.process.kill()
    until(lambda: not any(map(alive, launcher.pids())))


@pytest.mark.slow
def test_a_killed_wrapper_is_a_failure_and_leaves_nothing(launch, tmp_path):
    launcher = launch(WAITING.replace('len(sys.argv) > 2', 'True'))
    until(lambda: len(list(tmp_path.glob('*.ready'))) == 2)
    wrapper = int(subprocess.run(['ps', '-o', 'ppid=', '-p', str(launcher.pids('1.start0')[0])], capture_output=True).stdout)
    assert wrapper != launcher.process.pid
    os.kill(wrapper, signal.SIGKILL)
    code, _, err = launcher.finish()
    assert code == 1 and 'failed (process 1 was killed by SIGKILL)' in own(err)[-1], err
    assert not any(map(alive, launcher.pids()))


def test_a_program_that_cannot_start_is_wrong_input(tmp_path, capfd):
    script = tmp_path / 'script'
    script.write_text('#!/no/such/interpreter\n')
    script.chmod(0o755)
    assert command_line.main(['run', '--on=local:1', '--max_restarts=3', '--', str(script)]) == 2
    assert f"'{script}' cannot be started: No such file or directory" in capfd.readouterr().err


@pytest.mark.parametrize('processes', [1, 3])
def test_a_dry_run_prints_commands_that_a_shell_understands(capfd, tmp_path, processes):
    tell = 'import os, sys; print([v for k, v in sorted(os.environ.items()) if k.startswith("BIGJAX_")], sys.argv[1:])'
    argv = ['run', f'--on=local:{processes}', '--dry_run', f'--logs={tmp_path}/logs', '--', sys.executable, '-c', tell, "it's"]
    assert command_line.main(argv) == 0 and not (tmp_path / 'logs').exists()
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert not err
    lines = [line for line in lines if not line.startswith('# ')]
    assert len(lines) == processes
    port = re.search(r'^env BIGJAX_COORDINATOR=(127\.0\.0\.1:\d+) ', lines[0])
    env = {k: v for k, v in os.environ.items() if not k.startswith('BIGJAX_')}
    for process, line in enumerate(lines):
        printed = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, timeout=SOON_S).stdout.strip()
        expected = [port[1], str(process), str(processes)] if processes > 1 else []
        assert printed == f"{expected} {['it' + chr(39) + 's']}", line


@pytest.mark.parametrize(('command', 'experiment', 'workdir'), [
    ('python -m experiments.mnist1d --workdir=/tmp/m1d --variant=mlp', 'mnist1d', '/tmp/m1d'),
    ('python experiments/mnist1d.py plan --workdir /tmp/m1d', 'mnist1d', '/tmp/m1d'),
    ('bash -c "python -m experiments.mnist1d"', '', ''), ('sleep 1', '', ''), ('python -m experiments.ucr --workdir', 'ucr', '')
])
def test_names_and_workdirs_are_read_from_the_command(command, experiment, workdir):
    job = Job('x', 'local', tuple(shlex.split(command)))
    assert (job.experiment, job.workdir) == (experiment, workdir)


def test_a_command_that_is_no_experiment_is_said_so(capfd):
    assert command_line.main(['run', '--on=local:1', '--', 'true']) == 0
    assert 'launch: note: true ' in capfd.readouterr().err


@pytest.mark.parametrize(('command', 'last'), [
    ('echo out', 'out'), ('echo out; echo err >&2', 'err'), ('true', 'it wrote nothing')])
def test_a_failure_ends_with_the_last_lines_of_the_process(capfd, command, last):
    assert command_line.main(['run', '--on=local:1', '--', 'sh', '-c', f'{command}; exit 9']) == 1
    assert own(capfd.readouterr().err)[-2].strip() == last


def test_nothing_is_started_where_not_all_can_be(monkeypatch):
    groups, add = [], local.Group.add

    def second_fails(group, number, *rest):
        groups.append(group)
        if number == 1:
            raise BlockingIOError
        add(group, number, *rest)
    monkeypatch.setattr(local.Group, 'add', second_fails)
    with pytest.raises(BlockingIOError):
        local.Engine(Job('x', 'local:2', ('sleep', '60'))).start()
    assert groups[0].numbers and not groups[0].running and not any(map(alive, groups[0].numbers))


def test_what_was_written_before_a_kill_is_not_lost(tmp_path, capfd):
    program = "import pathlib, sys, time; print('line\\n' * 999, flush=True); pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    group = local.Engine(Job('x', 'local', (sys.executable, '-c', program, str(tmp_path / 'written')))).start()
    until((tmp_path / 'written').exists)
    group.close()
    assert capfd.readouterr().out == 'line\n' * 999 + '\n' and not group.running
