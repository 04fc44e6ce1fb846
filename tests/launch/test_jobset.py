"""The launcher with a cluster that a fake kubectl plays: a JobSet from its start to its end."""
import base64
import json
import textwrap

import pytest
import yaml

from launch import __main__ as command_line
from launch import outcome, steps
from launch.engines import base as engines
from launch.engines.jobset import jobset, jobset_group, pod_logs, pods
from launch.job import Job
from tests.launch.conftest import Played
from tests.launch.test_jobset_manifest import make, spec
from tests.launch.tools import COMMAND, assert_secret
from tests.refused import refused

SECRET = "tok$en 'with' \"quotes\"\nand a line"


class Cluster(Played):
    """A cluster, whose looks (JobSet and pods) come one after the other; the last one stays."""

    def looks(self, *looks):
        (self.here / 'cluster.json').write_text(json.dumps(looks))

    def logs(self, pod, text, cut=None):
        (self.here / f'{pod}.log').write_text(textwrap.dedent(text).lstrip())
        if cut is not None:
            (self.here / f'{pod}.cut').write_text(str(cut))

    def answers(self, **answers):
        (self.here / 'answers.json').write_text(json.dumps({key.replace('_', ' '): value for key, value in answers.items()}))


def jobset_item(**more):
    conditions = [{'type': more['ended'], 'status': 'True', 'reason': 'R', 'message': 'm'}] if 'ended' in more else []
    again = {'type': 'RestartingJobSet', 'status': 'True', 'message': 'a Job failed'}
    return {'kind': 'JobSet', 'metadata': {'name': 'exp7', 'annotations': {'bigjax/record': make().job.text()},
                                           **({'deletionTimestamp': 'now'} if more.get('leaving') else {})},
            'spec': {'suspend': more.get('suspend', False)},
            'status': {'conditions': [*conditions, again], 'restarts': more.get('restarts', 0)}}


def pod_item(process, state, *, attempt=0, lost=False, second=0, per_slice=4, waiting=''):
    """`state`: an exit code, 'running' or 'waiting'."""
    name = f'exp7-w-{process // per_slice}-{process % per_slice}-{attempt}'
    if isinstance(state, int):
        shown = {'terminated': {'exitCode': state, 'finishedAt': f'2026-01-01T00:00:{second:02}Z'}}
    else:
        shown = {'running': {}} if state == 'running' else {'waiting': {'reason': waiting, 'message': 'no such image'}}
    phase = {'running': 'Running', 'waiting': 'Pending', 0: 'Succeeded'}.get(state, 'Failed')
    return {'kind': 'Pod', 'metadata': {'name': name, 'uid': name, 'annotations': {
        'batch.kubernetes.io/job-completion-index': str(process % per_slice)},
        'labels': {'jobset.sigs.k8s.io/job-index': str(process // per_slice)}},
        'spec': {'nodeName': f'node{process}'},
        'status': {'phase': phase, 'containerStatuses': [{'name': 'main', 'state': shown}],
                   'conditions': [{'type': 'DisruptionTarget', 'status': 'True'}] if lost else []}}


@pytest.fixture
def cluster(play, monkeypatch):
    for module, name, value in ((jobset_group, 'POLL_S', 0.05), (jobset_group, 'DRAIN_S', 3.0), (pod_logs, 'IDLE_S', 0.5)):
        monkeypatch.setattr(module, name, value)
    found = Cluster(play('kubectl'))
    found.looks([jobset_item()])
    return found


def run(*more, verb='run', on='jobset:v6e-8,chips=4,image=r/b:1,context=c1,namespace=n1', command=COMMAND):
    return command_line.main([verb, f'--on={on}', '--name=exp7', *more, '--', *command])


def pair(*states, **more):
    return [pod_item(i, state, per_slice=2, **more) for i, state in enumerate(states)]


LINES = """
    2026-01-01T00:00:01.5Z step 1
    2026-01-01T00:00:02.123456789Z step 2
    2026-01-01T00:00:03Z step 3
"""


def test_a_job_is_followed_until_it_is_done(cluster, capfd):
    cluster.looks([jobset_item()], [jobset_item(), *pair('waiting', 'waiting', waiting='ErrImagePull')],
                 [jobset_item(), *pair('running', 'running')], [jobset_item(ended='Completed'), *pair(0, 0)])
    for i in range(2):
        cluster.logs(f'exp7-w-0-{i}-0', LINES, cut=1)  # and the first connection is cut after a line
    assert run() == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == sorted(f'[{i}] step {n}' for i in range(2) for n in (1, 2, 3))
    assert 'ErrImagePull: no such image' in err
    assert 'done · workdir gs://b/exp7' in err and 'nothing is left that costs money' in err
    first = cluster.calls[0]
    assert first['argv'] == ['--context=c1', '--namespace=n1', 'create', '--filename=-']
    assert yaml.safe_load(first['stdin'])['metadata']['name'] == 'exp7'
    assert (cluster.here / 'jobs/exp7/logs/1.log').read_text() == 'step 1\nstep 2\nstep 3\n'


@pytest.mark.parametrize('first, second, code, words', [
    ({'state': 134, 'second': 5}, {'state': 3, 'second': 5}, 3, 'process 1 on node1 ended with exit code 3'),
    ({'state': 75, 'second': 9}, {'state': 137, 'second': 4}, 1, 'process 1 on node1 was killed by SIGKILL'),
    ({'state': 143, 'second': 4, 'lost': True}, {'state': 75, 'second': 6}, 75, 'process 0 on node0 is lost'),
    ({'state': 0, 'second': 5}, {'state': 0, 'second': 5}, 1, 'R: m')])
def test_a_job_that_fails_names_its_cause(cluster, capfd, first, second, code, words):
    items = [pod_item(i, how.pop('state'), per_slice=2, **how) for i, how in enumerate((dict(first), dict(second)))]
    cluster.looks([jobset_item(), *pair('running', 'running')], [jobset_item(ended='Failed'), *items])
    for i in range(2):
        cluster.logs(f'exp7-w-0-{i}-0', f'2026-01-01T00:00:01Z last words of {i}\n')
    assert run() == code
    err = capfd.readouterr().err
    assert words in err
    assert not cluster.called('delete')


def test_restarts_of_the_cluster_are_said_and_their_logs_followed(cluster, capfd):
    cluster.looks([jobset_item(), *pair('running', 'running')],
                 [jobset_item(restarts=1), *pair('running', 'running', attempt=1)],
                 [jobset_item(restarts=1, ended='Completed'), *pair(0, 0, attempt=1)])
    for i in range(2):
        cluster.logs(f'exp7-w-0-{i}-0', '2026-01-01T00:00:01Z before\n')
        cluster.logs(f'exp7-w-0-{i}-1', '2026-01-01T00:01:00Z after\n')
    assert run() == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ['[0] after', '[0] before', '[1] after', '[1] before']
    assert 'restart 1: a Job failed' in err


def test_a_cluster_that_does_not_answer_is_asked_again(cluster, monkeypatch, capfd):
    monkeypatch.setattr(jobset_group, 'SILENCE_WARNING_S', 0.0)
    engine = make('v6e-8,chips=4,image=r/b:1')
    group = engine.start()
    cluster.answers(get=[1, '', 'Unable to connect to the server: timeout'])
    for _ in range(3):
        group.wait(0.1)
    assert group.running and make().exists() == ['?whether its JobSet is still there']
    cluster.answers()
    cluster.looks([jobset_item(ended='Completed')])
    while group.running:
        assert group.wait(0.1) == []
    group.close()
    assert 'Unable to connect' in capfd.readouterr().err


def test_values_of_env_are_in_the_secret_alone(cluster, monkeypatch, capfd):
    monkeypatch.setenv('TOKEN', SECRET)
    cluster.looks([jobset_item(ended='Completed'), *pair(0, 0)])
    for i in range(2):
        cluster.logs(f'exp7-w-0-{i}-0', '')
    assert run('--env=TOKEN') == 0
    created = [yaml.safe_load(call['stdin']) for call in cluster.called('create')]
    assert [made['kind'] for made in created] == ['JobSet', 'Secret']
    assert base64.b64decode(created[1]['data']['TOKEN']).decode() == SECRET
    assert created[1]['metadata']['ownerReferences'] == [
        {'apiVersion': 'jobset.x-k8s.io/v1alpha2', 'kind': 'JobSet', 'name': 'exp7', 'uid': 'uid-1'}]
    name = created[1]['metadata']['name']
    assert spec(make(env=('TOKEN',)))[3]['envFrom'] == [{'secretRef': {'name': name}}]
    capfd.readouterr()
    assert run('--env=TOKEN', '--dry_run') == 0
    printed = capfd.readouterr().out
    assert 'export TOKEN=***' in printed
    argvs = json.dumps([call['argv'] for call in cluster.calls])
    for value in (SECRET, 'tok$en', base64.b64encode(SECRET.encode()).decode()[:12]):
        assert_secret(value, printed, argvs, cluster.called('create')[0]['stdin'], folders=[cluster.here / 'jobs'])


def test_a_secret_that_is_not_taken_takes_the_jobset_with_it(cluster, monkeypatch):
    monkeypatch.setenv('TOKEN', 'v')
    cluster.answers(get_jobsets=[1, '', 'Forbidden'])
    with pytest.raises(steps.Failed) as error:
        make(env=('TOKEN',)).start()
    assert error.value.stderr == 'Forbidden'
    assert cluster.called('delete', 'jobsets.jobset.x-k8s.io', 'exp7')


def test_a_name_that_is_taken_is_said(cluster, capfd):
    cluster.answers(create=[1, '', 'Error from server (AlreadyExists): jobsets "exp7" already exists'])
    assert run() == 2
    assert '--name=exp7' in capfd.readouterr().err
    assert not cluster.called('delete')


@pytest.mark.parametrize('stopper', ['kill', 'somebody'])
def test_what_is_deleted_is_stopped(cluster, capfd, stopper):
    assert run('--detach') == 0
    cluster.looks(*([[jobset_item(), *pair('running', 'running')]] * 3), [jobset_item(leaving=True), *pair(75, 'running')], [])
    for i in range(2):
        cluster.logs(f'exp7-w-0-{i}-0', LINES)
    assert command_line.main(['kill', 'exp7', '--grace=5'] if stopper == 'kill' else ['attach', 'exp7']) == (
        0 if stopper == 'kill' else 75)
    deleted = cluster.called('delete', 'jobsets.jobset.x-k8s.io', 'exp7', '--cascade=foreground')
    assert bool(deleted) == (stopper == 'kill')
    assert ('stopped' if stopper == 'kill' else 'stopped by another command') in capfd.readouterr().err


def test_pods_that_do_not_end_are_killed(cluster):
    make('v6e-8,chips=4,image=r/b:1').start().close()
    cluster.looks([jobset_item(), *pair('running', 'running')])
    cluster.logs('exp7-w-0-0-0', '')
    cluster.logs('exp7-w-0-1-0', '')
    group = make('v6e-8,chips=4,image=r/b:1').attach()
    group.stop()
    group.signal(15)
    group.signal(9)
    group.close()
    assert cluster.called('delete', 'pods', '--grace-period=0', '--force', '--selector=bigjax/job=exp7')


def test_logs_are_shown_whole_or_of_one_process(cluster, capfd):
    assert run('--detach') == 0
    cluster.looks([jobset_item(), *pair('running', 'running')])
    for i in range(2):
        cluster.logs(f'exp7-w-0-{i}-0', f'2026-01-01T00:00:01Z one {i}\n2026-01-01T00:00:02Z two {i}\n')
    capfd.readouterr()
    assert command_line.main(['logs', 'exp7', '--worker=1']) == 0
    assert capfd.readouterr().out.splitlines() == ['[1] one 1', '[1] two 1']
    assert command_line.main(['logs', 'exp7', '--worker=2']) == 2
    assert '--worker=2' in capfd.readouterr().err


def test_another_machine_finds_a_job_by_its_name(cluster, monkeypatch, capfd):
    cluster.looks([jobset_item(restarts=2), *pair('running', 'waiting', waiting='ImagePullBackOff')])
    assert command_line.main(['status', 'exp7', '--on=jobset:context=mine']) == 0
    out = capfd.readouterr().out
    assert 'running, 2 restarts' in out and 'exp7-w-0-0-0 Running node0' in out and 'ImagePullBackOff' in out
    job = engines.find('exp7', 'jobset:context=mine')
    assert job.command == COMMAND and jobset.Engine(job).kubectl()[1] == '--context=mine'
    assert jobset.Engine(job).workers == 4
    cluster.looks([])
    with refused('launch/no-job', 'exp7'):
        engines.find('exp7', 'jobset:')


def test_down_removes_and_says_so(cluster, capfd):
    assert run('--detach') == 0
    cluster.looks([jobset_item(), *pair('running', 'running')])
    cluster.answers(delete=[0, 'jobset.jobset.x-k8s.io "exp7" deleted\n', ''])
    assert command_line.main(['down', 'exp7', '--yes']) == 0
    err = capfd.readouterr().err
    assert 'JobSet exp7 with 2 pods' in err and '"exp7" deleted' in err
    assert not (cluster.here / 'jobs/exp7').exists()


CRD = json.dumps({'spec': {'versions': [{'name': 'v1alpha2', 'served': True, 'schema': 'onJobFailureMessagePatterns'}]}})
GOOD = {'version': [0, '{"serverVersion": {"gitVersion": "v1.33"}}', ''], 'get_crd': [0, CRD, ''], 'auth': [0, 'yes', ''],
        'get_nodes': [0, 'node/a\nnode/b\n', ''], 'get_localqueues': [0, 'q', '']}


@pytest.mark.parametrize('bad, words', [
    ({}, ''), ({'version': [1, '', 'connection refused']}, 'log in'),
    ({'get_crd': [1, '', 'NotFound']}, 'controller installed'),
    ({'auth': [1, 'no', '']}, 'owner of the namespace'), ({'get_nodes': [0, 'node/a\n', '']}, '1 of 2'),
    ({'get_crd': [0, CRD.replace('onJob', ''), '']}, 'JobSet 0.10'),
    ({'get_localqueues': [1, '', 'NotFound']}, 'another name')])
def test_doctor_finds_what_is_missing(cluster, capfd, bad, words):
    cluster.answers(**{**GOOD, **bad})
    found = jobset.doctor(jobset.Engine(Job('doctor', 'jobset:v6e-8,chips=4,queue=q', ('true',), restarts=1)))
    assert all(check.ok for check in found) == (not bad)
    assert words in ' '.join(f'{check.found} {check.fix}' for check in found if not check.ok)
    if 'version' in bad:
        assert command_line.main(['doctor', '--on=jobset:v6e-8,chips=4']) == 4
        assert 'FAIL  cluster (kubectl): connection refused' in capfd.readouterr().out


def test_times_of_a_log_are_ordered():
    times = [b'2026-01-01T00:00:01Z', b'2026-01-01T00:00:01.05Z', b'2026-01-01T00:00:01.5Z', b'2026-01-01T00:00:02Z']
    assert sorted(reversed(times), key=pod_logs._later) == times


def test_codes_are_read_as_kubernetes_writes_them():
    read = lambda *states, **more: jobset_group._code(pods.pod(pod_item(0, *states, **more), 4), 'Failed')
    assert [read(code) for code in (0, 2, 75, 137, 134, 255)] == [0, 2, 75, -9, -6, 255]
    assert read(137, lost=True) == outcome.LOST and read('running', lost=True) == outcome.LOST
