"""The engine `ssh` with two real hosts, a real sshd on each, power that fails and cables that are pulled."""
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.distributed.test_processes import MLP, metrics, train
from tests.launch import tools
from tests.launch.tools import ROOT, launcher

pytestmark = pytest.mark.engines
SOON = 90.0
until = functools.partial(tools.until, seconds=SOON)
STEPS = 200
RUN = (*MLP, f'--config.steps={STEPS}')
PROGRAM = """
import os, pathlib, signal, sys, time
me, seen = os.environ.get('BIGJAX_PROCESS', '0'), pathlib.Path(sys.argv[1])
starts = len(list(seen.glob(f'{me}.start*')))
(seen / f'{me}.start{starts}').write_text(f'{os.getpid()} {os.getcwd()}')
def save(*_):
    print('saved', flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print(f'start {starts} of', os.environ.get('BIGJAX_COORDINATOR'), flush=True)
for i in range(600 if starts < int(sys.argv[2]) else 3):
    print('line', i, flush=True)
    time.sleep(0.2)
"""


class Shell:
    """A machine beside the hosts, from which launchers are started; `machine` is its own memory of jobs."""

    def __init__(self, hosts, here):
        self.hosts, self.here, self.running = hosts, here, []
        python = pathlib.Path(sys.executable).parent
        self.on = f"ssh:{','.join(hosts.names)},config={hosts.config},path={python},lost=25,wait=60"
        self.project, self.seen = here / 'project', hosts.shared / here.name
        self.project.mkdir()
        self.seen.mkdir()
        (self.project / 'program.py').write_text(PROGRAM)
        tools.repository(self.project)

    def start(self, *words, cwd=None, machine='here', **env):
        path = self.here / f'{len(self.running)}.out'
        env = {**os.environ, 'PYTHONPATH': str(ROOT), 'BIGJAX_JOBS': str(self.here / machine), **env}
        with open(path, 'w') as out:
            process = subprocess.Popen([*self.hosts.control, *launcher(*words)], cwd=cwd or self.project,
                                       stdout=out, stderr=subprocess.STDOUT, env=env)
        process.said = path.read_text
        self.running.append(process)
        return process

    def __call__(self, *words, code=0, **more):
        process = self.start(*words, **more)
        assert process.wait(SOON) == code, process.said()
        return process.said()

    def program(self, name, *options, rounds=1, **more):
        """A launcher of the program above, which takes two minutes in its first rounds."""
        return self.start('run', f'--on={self.on}', f'--name={name}', '--grace=10', *options, '--', 'python', 'program.py',
                          str(self.seen), str(rounds), **more)

    def group(self, process, job):
        """The number of a process group, as its host counts."""
        return (self.hosts.home(process) / '.bigjax' / 'jobs' / job / f'{process}.pid').read_text().split()[2]

    def inside(self, host, command):
        return subprocess.run([*self.hosts.inside(host), 'sh', '-c', command], capture_output=True, text=True, check=False)

    def listed(self, pattern):
        """Processes of both hosts whose command matches."""
        return [line for host in range(2) for line in self.inside(host, 'ps -eo stat=,args=').stdout.splitlines()
                if re.search(pattern, line) and line[0] != 'Z']


@pytest.fixture
def shell(hosts, tmp_path):
    made = Shell(hosts, tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()
    for host in range(2):
        if host not in hosts._running:
            hosts.power_on(host)
        hosts.heal(host)
        made.inside(host, 'for file in /root/.bigjax/jobs/*/*.pid; do read k _ g _ < $file; kill -9 $k -$g; done; '
                          'rm -rf /root/.bigjax')


def test_logs_merge_secrets_stay_and_nothing_is_left(shell):
    secret = "a'b $(id)"
    shell.on += ',setup=echo built > built'
    run = shell.program('one', '--env=TOKEN', rounds=0, TOKEN=secret)
    assert run.wait(SOON) == 0, run.said()
    said = run.said()
    for process, host in enumerate(shell.hosts.names):
        assert f'[{process} {host}] start 0 of {shell.hosts.addresses[0]}:' in said
        own = [line for line in said.splitlines() if line.startswith(f'[{process} {host}] line')]
        assert own == [f'[{process} {host}] line {i}' for i in range(3)]
        there = shell.hosts.home(process) / '.bigjax'
        kept = (shell.here / 'here/one/logs' / f'{process}.log').read_bytes()
        assert kept == (there / f'jobs/one/{process}.log').read_bytes()
        cwd = (shell.seen / f'{process}.start0').read_text().split()[1]
        assert cwd.startswith('/root/.bigjax/code/') and (there / 'code' / pathlib.Path(cwd).name / 'built').exists()
        assert not [path for path in there.rglob('*') if path.is_file() and secret in path.read_text(errors='replace')]
    assert '2 processes' in said and '· done ·' in said and 'config=' not in said.splitlines()[-1]
    assert secret not in (shell.here / 'here/one/plan.txt').read_text() + (shell.here / 'here/one/job.json').read_text()
    assert shell('logs', 'one', '--worker=1').count('line') == 3
    assert 'ended with exit code 0' in shell('status', 'one')
    assert 'removed code' in shell('down', 'one', '--yes')
    assert [list((shell.hosts.home(host) / '.bigjax/jobs').iterdir()) for host in range(2)] == [[], []]


def test_kill_from_another_machine_ends_it_for_good(shell):
    run = shell.program('two')
    until(lambda: len(list(shell.seen.glob('*.start0'))) == 2)
    assert "no job 'three'" in shell('status', 'three', f'--on={shell.on}', machine='there', code=2)
    said = shell('kill', 'two', f'--on={shell.on}', '--grace=10', machine='there')
    assert 'two: stopped' in said
    assert run.wait(SOON) == 75 and 'stopped by another command' in run.said() and 'restarts:' not in run.said()
    assert not shell.listed('program.py') and run.said().count('saved') == 2
    assert 'in use on this machine' in shell('run', f'--on={shell.on}', '--name=two', '--', 'true', code=2)


def test_a_name_that_runs_is_refused_and_a_detached_job_is_followed(shell):
    assert shell.program('three', '--detach').wait(SOON) == 0
    assert 'in use on host1' in shell('run', f'--on={shell.on}', '--name=three', '--', 'true', machine='there', code=2)
    assert 'still runs; fix: stop it first' in shell('down', 'three', '--yes', code=2)
    follower = shell.start('attach', 'three')
    until(lambda: '[1 host2] line 2' in follower.said())
    follower.send_signal(signal.SIGINT)
    assert follower.wait(SOON) == 130 and 'keeps running without this launcher' in follower.said()
    assert len(shell.listed(r'^\S+\s+python program\.py')) == 2
    shell('kill', 'three', '--grace=5')
    assert not shell.listed('program.py')


def test_a_cut_link_and_a_killed_launcher_lose_no_line(shell):
    run = shell.program('four', '--max_preemptions=0')
    until(lambda: '[1 host2] line 5' in run.said())
    shell.hosts.cut(1)
    time.sleep(8)  # less than lost
    shell.hosts.heal(1)
    cut = len(re.findall(r'\[1 host2\] line', run.said()))
    until(lambda: len(re.findall(r'\[1 host2\] line', run.said())) > cut + 50)
    run.kill()
    run.wait()
    time.sleep(1)
    again = shell.start('attach', 'four')
    until(lambda: '[0 host1] line' in again.said())
    shell('kill', 'four', '--grace=10')
    assert again.wait(SOON) == 75
    for process in range(2):
        log = (shell.here / 'here/four/logs' / f'{process}.log').read_bytes()
        assert log == (shell.hosts.home(process) / f'.bigjax/jobs/four/{process}.log').read_bytes()
        numbers = [int(n) for n in re.findall(rb'^line (\d+)$', log, re.MULTILINE)]
        assert numbers == list(range(len(numbers))) and len(numbers) > 60
    assert len(list(shell.seen.glob('*.start*'))) == 2


def test_of_two_launchers_one_starts_it_again(shell):
    first = shell.program('five')
    until(lambda: 'line 2' in first.said())
    second = shell.start('attach', 'five', f'--on={shell.on}', machine='there')
    until(lambda: 'line' in second.said())
    shell.inside(1, f"kill -TERM {shell.group(1, 'five')}")
    assert [first.wait(SOON), second.wait(SOON)] == [0, 0], first.said() + second.said()
    assert len(list(shell.seen.glob('*.start*'))) == 4
    assert sum('another launcher restarts it' in launcher.said() for launcher in (first, second)) == 1


def test_a_keeper_that_is_killed_is_a_lost_process_and_leaves_nobody(shell):
    run = shell.program('six')
    until(lambda: len(list(shell.seen.glob('*.start0'))) == 2 and 'line 2' in run.said())
    group = shell.group(1, 'six')
    shell.inside(1, f'read keeper _ < /root/.bigjax/jobs/six/1.pid; kill -9 $keeper -{group}')
    assert run.wait(SOON) == 0, run.said()
    assert 'process 1 on host2 is lost' in run.said() and '1 preemption ·' in run.said()
    assert len(list(shell.seen.glob('*.start*'))) == 4


@pytest.mark.parametrize(('change', 'words'), [
    (lambda shell: shell.on.replace('host2', 'nohost'), 'nohost: no such host'),
    (lambda shell: shell.on.replace('host2', '198.51.100.99'), '198.51.100.99: cannot be reached'),
    (lambda shell: f'{shell.on},identity={shell.key}', 'access denied'),
    (lambda shell: f'ssh:host1,config={shell.nobody},path=/usr/bin', 'its host key is unknown here'),
    (lambda shell: f'{shell.on},setup=echo broken; exit 9', 'setup=echo broken; exit 9: failed (broken)'),
    (lambda shell: shell.on.replace('path=', 'path=/nowhere+'), "'python': no such program there"),
    (lambda shell: f'{shell.on},code=/proc/x', '/proc/x cannot be used'),
])
def test_an_error_that_the_user_can_fix_is_one_line(shell, change, words):
    shell.key, shell.nobody = shell.here / 'key', shell.here / 'config'
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', shell.key], check=True)
    text = pathlib.Path(shell.hosts.config).read_text()
    shell.nobody.write_text(text.replace(str(shell.hosts.known), '/dev/null'))
    on = change(shell)
    if 'identity' in on:  # ours comes after that of the configuration
        (shell.here / 'plain').write_text('\n'.join(line for line in text.splitlines() if 'IdentityFile' not in line) + '\n')
        on = on.replace(shell.hosts.config, str(shell.here / 'plain'))
    command = 'nosuch' if 'nowhere' in on else 'true'
    said = shell('run', f'--on={on}', '--name=no', '--', command, code=2).splitlines()
    words = words.replace("'python'", "'nosuch'")
    assert [line for line in said if words in line], said
    assert not [line for line in said if not line.startswith('launch: ')]


def test_doctor_finds_what_is_missing(shell):
    assert 'FAIL' not in shell('doctor', f'--on={shell.on}')
    said = shell('doctor', f"--on={shell.on.replace('host2', '198.51.100.99').replace('path=', 'path=/nowhere+')}", code=4)
    assert 'FAIL  198.51.100.99: cannot be reached' in said and 'ok    host1: answers' in said


def cache(shell):
    """Compiled programs are kept for both hosts; said by variables, as a user would."""
    values = {'JAX_PLATFORMS': 'cpu', 'BIGJAX_PLATFORM': 'cpu', 'MPLBACKEND': 'Agg',
              'JAX_COMPILATION_CACHE_DIR': str(shell.hosts.shared / 'jax'), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
              'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
              **{name: os.environ[name] for name in ('NPROC', 'XLA_FLAGS')}}  # the same programs as in the straight run
    return f"--env={','.join(values)}", values


@pytest.mark.parametrize('event', ['power', 'cable'])
def test_a_host_that_goes_away_and_comes_back_changes_no_number(shell, event):
    """The metrics are those of two undisturbed processes."""
    straight = shell.hosts.shared / 'straight'
    if not straight.exists():
        train(2, straight, 'mnist1d', *RUN)
    flag, values = cache(shell)
    workdir = shell.seen / 'run'
    run = shell.start('run', f'--on={shell.on}', '--name=away', flag, '--grace=20', '--max_restarts=2', '--', 'python', '-m',
                      'experiments.mnist1d', f'--workdir={workdir}', *RUN, cwd=ROOT, **values)
    until(lambda: run.poll() is not None or 'step 20/' in run.said(), seconds=300)
    assert run.poll() is None, run.said()
    if event == 'power':
        shell.hosts.power_off(1)
        until(lambda: run.poll() is not None or 'is lost' in run.said(), seconds=120)
        shell.hosts.power_on(1)
    else:
        shell.hosts.cut(1)
        until(lambda: run.poll() is not None or 'restarts' in run.said(), seconds=180)
        shell.hosts.heal(1)
    assert run.wait(300) == 0, run.said()
    said = run.said()
    assert ('1 preemption' if event == 'power' else ' 1 ') in said.splitlines()[-1], said
    assert 'all 2 processes are here: host1: 0 · host2: 1' in said
    assert metrics(workdir) == metrics(straight) and len(metrics(workdir)) > 100
    assert json.loads((workdir / 'run.json').read_text())['status'] == 'done'
