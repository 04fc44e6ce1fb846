"""The task for SkyPilot, and the launcher with a SkyPilot that a fake sky plays."""
import importlib
import json
import os
import subprocess
import sys

import pytest
import yaml

from launch import __main__ as command_line
from launch import steps
from launch.engines import base as engines
from launch.engines.sky import managed_job, sky
from launch.job import Job
from tests.launch.conftest import Played
from tests.launch.tools import COMMAND, assert_secret
from tests.refused import refused


def make(on='A100:8', **more):
    return sky.Engine(Job(**{'name': 'exp7', 'on': f'sky:{on}', 'command': COMMAND, **more}))


def task(engine):
    return yaml.safe_load(engine.files()['sky.yaml'])


@pytest.mark.parametrize('on, accelerator, args, nodes, workers', [
    ('A100:8,nodes=2', 'A100:8', None, 2, 2), ('H100', 'H100', None, 1, 1),
    ('v5e-16', 'tpu-v5litepod-16', {'runtime_version': 'v2-alpha-tpuv5-lite'}, 1, 4),
    ('tpu-v6e-8,runtime=r1', 'tpu-v6e-8', {'runtime_version': 'r1'}, 1, 1), ('cpus=4+', None, None, 1, 1)])
def test_machines_are_named_as_skypilot_names_them(on, accelerator, args, nodes, workers):
    engine = make(on)
    found = task(engine)
    assert found['resources'].get('accelerators') == accelerator
    assert found['resources'].get('accelerator_args') == args
    assert (found['num_nodes'], engine.workers) == (nodes, workers)


@pytest.mark.parametrize('restarts, preemptions', [(0, 100), (3, 0)])
def test_restarts_are_what_the_flags_say(restarts, preemptions):
    recovery = task(make(restarts=restarts, preemptions=preemptions))['resources']['job_recovery']
    assert recovery['max_restarts_on_errors'] == restarts
    assert recovery.get('recover_on_exit_codes') == ([75] if preemptions else None)


def test_what_is_said_beside_the_type_is_in_the_task(tmp_path):
    found = task(make(f"A100:8,infra=gcp/us-central1,spot,cpus=8,memory=64+,disk=200,image=docker:u:1,code={tmp_path},"
                      "setup='pip install a'"))
    assert found['resources'] == {'infra': 'gcp/us-central1', 'accelerators': 'A100:8', 'cpus': '8', 'memory': '64+',
                                  'disk_size': 200, 'image_id': 'docker:u:1', 'use_spot': True,
                                  'job_recovery': {'max_restarts_on_errors': 0, 'recover_on_exit_codes': [75]}}
    assert found['workdir'] == str(tmp_path)
    assert found['setup'] == 'set -e\npip install a\n'
    assert 'workdir' not in task(make("A100:8,code=''"))


SHOW = 'import json, os, sys; print(json.dumps({k: v for k, v in os.environ.items() if k[:6] == "BIGJAX"})); sys.exit(3)'


@pytest.mark.parametrize('on, more, rank, processes, process', [
    ('A100:8,nodes=3', {}, 2, 3, 2), ('A100:8', {}, 0, 1, 0), ('A100:8', {'array': 4}, 3, 1, 0)])
def test_the_script_runs_the_command_and_tells_its_end(on, more, rank, processes, process):
    words = (sys.executable, '-c', SHOW, "it's", '$HOME')
    script = task(make(on, command=words, **more))['run']
    done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, check=False, env={
        'PATH': os.environ['PATH'], 'SKYPILOT_NODE_RANK': str(rank), 'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2\n10.0.0.3'})
    found, said = done.stdout.splitlines()
    assert done.returncode == 3
    assert managed_job.END.fullmatch(said.encode()).groups() == (str(rank).encode(), b'3')
    start = importlib.import_module('bigjax.distributed.bootstrap').decide(json.loads(found))
    assert (start.processes, start.process) == (processes, process)
    assert start.coordinator == ('10.0.0.1:55527' if processes > 1 else '')
    assert json.loads(found).get('BIGJAX_SHARE') == ('3/4' if more else None)


class Queue(Played):
    """SkyPilot's queue, whose statuses come one after the other; the last one stays."""

    def statuses(self, *statuses, log='', **more):
        rows = [[] if status is None else [{'job_id': 7, 'job_name': 'exp7', 'status': status, 'recovery_count': 0, **more},
                                           {'job_id': 3, 'job_name': 'exp7', 'status': 'FAILED'}] for status in statuses]
        (self.here / 'queue.json').write_text(json.dumps(rows))
        (self.here / 'log.txt').write_text(log)
        (self.here / 'count').unlink(missing_ok=True)


@pytest.fixture
def cloud(play, monkeypatch):
    for name, value in (('POLL_S', 0.1), ('DRAIN_S', 3.0), ('IDLE_S', 0.5)):
        monkeypatch.setattr(managed_job, name, value)
    found = Queue(play('sky'))
    found.statuses(None)
    return found


def run(*more):
    return command_line.main(['run', '--on=sky:A100:8,nodes=2', '--name=exp7', *more, '--', *COMMAND])


def ended(*codes):
    return ''.join(f'(w, rank={i}, pid=1) bigjax: process {i} ended with exit code {code}\n' for i, code in enumerate(codes))


@pytest.mark.parametrize('status, codes, code, words', [
    ('SUCCEEDED', (0, 0), 0, 'done'), ('FAILED', (137, 3), 3, 'process 1 ended with exit code 3'),
    ('FAILED', (1, 137), 1, 'process 0 ended with exit code 1'), ('FAILED', (), 1, 'no room'),
    ('FAILED_PRECHECKS', (), 2, 'wrong input'), ('FAILED_NO_RESOURCE', (), 1, 'no room'),
    ('CANCELLED', (75, 75), 1, 'by another command')])
def test_a_job_is_followed_to_its_end(cloud, capfd, status, codes, code, words):
    cloud.statuses(None, 'STARTING', 'RUNNING', status, log='hello\n' + ended(*codes), failure_reason='no room')
    assert run() == code
    out, err = capfd.readouterr()
    assert 'hello' in out and words in err
    assert 'nothing is left that costs money' in err
    launched = cloud.called('launch')[0]
    assert launched['argv'][2:] == ['--yes', '--detach-run', str(cloud.here / 'jobs/exp7/sky.yaml')]
    assert all(call['SKYPILOT_DISABLE_USAGE_COLLECTION'] == '1' for call in cloud.calls)
    assert 'hello' in (cloud.here / 'jobs/exp7/logs/all.log').read_text()


def test_values_of_env_reach_sky_through_its_environment_alone(cloud, monkeypatch, capfd):
    monkeypatch.setenv('TOKEN', 'tok$en')
    cloud.statuses(None, 'SUCCEEDED')
    assert run('--env=TOKEN', '--detach') == 0
    launched = cloud.called('launch')[0]
    assert launched['TOKEN'] == 'tok$en' and launched['argv'][4:6] == ['--secret', 'TOKEN']
    assert_secret('tok$en', *capfd.readouterr(), json.dumps([call['argv'] for call in cloud.calls]),
                  folders=[cloud.here / 'jobs'])


@pytest.mark.parametrize('status, started', [('RUNNING', False), ('SUCCEEDED', True)])
def test_a_name_is_free_when_its_job_has_ended(cloud, capfd, status, started):
    cloud.statuses(status)
    assert run('--detach') == (0 if started else 2)
    assert bool(cloud.called('launch')) == started


def test_a_launch_that_fails_leaves_no_job(cloud):
    (cloud.here / 'launch.rc').write_text('1 no cloud is enabled')
    cloud.statuses(None, 'PENDING')
    with pytest.raises(steps.Failed) as error:
        make().start()
    assert (error.value.code, error.value.stderr) == (1, 'no cloud is enabled')
    assert cloud.called('cancel')[0]['argv'] == ['jobs', 'cancel', '--yes', '7']


def test_kill_cancels_the_newest_job_of_the_name(cloud, capfd):
    cloud.statuses('SUCCEEDED')
    assert run('--detach') == 0
    cloud.statuses('RUNNING', 'CANCELLING', 'CANCELLED', log='')
    assert command_line.main(['kill', 'exp7', '--grace=20']) == 0
    assert cloud.called('cancel')[0]['argv'] == ['jobs', 'cancel', '--yes', '7']
    assert 'exp7: stopped' in capfd.readouterr().err


def test_another_machine_finds_a_job_by_its_name(cloud, capfd):
    asked = yaml.dump(task(make(env=('TOKEN',), created='x' * 60)))  # as SkyPilot writes it again
    cloud.statuses('RUNNING', user_yaml=asked, infra='GCP (us-central1)')
    job = engines.find('exp7', 'sky:')
    assert (job.command, job.env, job.on) == (COMMAND, ('TOKEN',), 'sky:A100:8')
    assert command_line.main(['status', 'exp7', '--on=sky:']) == 0
    assert 'RUNNING, 0 restarts, job 7' in capfd.readouterr().out
    assert sky.Engine(job).exists() == ['job 7 of SkyPilot (RUNNING)']
    cloud.statuses(None)
    with refused('launch/no-job', 'exp7'):
        engines.find('exp7', 'sky:')


def test_a_log_ends_where_nobody_waits_for_more(cloud, capfd):
    cloud.statuses('SUCCEEDED')
    assert run('--detach') == 0
    cloud.statuses('RUNNING', log='one\ntwo\n')
    capfd.readouterr()
    assert command_line.main(['logs', 'exp7']) == 0
    assert capfd.readouterr().out == 'one\ntwo\n'
    assert cloud.called('logs')[-1]['argv'] == ['jobs', 'logs', '--follow', '--tail', '0', '7']
