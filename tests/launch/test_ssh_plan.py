"""The engine `ssh` without hosts: its plan, the copied code, its script, and all of it with an ssh that stays here."""
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import steps
from launch.engines import base
from launch.engines.ssh import bundle, ssh
from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.transport import Hosts, Script, Unreachable
from launch.job import Job
from launch.outcome import LOST
from tests.launch.tools import SOON_S, assert_secret, git, group_alive, program, repository
from tests.refused import refused

SECRET = "s3cret'$(touch leaked)\nof two lines"
REMOTE = pathlib.Path(ssh.__file__).with_name('remote.sh')
SHELLS = [shell for shell in ('dash', 'bash', 'sh') if shutil.which(shell)]
FAKE = """\
# a fake ssh: the command runs here, each host has a home of its own, and the calls are kept
query=
while :; do case $1 in -[olpiF]) shift 2 ;; -T) shift ;; -G) query=1; shift ;; *) host=$1; shift; break ;; esac; done
[ -z "$query" ] || { echo "hostname $host"; exit 0; }
[ ! -f FOLDER/$host.off ] || { echo "ssh: connect to host $host port 22: Connection timed out" >&2; exit 255; }
mkdir -p FOLDER/$host; cd FOLDER/$host || exit 1
echo "$host $*" >> FOLDER/calls
HOME=FOLDER/$host exec sh -c "$*"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project with git, in which the test runs; nothing of the user's is read or written."""
    root = tmp_path / 'project'
    (root / 'sub').mkdir(parents=True)
    (root / 'sub' / 'work.py').write_text('print(1)\n')
    (root / 'tool.sh').write_text('exit 0\n')
    (root / 'tool.sh').chmod(0o755)
    (root / '.gitignore').write_text('*.ckpt\n')
    (root / 'big.ckpt').write_bytes(b'x' * 1000)
    (root / 'link').symlink_to('sub/work.py')
    repository(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))
    monkeypatch.setenv('TOKEN', SECRET)
    return root


@pytest.fixture
def near(project, tmp_path, monkeypatch):
    """Hosts h1, h2, … that are folders here, reached by an ssh that stays on this machine."""
    if not shutil.which('rsync') or not shutil.which('setsid'):
        pytest.skip('needs rsync and setsid')
    program(tmp_path / 'bin' / 'ssh', FAKE.replace('FOLDER', str(tmp_path / 'hosts')))
    (tmp_path / 'hosts').mkdir()
    monkeypatch.setenv('PATH', f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    yield tmp_path / 'hosts'
    for pid in (tmp_path / 'hosts').glob('h*/.bigjax/jobs/*/*.pid'):
        keeper, _, group, *_ = pid.read_text().split()
        for kill, number in ((os.kill, int(keeper)), (os.killpg, int(group))):
            with contextlib.suppress(ProcessLookupError):
                kill(number, signal.SIGKILL)


def make(on='ssh:h1,h2', command=('sh', '-c', 'echo hello; sleep 0.2'), **more):
    return base.engine(Job('e1', on, tuple(command), created='2026-01-01T00:00:00+00:00', **more))


def files(folder):
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in folder.rglob('*') if path.is_file()}


def ends(group, seconds=SOON_S):
    """All of them, by process."""
    until, found = time.monotonic() + seconds, {}
    while group.running:
        assert time.monotonic() < until, 'it does not end'
        found |= {end.process: end for end in group.wait(0.1)}
    return found


def test_a_plan_touches_nothing_asks_nobody_and_tells_no_secret(project, tmp_path):
    before = files(tmp_path)
    made = make("ssh:h1,me@h2,setup='pip install a, b',path=~/v/bin,port=2222", env=('TOKEN',))
    shown = steps.show(made.plan())
    assert files(tmp_path) == before
    assert 's3cret' not in shown and shown.count('export TOKEN=***') == 4  # setup and start on each
    assert 'pip install a, b' in shown and 'export PATH="$HOME"/v/bin:"$PATH"' in shown
    runs = [step for step in made.plan() if isinstance(step, steps.Run)]
    for step in runs:
        assert 'BatchMode=yes' in shlex.join(step.argv) and '2222' in shlex.join(step.argv)
        if step.stdin:
            done = subprocess.run(['sh', '-n'], input=step.stdin, text=True, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, '')
    starts = [step.stdin for step in runs if ' start ' in step.stdin]
    assert [re.findall(r'BIGJAX_(\w+)=(\S+)', text) for text in starts] == [
        [('COORDINATOR', 'h1:PORT'), ('PROCESSES', '2'), ('PROCESS', str(i))] for i in range(2)]


@pytest.mark.parametrize(('on', 'more', 'wanted'), [
    ('ssh:h1', {}, [{}]),
    ('ssh:h1,per_host=2', {}, [{'COORDINATOR': '127.0.0.1:PORT', 'PROCESSES': '2', 'PROCESS': str(i)} for i in range(2)]),
    ('ssh:h1,h2,coordinator=10.0.0.1', {}, [{'COORDINATOR': '10.0.0.1:PORT', 'PROCESSES': '2', 'PROCESS': str(i)}
                                            for i in range(2)]),
    ('ssh:h1,h2,coordinator=fd00::1', {}, [{'COORDINATOR': '[fd00::1]:PORT', 'PROCESSES': '2', 'PROCESS': str(i)}
                                           for i in range(2)]),
    ('ssh:h1,h2', {'array': 3}, [{'SHARE': f'{i}/3'} for i in range(3)]),
])
def test_what_each_process_is_told(project, on, more, wanted):
    starts = [step.stdin or step.argv[-1] for step in make(on, **more).plan()
              if isinstance(step, steps.Run) and 'remote.sh start' in step.stdin + step.argv[-1]]
    assert [dict(re.findall(r"BIGJAX_(\w+)='?([^'\s]+)", text)) for text in starts] == wanted


@pytest.mark.parametrize(('on', 'more', 'code', 'value'), [
    ('ssh:h1,code=/a b', {}, 'launch/bad-folder', 'code=/a b'), ('ssh:h1,code=$(x)', {}, 'launch/bad-folder', 'code=$(x)'),
    ('ssh:h1', {'env': ('NOT_SET_HERE',)}, 'launch/env-not-set', 'NOT_SET_HERE'),
    ('ssh:h1,limit=0.00001', {}, 'launch/code-too-large', '.gitignore'),
])
def test_wrong_input_is_refused_before_any_connection(project, on, more, code, value):
    if not shutil.which('ssh') or not shutil.which('rsync'):
        pytest.skip('needs ssh and rsync')
    with refused(code, value):
        make(on, **more).check()


def test_what_is_sent(project, tmp_path):
    inner = tmp_path / 'inner'
    inner.mkdir()
    (inner / 'in.py').write_text('2\n')
    repository(inner)
    git(project, 'submodule', '--quiet', 'add', str(inner), 'part')
    git(project, 'commit', '-qm', 'part')
    (project / 'new.py').write_text('new\n')
    (project / 'tool.sh').write_text('exit 1\n')
    (project / 'sub' / 'gone.py').write_text('')
    git(project, 'add', 'sub/gone.py')
    (project / 'sub' / 'gone.py').unlink()
    found = bundle.collect(project / 'sub')
    assert [path for path, _ in found.files] == ['.gitignore', '.gitmodules', 'link', 'new.py', 'part/in.py', 'sub/work.py',
                                                'tool.sh']
    assert found.within == 'sub' and found.changed
    copy = bundle.keep(found, tmp_path / 'job')
    assert copy.name == found.hash and (copy / 'link').is_symlink() and os.access(copy / 'tool.sh', os.X_OK)
    assert json.loads((copy / '.commit.json').read_text()) == {'sha': git(project, 'rev-parse', 'HEAD'), 'dirty': True}
    assert '-exit 0\n+exit 1' in (tmp_path / 'job' / 'changes.diff').read_text()


@pytest.mark.parametrize('change', ['content', 'name', 'mode', 'commit'])
def test_code_that_differs_has_another_hash(project, change):
    (project / 'new.py').write_text('')  # so that 'there are changes' is so before and after
    before = bundle.collect(project).hash
    assert bundle.collect(project / 'sub').hash == before
    if change == 'content':
        (project / 'tool.sh').write_text('exit 1\n')
    elif change == 'name':
        (project / 'tool.sh').rename(project / 'tool2.sh')
    elif change == 'mode':
        (project / 'tool.sh').chmod(0o644)
    else:
        git(project, 'commit', '-qm', 'second', '--allow-empty')
    assert bundle.collect(project).hash != before


def test_too_much_names_the_largest_and_no_repository_is_said(project, tmp_path):
    (project / 'data.bin').write_bytes(b'x' * 3_000_000)
    (project / 'less.bin').write_bytes(b'x' * 1_000_000)
    with refused('launch/code-too-large', '4 MB', 'data.bin (3 MB), less.bin (1 MB)', '.gitignore'):
        bundle.collect(project, 3.5)
    with refused('launch/no-repository', 'git init'):
        bundle.collect(tmp_path)


def test_files_that_change_meanwhile_are_not_sent(project, tmp_path):
    found = bundle.collect(project)
    (project / 'tool.sh').write_text('exit 7\n')
    with refused('launch/code-changed'):
        bundle.keep(found, tmp_path / 'job')
    assert not list((tmp_path / 'job' / 'code').iterdir())


@pytest.mark.parametrize(('tool', 'exit_code', 'output', 'code', 'value'), [
    ('ssh', 255, 'ssh: connect to host h1 port 22: Connection timed out', 'launch/unreachable', 'timed out'),
    ('ssh', 255, 'ssh: connect to host h1 port 22: No route to host', 'launch/unreachable', 'No route'),
    ('ssh', 255, 'Connection closed by 10.0.0.1 port 22', 'launch/unreachable', 'closed'),
    ('rsync', 12, 'rsync: connection unexpectedly closed (0 bytes received so far)', 'launch/unreachable', 'closed'),
    ('ssh', None, '', 'launch/unreachable', 'h1'),
    ('ssh', 255, 'me@h1: Permission denied (publickey).', 'launch/access-denied', 'ssh-add'),
    ('ssh', 255, 'ssh: Could not resolve hostname h1: Name or service not known', 'launch/unknown-host', '~/.ssh/config'),
    ('ssh', 255, 'No ED25519 host key is known for h1\nHost key verification failed.', 'launch/host-key', 'ssh -l me h1'),
    ('ssh', 255, '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @', 'launch/host-key', 'known_hosts'),
    ('ssh', 127, 'rsync: not found', 'launch/no-program', 'rsync'),
    ('rsync', 12, 'bash: line 1: rsync: command not found\nrsync error: error in rsync protocol data stream',
     'launch/no-program', 'rsync'),
    ('ssh', 7, 'its own', None, 'its own'),
])
def test_errors_of_ssh_are_classified(tool, exit_code, output, code, value):
    error = Hosts(('h1',), user='me').explain(0, steps.Failed(steps.Run((tool,)), exit_code, '', output))
    assert getattr(error, 'code', None) in (code, exit_code) and value in str(error) and '\n' not in str(error)
    assert isinstance(error, Unreachable) == (code == 'launch/unreachable')


class There:
    """`remote.sh` in a folder of a job, run by one shell."""

    def __init__(self, folder, shell):
        self.folder, self._shell = folder, shell
        folder.mkdir()
        shutil.copy(REMOTE, folder / 'remote.sh')

    def __call__(self, *words, code=0):
        done = subprocess.run([self._shell, self.folder / 'remote.sh', *words], capture_output=True, text=True, timeout=SOON_S,
                              check=False)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def start(self, text, grace='2'):
        self('start', '0', '1', grace, str(self.folder), 'sh', '-c', text)

    def said(self, offset=0):
        """The messages until the end, without the times."""
        lines = self('follow', f'0:{offset}').splitlines()
        return [line.split()[0] + (line.split()[2] if line.startswith('E') else '') for line in lines
                if re.fullmatch(r'[EGLSTQ]( [\d.]+)*', line)]

    @property
    def pids(self):
        keeper, _, group, *_ = (self.folder / '0.pid').read_text().split()
        return int(keeper), int(group)


@pytest.fixture(params=[pytest.param(shell, marks=[pytest.mark.slow] * (shell == 'bash')) for shell in SHELLS if shell != 'sh'])
def there(request, tmp_path):
    if not shutil.which('setsid'):
        pytest.skip('needs setsid')
    made = There(tmp_path / 'job', request.param)
    yield made
    made('clear', '0')


@pytest.mark.parametrize(('text', 'wanted'), [
    ('echo hi; exit 3', 'E3'), ('exit 255', 'E255'), ('kill -KILL $$', 'E137'), ('exit 75', 'E75'),
])
def test_the_script_keeps_the_exit_code_and_the_log(there, text, wanted):
    there.start(text)
    assert there.said() == [wanted, 'G', 'Q']
    assert ('hi\n' in (there.folder / '0.log').read_text()) == ('hi' in text)
    assert there('show').split()[:2] == ['0', 'gone']


def test_a_keeper_that_is_told_to_end_stays_until_the_command_has(there):
    there.start('sleep 0.7; exit 6')
    os.kill(there.pids[0], signal.SIGTERM)
    assert there.said() == ['E6', 'G', 'Q']


def test_the_script_ends_a_group_and_only_that(there):
    there.start("trap 'echo saved; exit 75' TERM; while :; do sleep 0.1; done")
    there('start', '1', '1', '2', str(there.folder), 'sleep', '60')
    there('send', 'TERM', '0')
    assert there.said() == ['E75', 'G', 'Q'] and 'saved' in (there.folder / '0.log').read_text()
    assert there('show', '1').split()[1] == 'running'
    assert 'still there' in there('start', '1', '2', '2', str(there.folder), 'true', code=1)
    there('send', 'KILL', '1')


@pytest.mark.slow
def test_what_a_process_leaves_behind_ends_with_it(there):
    deaf = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'
    there.start(f"{sys.executable} -c '{deaf}' & sleep 0.5; exit 0", grace='1')
    group = there.pids[1]
    assert there.said() == ['E0', 'G', 'Q']
    assert not group_alive(group)


@pytest.mark.slow
def test_without_its_keeper_a_process_is_seen_and_ended(there):
    there.start('sleep 60')
    keeper, group = there.pids
    os.kill(keeper, signal.SIGKILL)
    assert there('show').split()[1] == 'running'
    there('clear', '1')
    assert there.said() == ['L', 'G', 'Q']
    assert not group_alive(group)


@pytest.mark.slow
def test_after_a_boot_nothing_is_taken_for_ours(there):
    there.start('sleep 60')
    path = there.folder / '0.pid'
    whole = path.read_text()
    words = whole.split()
    path.write_text(' '.join([*words[:4], 'another-boot', *words[5:]]) + '\n')
    assert there('show').split()[1] == 'gone' and there.said() == ['L', 'G', 'Q']
    path.write_text(' '.join([words[0], '1', words[2], '1', *words[4:]]) + '\n')  # the same numbers, of later processes
    assert there('show').split()[1] == 'gone'
    path.write_text(whole)


def test_a_marker_a_shorter_log_and_an_offset_are_told(there):
    there.start('echo one; echo two')
    whole = there('follow', '0:0')
    size = (there.folder / '0.log').stat().st_size
    there('stop')
    assert there.said(size) == ['S', 'E0', 'G', 'Q'] and there.said(size + 5)[:2] == ['S', 'T']
    assert f'D 0 {size - 4} 4\ntwo\n' in there('follow', f'0:{size - 4}') and f'D 0 0 {size}' in whole


def test_one_of_several_launchers_starts_it(there):
    assert [there('claim', number).strip() for number in '112'] == ['granted', 'taken', 'granted']
    assert there('claimed').strip() == '2'
    assert 20000 <= int(there('port')) < 30000


def test_what_is_done_is_what_was_planned(near, project, capfd):
    made = make(env=('TOKEN',), command=('sh', '-c', 'echo "$BIGJAX_PROCESS <$TOKEN>"; pwd'))
    planned = made.plan()
    group = made.start()
    assert {process: (end.code, end.where) for process, end in ends(group).items()} == {0: (0, 'h1'), 1: (0, 'h2')}
    group.close()
    calls = (near / 'calls').read_text()
    wanted = [step.argv[-2:] for step in planned if isinstance(step, steps.Run) and step.argv[0] == 'ssh']
    for host, command in wanted:
        assert f'{host} {command}' in calls, command
    assert calls.count('remote.sh') == sum('remote.sh' in command for _, command in wanted)
    out = capfd.readouterr().out
    assert f'[1 h2] 1 <{SECRET.splitlines()[0]}\n[1 h2] of two lines>\n' in out
    assert f"[0 h1] {near / 'h1' / '.bigjax' / 'code' / bundle.collect(project).hash}\n" in out
    assert_secret('s3cret', folders=[near, made.job.folder])
    assert not (project / 'leaked').exists() and not list(near.rglob('leaked'))
    assert (made.job.folder / 'logs' / '1.log').read_bytes() == (near / 'h2/.bigjax/jobs/e1/1.log').read_bytes()


@pytest.mark.slow
def test_a_name_in_use_and_one_that_is_free_again(near, project):
    first = make('ssh:h1', command=('sleep', '60'))
    group = first.start()
    other = base.engine(dataclasses.replace(first.job, command=('true',)))
    with refused('launch/name-in-use', 'h1'):
        other.start()
    with refused('launch/still-running'):
        first.down()
    assert first.status()[1].startswith('process 0 on h1: running (process group')
    group.stop()
    group.signal(signal.SIGTERM)
    assert ends(group)[0].code == -15
    group.close()
    with refused('launch/stopped'):
        first.start()
    ends(other.start())
    with refused('launch/no-job'):
        first.attach()
    assert [line.split()[1] for line in other.down()] == ['removed', 'removed']
    assert not list((near / 'h1/.bigjax/code').iterdir()) and not list((near / 'h1/.bigjax/jobs').iterdir())


@pytest.mark.slow
def test_all_or_none_and_the_reason_in_one_line(near, project):
    program(near / 'h1' / 'bin' / 'only-here', 'sleep 60')
    made = make('ssh:h1,h2,path=~/bin', command=('only-here',))
    with refused('launch/start-failed', "'only-here'", 'path='):
        made.start()
    assert not group_alive(int((near / 'h1/.bigjax/jobs/e1/0.pid').read_text().split()[2]))
    in_the_way = near / 'h2/.bigjax/code' / bundle.collect(project).hash / 'tool.sh'
    in_the_way.unlink()
    (in_the_way / 'x').mkdir(parents=True)
    with refused('launch/code-not-sent', 'h2'):
        make().start()


@pytest.mark.slow
def test_from_another_machine(near, project, tmp_path, monkeypatch, capfd):
    group = make('ssh:h1,h2,per_host=2,wait=7', command=('sh', '-c', 'echo first; sleep 60')).start()
    group.close()
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'elsewhere'))
    found = base.find('e1', 'ssh:h1,h2,user=me')
    assert (found.command, found.created) == (('sh', '-c', 'echo first; sleep 60'), '2026-01-01T00:00:00+00:00')
    assert base.engine(found).target == ssh.Target(('h1', 'h2'), user='me', per_host=2, wait=7.0)
    with refused('launch/other-hosts'):
        base.find('e1', 'ssh:h1')
    with refused('launch/no-job', "'e2'"):
        base.find('e2', 'ssh:h1,h2')
    capfd.readouterr()
    followed = base.engine(found).attach()
    assert base.stop(followed, 5.0)
    assert capfd.readouterr().out.count('first\n') == 4
    followed.close()


@pytest.mark.slow
def test_a_silent_host_is_lost_and_waited_for(near, project, capfd):
    made = make('ssh:h1,h2,lost=1.5,wait=20', command=('sh', '-c', 'echo go; sleep 60'))
    group = made.start()
    until = time.monotonic() + SOON_S
    while capfd.readouterr().out.count('go') < 1 and time.monotonic() < until:
        group.wait(0.1)
    for _ in range(10):
        group.wait(0.1)
    (near / 'h2.off').touch()
    off = time.monotonic()
    for link in group._links:
        if link.host == 1:
            os.killpg(link.ssh.pid, signal.SIGKILL)
    found = []
    while not found and time.monotonic() < off + SOON_S:
        found += group.wait(0.1)
    assert [(end.process, end.code, end.where) for end in found] == [(1, LOST, 'h2')] and found[0].when <= off + 0.5
    group.signal(signal.SIGTERM)
    assert ends(group)[0].code == -15
    group.close()
    left = int((near / 'h2/.bigjax/jobs/e1/1.pid').read_text().split()[2])
    assert group_alive(left)
    subprocess.Popen(['sh', '-c', f"sleep 3; rm {near / 'h2.off'}"])
    again = made.start()
    assert not group_alive(left)  # the process on the host that was cut off has been ended
    assert 'waits for h2' in capfd.readouterr().err and all('running' in line for line in made.status()[1:])
    again.signal(signal.SIGKILL)
    assert {end.code for end in ends(again).values()} == {-9}
    again.close()


@pytest.mark.slow
def test_the_cause_is_told_by_the_hosts_clocks(near, project):
    """Both ends are heard in one breath; the one that was first is the cause, though it comes last."""
    made = make('ssh:h1,h2', command=('sh', '-c', 'sleep 0.$((4 - 3 * BIGJAX_PROCESS)); exit $((BIGJAX_PROCESS + 5))'))
    group = made.start()
    time.sleep(1.5)
    found = ends(group)
    assert found[0].code == 5 and found[1].code == 6 and found[1].when < found[0].when
    group.close()


def test_logs_go_on_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path))
    job = Job('e1', 'ssh:h1', ('x',), logs=str(tmp_path / 'logs'), created='1')
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / '0.log').write_text('of another job\n')
    logs = Logs(job)
    assert logs.offset(0) == 0
    other = Logs(job)  # of a second launcher, which is at the same place
    assert other.offset(0) == 0
    logs.write(0, b'one\n', 0)
    other.write(0, b'on', 0)
    other.close()
    logs.close()
    logs = Logs(job)
    assert logs.offset(0) == 4 and logs.first(0) == 15
    logs.renew(0)
    logs.write(0, b'two\n', 0)
    assert logs.offset(0) == 4 and logs.first(0) == 15
    assert Logs(dataclasses.replace(job, created='2')).offset(0) == 0
    assert (tmp_path / 'logs' / '0.log').read_text() == 'of another job\none\ntwo\n'
    (tmp_path / 'logs' / '0.log').unlink()
    assert Logs(job).offset(0) == 0


def test_a_place_with_an_odd_name(tmp_path):
    hosts = Hosts(('fd00::1',), user='me', identity='~/k', config='c f', port=22, options=('StrictHostKeyChecking=no',))
    assert hosts.rsync(0, 'a/', 'b/')[-1] == '[fd00::1]:a/' and hosts.ssh(0, 'x')[-2:] == ('fd00::1', 'x')
    rsh = hosts.rsync(0, 'a/', 'b/')[4]
    assert shlex.split(rsh)[:2] == ['ssh', '-T'] and 'c f' in shlex.split(rsh) and 'StrictHostKeyChecking=no' in rsh
    step = Script(hosts, 'f').step(0, 'start', "it's", secret=('A',))
    assert shlex.split(step.stdin)[1:5] == ['sh', 'f/remote.sh', 'start', "it's"]
