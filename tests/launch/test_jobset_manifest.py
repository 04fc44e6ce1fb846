"""The manifest of a JobSet, read back: machines, environment, restarts, the command."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from launch import __main__ as command_line
from launch.engines.jobset import gke_types, jobset
from launch.engines.manifest import dump
from launch.job import Job
from tests.launch.tools import COMMAND


def make(on='v6e-16,image=r/b:1', **more):
    return jobset.Engine(Job(**{'name': 'exp7', 'on': f'jobset:{on}', 'command': COMMAND, **more}))


def spec(engine):
    """(JobSet, its Job's spec, its pod's spec, its container), read back from the YAML."""
    whole = yaml.safe_load(engine.files()['jobset.yaml'])
    job = whole['spec']['replicatedJobs'][0]['template']['spec']
    return whole, job, job['template']['spec'], job['template']['spec']['containers'][0]


def variables(container):
    return {row['name']: row.get('value') for row in container['env']}


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
