"""The engine `ssh` with an ssh that stays on this machine: starts, stops, losses, restarts, attaching from elsewhere."""
import dataclasses
import os
import signal
import subprocess
import time

import pytest

from launch import steps
from launch.engines import base
from launch.engines.ssh import bundle, ssh
from launch.outcome import LOST
from tests.launch.near import SECRET, make
from tests.launch.tools import SOON_S, assert_secret, group_alive, program
from tests.refused import refused


def ends(group, seconds=SOON_S):
    """All of them, by process."""
    until, found = time.monotonic() + seconds, {}
    while group.running:
        assert time.monotonic() < until, 'it does not end'
        found |= {end.process: end for end in group.wait(0.1)}
    return found


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
