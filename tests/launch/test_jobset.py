"""The JobSet of a job, and the launcher with a cluster that a fake kubectl plays."""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
import yaml

from launch import __main__ as command_line
from launch import outcome, steps
from launch.engines import base as engines
from launch.engines.jobset import gke_types, jobset, jobset_group, pod_logs, pods
from launch.engines.manifest import dump
from launch.job import Job
from tests.launch.conftest import Played
from tests.launch.tools import COMMAND, assert_secret
from tests.refused import refused

SECRET = "tok$en 'with' \"quotes\"\nand a line"


def make(on='v6e-16,image=r/b:1', **more):
    return jobset.Engine(Job(**{'name': 'exp7', 'on': f'jobset:{on}', 'command': COMMAND, **more}))


def spec(engine):
    """(JobSet, its Job's spec, its pod's spec, its container), read back from the YAML."""
    whole = yaml.safe_load(engine.files()['jobset.yaml'])
    job = whole['spec']['replicatedJobs'][0]['template']['spec']
    return whole, job, job['template']['spec'], job['template']['spec']['containers'][0]


def variables(container):
    return {row['name']: row.get('value') for row in container['env']}


# The manifest

WORDS = ['y', 'N', 'yes', 'On', 'null', '~', '012', '1_0', '0o7', '1e-3', '1:30', '2001-01-01', '.inf', '-', 'a: b', 'a #b', '']


def test_a_manifest_reads_back_the_same_by_every_reader():
    value = {'words': WORDS, 'text': 'a\nb\n', 'lines': ' a\n\n b', 'kinds': [True, None, 3, 0.5, {}, []], 'n': {'deep': ['x']}}
    assert yaml.safe_load(dump(value)) == value
    plain = [line for line in dump({'words': WORDS}).splitlines() if line.startswith('- ') and line[2] not in '"\'']
    assert not plain, 'kubectl reads y and 1e-3 as a boolean and a number, PyYAML as strings'
    assert dump({'name': 'exp7', 'args': ['--x=1']}) == 'name: exp7\nargs:\n- "--x=1"\n'
    with pytest.raises(yaml.YAMLError):
        dump({'a': object()})


@pytest.mark.skipif(shutil.which('kubectl') is None, reason='needs kubectl')
def test_kubectl_reads_the_words_as_they_were_written():
    container = {'name': 'm', 'image': 'i', 'command': WORDS}
    pod = {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': 'p'}, 'spec': {'containers': [container]}}
    done = subprocess.run(['kubectl', 'label', '--local', '--filename=-', 'a=b', '--output=json'], input=dump(pod), text=True,
                          capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)['spec']['containers'][0]['command'] == WORDS


@pytest.mark.parametrize('on, accelerator, topology, chips, hosts', [
    ('v6e-16', 'tpu-v6e-slice', '4x4', 4, 4), ('v5e-1', 'tpu-v5-lite-podslice', '1x1', 1, 1),
    ('v5litepod-256', 'tpu-v5-lite-podslice', '16x16', 4, 64), ('v4-8', 'tpu-v4-podslice', '2x2x1', 4, 1),
    ('v5p-128', 'tpu-v5p-slice', '4x4x4', 4, 16), ('v5p-512,topology=4x4x16', 'tpu-v5p-slice', '4x4x16', 4, 64),
    ('tpu7x-128', 'tpu7x', '4x4x4', 4, 16), ('v6e-8', 'tpu-v6e-slice', '2x4', 8, 1),
    ('v6e-8,chips=4', 'tpu-v6e-slice', '2x4', 4, 2)])
def test_a_tpu_slice_is_asked_for_as_gke_labels_it(on, accelerator, topology, chips, hosts):
    _, job, pod, container = spec(make(f'{on},image=r/b:1'))
    assert pod['nodeSelector'] == {'cloud.google.com/gke-tpu-accelerator': accelerator,
                                   'cloud.google.com/gke-tpu-topology': topology}
    assert container['resources'] == {'limits': {'google.com/tpu': chips}}
    assert (job['parallelism'], job['completions'], job['completionMode']) == (hosts, hosts, 'Indexed')


@pytest.mark.parametrize('on, total', [('v6e-16', '4'), ('v6e-16,slices=3', '12'), ('v6e-4', '1'), ('h100:8,nodes=2', '2'),
                                       ('h100:8', '1'), ('cpu:2,nodes=5', '5')])
def test_every_process_is_told_how_many_there_are_and_one_alone_meets_nobody(on, total):
    engine = make(f'{on},image=r/b:1')
    whole, _, pod, container = spec(engine)
    found = variables(container)
    assert found['BIGJAX_PROCESSES'] == total == str(engine.workers)
    assert found.get('BIGJAX_PROCESS') == ('0' if total == '1' else None)
    named = {'BIGJAX_COORDINATOR': 'exp7-w-0-0.exp7:55527'} if 'nodes' in on else {}
    assert {key: value for key, value in found.items() if key == 'BIGJAX_COORDINATOR'} == named
    assert whole['spec']['network'] == {'enableDNSHostnames': True, 'subdomain': 'exp7'}
    assert ('hostNetwork' in pod) == ('slices' in on)


@pytest.mark.parametrize('number, index', [(2, 1), (1, 0)])
def test_the_trainer_understands_what_it_is_told(number, index):
    import importlib
    start = importlib.import_module('bigjax.distributed.bootstrap')
    found = variables(spec(make(f'h100:8,nodes={number},image=r/b:1'))[3])
    said = start.decide({**found, 'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': str(index)})
    assert (said.processes, said.process) == (number, index)
    assert said.late_names or number == 1  # the name of process 0 may not exist yet
    assert said.coordinator == ('exp7-w-0-0.exp7:55527' if number > 1 else '')


def test_a_process_of_an_array_knows_its_share_and_meets_nobody():
    import importlib
    start = importlib.import_module('bigjax.distributed.bootstrap')
    engine = make('l4:1,image=r/b:1', array=8)
    _, job, _, container = spec(engine)
    found = variables(container)
    assert found['BIGJAX_SHARE'] == '$(BIGJAX_INDEX)/8'
    index = next(row for row in container['env'] if row['name'] == 'BIGJAX_INDEX')
    path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert index['valueFrom'] == {'fieldRef': {'fieldPath': path}}
    assert container['env'].index(index) < [row['name'] for row in container['env']].index('BIGJAX_SHARE')
    said = start.decide({'BIGJAX_PROCESSES': found['BIGJAX_PROCESSES'], 'BIGJAX_PROCESS': found['BIGJAX_PROCESS'],
                         'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '5'})
    assert said.processes == 1
    assert job['parallelism'] == engine.workers == 8


def after(engine, code=None, lost=False):
    """The action of a JobSet's controller on such an end of a process ('fail', 'count', 'free'), and its limit of restarts.

    The rules as Kubernetes documents them: the first that matches, of the pod, then of the Job's failure.
    """
    whole, job, _, _ = spec(engine)
    policy = whole['spec']['failurePolicy']
    assert job['backoffLimit'] == 0
    reason, message = 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'
    for rule in job.get('podFailurePolicy', {}).get('rules', []):
        exits, conditions = rule.get('onExitCodes'), rule.get('onPodConditions')
        assert rule['action'] == 'FailJob' and bool(exits) != bool(conditions)
        if exits and not lost and exits['operator'] == 'In' and code in exits['values']:
            reason = 'PodFailurePolicy'
            message = f'Container main for pod a/b failed with exit code {code} matching FailJob rule at index 0'
            break
        if conditions and lost and {'type': 'DisruptionTarget', 'status': 'True'} in conditions:
            reason, message = 'PodFailurePolicy', 'Pod a/b has condition DisruptionTarget matching FailJob rule at index 2'
            break
    action = 'RestartJobSet'
    for rule in policy.get('rules', []):
        if reason in rule.get('onJobFailureReasons', [reason]) and (
                'onJobFailureMessagePatterns' not in rule
                or any(re.search(pattern, message) for pattern in rule['onJobFailureMessagePatterns'])):
            action = rule['action']
            break
    does = {'FailJobSet': 'fail', 'RestartJobSet': 'count', 'RestartJobSetAndIgnoreMaxRestarts': 'free'}[action]
    return 'fail' if does == 'count' and policy['maxRestarts'] == 0 else does, policy['maxRestarts']


@pytest.mark.parametrize('limits, preempted, failed', [
    ({}, ('count', 100), ('fail', 100)),
    ({'preemptions': 7}, ('count', 7), ('fail', 7)),
    ({'preemptions': 0}, ('fail', 0), ('fail', 0)),
    ({'restarts': 3}, ('free', 3), ('count', 3)),
    ({'restarts': 3, 'preemptions': 0}, ('count', 3), ('count', 3))])
def test_restarts_are_what_the_flags_say(limits, preempted, failed):
    engine = make(**limits)
    assert after(engine, 75) == after(engine, lost=True) == preempted
    assert after(engine, 1) == after(engine, 137) == after(engine, 134) == failed
    for code in (2, 3, 4):
        assert after(engine, code)[0] == 'fail'


@pytest.mark.parametrize('restarts, preemptions', [(0, 0), (2, 100)])
def test_a_process_of_an_array_is_started_again_alone(restarts, preemptions):
    whole, job, _, _ = spec(make('l4:1,image=r/b:1', array=8, restarts=restarts, preemptions=preemptions))
    assert whole['spec']['failurePolicy'] == {'maxRestarts': 0}
    assert job['backoffLimitPerIndex'] == restarts and 'backoffLimit' not in job
    rules = job['podFailurePolicy']['rules']
    assert rules[0] == {'action': 'FailIndex', 'onExitCodes': {'containerName': 'main', 'operator': 'In', 'values': [2, 3, 4]}}
    assert [rule['action'] for rule in rules[1:]] == (['Ignore', 'Ignore'] if preemptions else [])


def expanded(words, known):
    """The words as the kubelet passes them: $$ is $, $(NAME) is a variable if it exists."""
    return [re.sub(r'\$\$|\$\((\w+)\)', lambda m: '$' if m[0] == '$$' else known.get(m[1], m[0]), word) for word in words]


@pytest.mark.parametrize('setup', ['', 'export MADE=$((40 + 2))\ncd /'])
def test_the_command_arrives_as_it_was_written(tmp_path, setup):
    script = 'import sys, os; print(sys.argv[1:], os.environ.get("MADE"), os.getcwd())'
    words = ['$(BIGJAX_PROCESSES)', '$$', '$HOME', 'a b', "it's", '${X}', '"']
    container = spec(make('v6e-16,image=r/b:1' + (f",setup='{setup}'" if setup else ''),
                          command=(sys.executable, '-c', script, *words)))[3]
    done = subprocess.run(expanded(container['command'], variables(container)), capture_output=True, cwd=tmp_path, text=True,
                          check=True, env={'PATH': os.environ['PATH']})
    assert done.stdout.strip() == f"{words} {'42 /' if setup else f'None {tmp_path}'}"


def test_a_setup_that_fails_is_the_end():
    container = spec(make("v6e-16,image=r/b:1,setup='false'", command=('echo', 'ran')))[3]
    done = subprocess.run(expanded(container['command'], {}), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, '')


def test_what_is_said_beside_the_type_is_in_the_manifest():
    whole, _, pod, container = spec(make('v6e-16,image=r/b:1,queue=q,service_account=sa,priority=high,spot,path=/code,'
                                         'selector=pool=a+zone=b', grace=12.5))
    assert whole['metadata']['labels']['kueue.x-k8s.io/queue-name'] == 'q'
    assert whole['metadata']['annotations']['alpha.jobset.sigs.k8s.io/exclusive-topology'] == 'cloud.google.com/gke-nodepool'
    assert (pod['serviceAccountName'], pod['priorityClassName'], container['workingDir']) == ('sa', 'high', '/code')
    assert pod['nodeSelector'].items() >= {'cloud.google.com/gke-spot': 'true', 'pool': 'a', 'zone': 'b'}.items()
    spot = {'key': 'cloud.google.com/gke-spot', 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}
    assert spot in pod['tolerations']
    assert pod['terminationGracePeriodSeconds'] == 13
    assert pod['restartPolicy'] == 'Never'


def test_the_command_line_of_xpk_is_rendered_on_demand(capsys, tmp_path):
    on = 'jobset:v5e-16,slices=2,image=r/b:1,cluster=c,project=p,zone=z,xpk'
    words = ['render', f'--on={on}', '--name=exp7', '--env=KEY', f'--to={tmp_path}', '--', *COMMAND]
    assert command_line.main(words) == 0
    text = (tmp_path / 'xpk.sh').read_text()
    for part in ('--tpu-type=v5litepod-16', '--num-slices=2', '--cluster=c', '--restart-on-exit-codes=75', '--max-restarts=100',
                 '--env-file=xpk.env'):
        assert part in text
    assert (tmp_path / 'xpk.env').read_text() == 'KEY\n'
    assert yaml.safe_load((tmp_path / 'jobset.yaml').read_text())['kind'] == 'JobSet'
    assert list(make('v5e-16,image=r/b:1').files()) == ['jobset.yaml']


def test_topologies_have_as_many_chips_as_their_slices():
    from launch.engines.tpu_vm import tpu_types
    for name in gke_types.TPUS:
        for chips in tpu_types.sizes(name):
            assert gke_types.size(gke_types.usual(name, chips)) == chips
    assert [gke_types.usual('v5p', 64 * cubes) for cubes in (2, 6, 8, 12, 27)] == [
        '4x4x8', '4x8x12', '8x8x8', '8x8x12', '12x12x12']


# A cluster

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
