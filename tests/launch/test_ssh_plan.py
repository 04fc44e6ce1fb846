"""The engine `ssh` without hosts: its plan, the copied code, the errors of ssh, the local copies of logs."""
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from launch import steps
from launch.engines.ssh import bundle
from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.transport import Hosts, Script, Unreachable
from launch.job import Job
from tests.launch.near import make
from tests.launch.tools import git, repository
from tests.refused import refused


def files(folder):
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in folder.rglob('*') if path.is_file()}


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
