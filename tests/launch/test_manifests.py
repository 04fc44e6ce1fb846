"""The files that the engines write for other tools, read by those tools' own programs.

    pytest -m 'engines and not slow' -n 0 tests/launch/test_manifests.py     the types of JobSet's API, the schema of Kubernetes
    pytest -m 'engines and slow' -n 0 tests/launch/test_manifests.py         xpk and SkyPilot, some 400 MB each

Each tool is installed into an environment of its own, which is removed.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
import yaml

from launch.engines.jobset import jobset
from launch.engines.sky import sky
from launch.job import Job
from tests.launch.tools import COMMAND

JOBSETS = {
    'slice': ('v6e-16,image=r/b:1', {}),
    'slices': ('v5p-128,slices=2,image=r/b:1,queue=q,spot,priority=high,service_account=sa,path=/code', {'restarts': 3}),
    'gpus': ("h100:8,nodes=2,image=r/b:1,setup='pip install a\nb',selector=a=b", {'env': ('TOKEN',), 'preemptions': 0}),
    'cpu': ('cpu:4,image=r/b:1', {'preemptions': 0, 'restarts': 2}),
    'array': ('l4:1,image=r/b:1', {'array': 5, 'restarts': 2})}
TPUS = ['v4-8', 'v4-512', 'v5e-16', 'v5e-256', 'v5p-8', 'v5p-384', 'v5p-1024', 'v6e-1', 'v6e-4', 'v6e-8,chips=4', 'v6e-64',
        'tpu7x-8', 'tpu7x-256']


def make(on, **more):
    return jobset.Engine(Job(**{'name': 'exp7', 'on': f'jobset:{on}', 'command': COMMAND, **more}))


def installed(folder: pathlib.Path, *packages: str) -> pathlib.Path:
    """The bin folder of a new environment with these packages; without a package index the test is skipped."""
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    done = subprocess.run([folder / 'bin/python', '-m', 'pip', 'install', '--quiet', *packages], capture_output=True, text=True,
                          timeout=500, check=False)
    if done.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"pip cannot install {' '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")
    return folder / 'bin'


@pytest.fixture(scope='session')
def environment(tmp_path_factory):
    """Makes environments, once each; they are removed at the end."""
    made = {}

    def get(*packages):
        if packages not in made:
            made[packages] = installed(tmp_path_factory.mktemp('environment') / 'venv', *packages)
        return made[packages]
    yield get
    for folder in made.values():
        shutil.rmtree(folder.parent)


def python(folder, program, given, home):
    """The output of a program in an environment, given text on stdin."""
    done = subprocess.run([folder / 'python', '-c', textwrap.dedent(program)], input=given, capture_output=True, text=True,
                          timeout=120, check=False, env={'HOME': str(home), 'PATH': f'{folder}:/usr/bin:/bin',
                                                         'SKYPILOT_DISABLE_USAGE_COLLECTION': '1'})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


ROUND_TRIP = """
    import json, sys
    from kubeflow_trainer_api import models
    print(models.JobsetV1alpha2JobSet.from_dict(json.load(sys.stdin)).to_json())
"""
VALIDATE = """
    import json, sys
    import kubernetes_validate
    kubernetes_validate.validate(json.load(sys.stdin), '1.32', strict=True)
"""


@pytest.fixture(scope='session')
def kubernetes(environment):
    return environment('kubeflow-trainer-api', 'kubernetes-validate')


@pytest.mark.engines
@pytest.mark.parametrize('name', JOBSETS)
def test_a_jobset_is_what_its_api_types_hold(name, kubernetes, tmp_path):
    on, more = JOBSETS[name]
    written = yaml.safe_load(make(on, **more).files()['jobset.yaml'])
    assert json.loads(python(kubernetes, ROUND_TRIP, json.dumps(written), tmp_path)) == written


@pytest.mark.engines
@pytest.mark.parametrize('name', JOBSETS)
def test_its_job_is_what_kubernetes_takes(name, kubernetes, tmp_path):
    on, more = JOBSETS[name]
    template = yaml.safe_load(make(on, **more).files()['jobset.yaml'])['spec']['replicatedJobs'][0]['template']
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'j'}, 'spec': template['spec']}
    python(kubernetes, VALIDATE, json.dumps(job), tmp_path)


@pytest.mark.engines
def test_what_is_wrong_would_be_seen(kubernetes, tmp_path):
    written = yaml.safe_load(make(*JOBSETS['slice'][:1]).files()['jobset.yaml'])
    written['spec']['failurePolicy']['maxRestart'] = 1
    assert json.loads(python(kubernetes, ROUND_TRIP, json.dumps(written), tmp_path)) != written
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'j'},
           'spec': written['spec']['replicatedJobs'][0]['template']['spec']}
    job['spec']['template']['spec']['containers'][0]['imag'] = 'x'
    with pytest.raises(AssertionError, match='imag'):
        python(kubernetes, VALIDATE, json.dumps(job), tmp_path)


@pytest.fixture(scope='session')
def xpk(environment):
    return environment('xpk') / 'xpk'


@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.parametrize('on', [*TPUS, 'v6e-16,slices=3', 'h100:8,nodes=2'])
def test_xpk_asks_for_the_same_machines(on, xpk, tmp_path):
    engine = make(f'{on},image=r/b:1,cluster=c,project=p,zone=us-central1-a,xpk', preemptions=7, grace=45)
    line = engine.files()['xpk.sh'].replace('xpk workload create', f'{xpk} workload create --dry-run --skip-validation')
    home = {'HOME': str(tmp_path), 'PATH': f'{xpk.parent}:/usr/bin:/bin'}
    subprocess.run([xpk, 'config', 'set', 'send-telemetry', 'false'], env=home, capture_output=True, timeout=120, check=True)
    done = subprocess.run(['sh', '-c', f"{line.strip()} --output-manifest-file={tmp_path / 'xpk.yaml'}"], env=home, timeout=120,
                          capture_output=True, text=True, check=False)
    assert (tmp_path / 'xpk.yaml').exists(), done.stdout[-2000:] + done.stderr[-2000:]
    theirs, ours = yaml.safe_load((tmp_path / 'xpk.yaml').read_text()), yaml.safe_load(engine.files()['jobset.yaml'])
    assert theirs['apiVersion'] == ours['apiVersion']
    facts = [compared(manifest) for manifest in (theirs, ours)]
    if 'nvidia.com/gpu' in str(facts[0]):  # which xpk leaves to its scheduler
        facts[1].pop('labels'), facts[0].pop('labels')
    assert facts[1] == facts[0]
    exits = theirs['spec']['replicatedJobs'][0]['template']['spec']['podFailurePolicy']['rules'][0]['onExitCodes']
    assert exits['operator'] == 'NotIn' and 75 in exits['values'] and not {2, 3, 4} & set(exits['values'])


def compared(manifest):
    """The parts that both tools must write alike."""
    replicated = manifest['spec']['replicatedJobs'][0]
    job = replicated['template']['spec']
    pod = job['template']['spec']
    labels = pod['nodeSelector'] or {}
    return {'slices': replicated['replicas'], 'parallelism': job['parallelism'], 'completions': job['completions'],
            'backoff': job['backoffLimit'], 'restarts': manifest['spec']['failurePolicy']['maxRestarts'],
            'labels': {key: value for key, value in labels.items() if re.search('accelerator|topology', key)},
            'limits': pod['containers'][0]['resources']['limits'], 'restart': pod['restartPolicy'],
            'grace': pod['terminationGracePeriodSeconds'],
            'tolerated': {row['key'] for row in pod['tolerations'] if row['operator'] == 'Exists'}}


SKY = """
    import json, sys
    import sky
    task = sky.Task.from_yaml('/dev/stdin')
    found = next(iter(task.resources))
    print(json.dumps({'nodes': task.num_nodes, 'accelerators': found.accelerators, 'spot': found.use_spot,
                      'cloud': str(found.cloud), 'recovery': found.job_recovery, 'run': task.run}))
"""


@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.parametrize('on, accelerators, cloud', [
    ('A100:8,nodes=2,infra=gcp,spot', {'A100': 8}, 'GCP'), ('v5e-16,infra=gcp', {'tpu-v5litepod-16': 1}, 'GCP'),
    ('v6e-8,infra=gcp', {'tpu-v6e-8': 1}, 'GCP'), ('cpus=4+,memory=16+,infra=k8s,image=docker:ubuntu:22.04,disk=100', None,
                                                   'Kubernetes'), ('H100:8,infra=slurm', {'H100': 8}, 'Slurm')])
def test_skypilot_reads_the_task_as_it_is_meant(on, accelerators, cloud, environment, tmp_path):
    engine = sky.Engine(Job('exp7', f'sky:{on},code={tmp_path}', COMMAND, restarts=2))
    found = json.loads(python(environment('skypilot'), SKY, engine.files()['sky.yaml'], tmp_path).splitlines()[-1])
    assert (found['accelerators'], found['cloud']) == (accelerators, cloud)
    assert (found['nodes'], found['spot']) == ((2, True) if 'spot' in on else (1, False))
    assert found['recovery'].items() >= {'max_restarts_on_errors': 2, 'recover_on_exit_codes': [75]}.items()
    assert ' '.join(COMMAND) in found['run']
