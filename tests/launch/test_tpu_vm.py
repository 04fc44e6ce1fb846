"""The engine tpu_vm: what it would do, and the real gcloud against a stand-in of Google's API with real machines behind it.

Unit tests: the plan, what is refused. `-m engines`, as root: every command through the real gcloud's own parser without a
network; then a launcher in a network without a way out, gcloud, the stand-in (`fake_tpu`), and hosts with sshd (`hosts`), where
an experiment of two processes loses its slice, gets another one, and ends with the numbers of a straight run.
"""
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch.engines.base import engine
from launch.engines.tpu_vm import gcloud
from launch.engines.tpu_vm.tpu_vm import find
from launch.job import Job
from launch.outcome import LOST
from launch.steps import Run
from tests.launch.fake_tpu import Cloud, Error, serve
from tests.launch.tools import copy_of_code, git, launcher
from tests.refused import refused
from tests.trust.runs import numbers

BIN = pathlib.Path(sys.executable).parent
ON = 'tpu_vm:v5e-16,zone=us-west4-a,project=p'


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No jobs, and no settings of gcloud, but those of the test."""
    for name in [name for name in os.environ if name.startswith('CLOUDSDK_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('CLOUDSDK_CONFIG', str(tmp_path / 'config'))
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))


def make(on=ON, name='exp7', **more):
    return engine(Job(name, on, ('python', '-m', 'experiments.mnist1d', '--workdir=gs://b/x'), created='2026-01-01', **more))


def commands(on=ON, **more):
    """The gcloud commands of a plan."""
    return [step for step in make(on, **more).plan() if isinstance(step, Run) and step.argv[0] == 'gcloud']


WAYS = {
    'queued': (ON, ['queued-resources create exp7', 'queued-resources list', 'tpu-vm list', 'tpu-vm ssh exp7',
                    'queued-resources delete exp7']),
    'spot': (f'{ON},spot,valid_until=6h,service_account=a@b.c,network=n,subnetwork=s,internal_ips,runtime=r,user=me',
             ['queued-resources create exp7', 'queued-resources list', 'tpu-vm list', 'tpu-vm ssh me@exp7',
              'queued-resources delete exp7']),
    'now': (f'{ON},queued=no,reserved', ['tpu-vm create exp7', 'tpu-vm list', 'tpu-vm ssh exp7', 'tpu-vm delete exp7']),
    'slices': (f'{ON},slices=2,keep', ['queued-resources create exp7', 'queued-resources list', 'tpu-vm list',
                                       'tpu-vm ssh exp7-0', 'tpu-vm ssh exp7-1']),
    'node': ('tpu_vm:node=mine,zone=z,project=p', ['tpu-vm list', 'tpu-vm ssh mine']),
}


@pytest.mark.parametrize('on, does', WAYS.values(), ids=WAYS)
def test_plan(on, does):
    words = [' '.join(word for word in step.argv[3:] if not word.startswith('--')) for step in commands(on)]
    assert words == does
    assert all('--project=p' in step.argv for step in commands(on))


def test_flags_of_the_plan():
    create = commands(WAYS['spot'][0])[0].argv
    for flag in ('--spot', '--valid-until-duration=6h', '--service-account=a@b.c', '--network=n', '--subnetwork=s',
                 '--internal-ips', '--runtime-version=r', '--accelerator-type=v5litepod-16', '--node-id=exp7'):
        assert flag in create
    assert {'--node-count=2', '--node-prefix=exp7'} < set(commands(WAYS['slices'][0])[0].argv)
    queue, node = commands(WAYS['queued'][0]), commands(WAYS['now'][0])
    assert not {'--spot', '--reserved', '--network='} & set(queue[0].argv) and '--reserved' in node[0].argv
    assert any(word.startswith('--labels=bigjax-job=exp7,bigjax-id=') for word in queue[0].argv) and '--quiet' in queue[0].argv
    assert {'--force', '--async'} < set(queue[-1].argv) and '--force' not in node[-1].argv and '--async' in node[-1].argv
    assert {'--worker=all', '--command=true', '--strict-host-key-checking=no'} < set(queue[-2].argv)


def test_each_process_is_told_how_they_meet():
    starts = [str(step) for step in make().plan() if 'BIGJAX_PROCESS=' in str(step)]
    assert len(starts) == 4 and 'BIGJAX_PROCESSES=4' in starts[0] and ':8482' in starts[3] and 'BIGJAX_PROCESS=3' in starts[3]
    assert not [step for step in make(f'{ON},slices=2').plan() if 'BIGJAX_PROCESS=' in str(step)]  # the cloud tells them


def test_gcloud_s_own_settings(monkeypatch):
    monkeypatch.setenv('CLOUDSDK_CORE_PROJECT', 'mine')
    monkeypatch.setenv('CLOUDSDK_COMPUTE_ZONE', 'z-1')
    assert {'--project=mine', '--zone=z-1'} < set(commands('tpu_vm:v5e-8')[0].argv)


def test_where_it_was_made_is_remembered(tmp_path):
    """Other settings of gcloud, later, do not hide what costs money."""
    (tmp_path / 'jobs' / 'exp7').mkdir(parents=True)
    (tmp_path / 'jobs' / 'exp7' / 'slice.json').write_text('{"zone": "z-9", "project": "before"}')
    assert {'--project=before', '--zone=z-9'} < set(commands('tpu_vm:v5e-8')[0].argv)


def test_attach_to_what_was_taken_away(monkeypatch):
    """Processes of a slice that is gone are lost, so that the restart loop makes it anew."""
    cloud, mine = Cloud(queue_path=['ACTIVE'], node_path=['READY']), make()
    monkeypatch.setattr(gcloud, 'execute', cloud.gcloud)
    mine.allocation.ensure()
    cloud.preempt()
    group = make().attach()
    assert group.running and [end.code for end in group.wait(0)] == [LOST] * 4 and not group.running
    with refused('launch/no-machines', 'other', 'nothing'):
        make(name='other').attach()


def test_found_from_elsewhere_before_its_machines_answer(monkeypatch):
    cloud = Cloud(queue_path=['WAITING_FOR_RESOURCES'])
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(gcloud, 'execute', cloud.gcloud)
    with refused('launch/no-job', "'exp7'", 'us-west4-a'):
        find('exp7', ON)
    gcloud.do(commands()[0])
    found = engine(find('exp7', ON))
    assert found.exists() and found.down() == ['queued resource exp7 deleted'] and cloud.live == []


# From here on the real gcloud.

def needs(*programs):
    absent = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}")


def isolated(home, **more):
    """An environment in which gcloud has no account, and sends nothing but its commands."""
    return {'PATH': f'{BIN}:{os.environ["PATH"]}', 'HOME': str(home), 'CLOUDSDK_CONFIG': str(home / 'gcloud'), 'USER': 'root',
            'CLOUDSDK_CORE_CHECK_GCE_METADATA': 'false', 'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': 'true',
            'CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK': 'true', **more}


@pytest.mark.engines
@needs('gcloud', 'unshare')
def test_the_real_gcloud_takes_every_command(tmp_path):
    """Without a network and without a login each ends with 1 and a message; one that it cannot parse ends with 2."""
    steps = {str(step.argv[3:5]) + str(sorted(word.partition('=')[0] for word in step.argv[5:] if word.startswith('--'))): step
             for on, _ in WAYS.values() for step in commands(on)}
    steps['types'] = gcloud.types({'zone': 'z', 'project': 'p'})
    wrong = Run((*gcloud.types({'zone': 'z'}).argv, '--sport'))
    running = [(step, subprocess.Popen(['unshare', '--net', *step.argv], env=isolated(tmp_path), stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True)) for step in [*steps.values(), wrong]]
    said = [(step, process.communicate(timeout=120)[0], process.returncode) for step, process in running]
    assert said[-1][2] == 2
    for step, text, code in said[:-1]:
        assert code == 1 and 'active account' in text, f'{step}: {code} {text}'


class World:
    """A cloud whose machines are hosts with sshd, behind the API that gcloud calls, and launchers in their network.

    A machine that is taken away is switched off; one that is made has an empty home folder, and accepts the keys that the API
    lists.
    """

    def __init__(self, hosts, tmp_path, stack):
        self.hosts, self.tmp, self.on = hosts, tmp_path, [True] * len(hosts.names)
        # A host dies with the thread that has switched it on, and those that answer requests do not last.
        self.hands = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        for host in range(len(hosts.names)):
            self._off(host)
        self.cloud = Cloud(hosts.addresses, made=lambda name: self._later(self._fresh),
                           gone=lambda name: self._later(self._off), keys=self._keys,
                           queue_path=['CREATING', 'ACTIVE'], node_path=['READY'])
        self.url = stack.enter_context(serve(self.cloud, hosts.control[-1]))
        stack.callback(self._each, self._back)
        self.env = isolated(
            tmp_path / 'home', BIGJAX_JOBS=str(tmp_path / 'jobs'), CLOUDSDK_AUTH_DISABLE_CREDENTIALS='true',
            CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU=self.url, CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE=f'{self.url}compute/v1/')
        key = tmp_path / 'home' / '.ssh' / 'google_compute_engine'
        key.parent.mkdir(parents=True, mode=0o700)
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], check=True)
        self.code = copy_of_code(tmp_path / 'code')
        git(self.code, 'init', '-q')
        self.stack = stack

    def _each(self, do):
        for host in range(len(self.hosts.names)):
            do(host)

    def _later(self, do):
        self.hands.submit(self._each, do).result(30)

    def _off(self, host):
        if self.on[host]:
            self.hosts.power_off(host)
            self.on[host] = False

    def _fresh(self, host):
        home = self.hosts.home(host)
        shutil.rmtree(home / '.bigjax', ignore_errors=True)
        (home / '.ssh' / 'authorized_keys').write_text('')
        if not self.on[host]:
            self.hosts.power_on(host, wait=False)
            self.on[host] = True

    def _back(self, host):
        """Restores a machine as the fixture made it."""
        self._off(host)
        self._fresh(host)
        shutil.copy(f'{self.hosts.identity}.pub', self.hosts.home(host) / '.ssh' / 'authorized_keys')

    def _keys(self, text):
        lines = [line.partition(':')[2] for line in text.splitlines() if ':' in line]
        self._later(lambda host: (self.hosts.home(host) / '.ssh' / 'authorized_keys').write_text('\n'.join(lines) + '\n'))

    def launch(self, *words, on='', cwd=None):
        """A launcher; `said` of it grows."""
        where = [] if on is None else [f'--on={ON},user=root,path={BIN}{on}']
        argv = [*self.hosts.control, *launcher(*words[:1], *where, *words[1:])]
        log = open(self.tmp / f'{words[0]}.{time.monotonic()}.out', 'w+')  # noqa: SIM115
        self.stack.callback(log.close)
        process = subprocess.Popen(argv, env=self.env, cwd=cwd or self.code, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
        self.stack.callback(lambda: (process.poll() is None and process.kill(), process.wait(30)))
        process.said = lambda: pathlib.Path(log.name).read_text()
        return process

    def until(self, process, what, seconds=150.0):
        """Waits until a launcher has printed a text, or a function returns true."""
        end = time.monotonic() + seconds
        while not (what in process.said() if isinstance(what, str) else what()):
            assert time.monotonic() < end and process.poll() is None, f'{what} did not come\n{process.said()}'
            time.sleep(0.02)


@pytest.fixture
def world(hosts, tmp_path):
    with contextlib.ExitStack() as stack:
        yield World(hosts, tmp_path, stack)


def train(workdir):
    return ('python', '-m', 'experiments.mnist1d', f'--workdir={workdir}', '--variant=mlp', '--platform=cpu',
            '--config.data=fake', '--config.population=1', '--config.steps=100', '--config.checkpoint_every=10',
            '--config.log_every=2', '--config.eval_every=20')


@pytest.mark.engines
@needs('gcloud')
def test_taken_away_made_anew_and_resumed(world):
    """Two processes; the slice is preempted; the numbers are those of a run on one's own machine; nothing is left."""
    straight, taken = world.hosts.shared / 'straight', world.hosts.shared / 'taken'
    local = subprocess.run(launcher('run', '--on=local:2', '--', *train(straight)), env=world.env,
                           cwd=world.code, capture_output=True, text=True, timeout=200, check=False)
    assert local.returncode == 0, local.stderr

    run = world.launch('run', '--name=exp7', '--', *train(taken), on=',spot')
    metrics = taken / 'metrics.jsonl'
    world.until(run, lambda: metrics.exists() and '"step": 24' in metrics.read_text(), 120)
    assert world.cloud.live == ['nodes/exp7', 'queuedResources/exp7']
    assert world.cloud.bodies[0]['tpu']['nodeSpec'][0]['node']['acceleratorType'] == 'v5litepod-16'
    assert world.cloud.bodies[0]['spot'] == {}
    world.cloud.preempt()
    assert run.wait(200) == 0, run.said()
    said = run.said()
    assert 'preemption 1 of 100' in said and 'SUSPENDED' in said
    assert '0 restarts, 1 preemption · done' in said and 'nothing is left that costs money' in said
    assert 'resuming from step' in (world.tmp / 'jobs' / 'exp7' / 'logs' / '0.log').read_text()
    assert [line.split()[0] for line in world.cloud.log if 'queuedResources' in line] == ['POST', 'DELETE'] * 2
    assert world.cloud.live == []
    assert numbers(taken) == numbers(straight) and len(numbers(taken)) > 20


SLOW = ['WAITING_FOR_RESOURCES'] * 1000
PHASES = {  # what Google does, and when the launcher is stopped
    'first look': ([], [], 'plan.txt', signal.SIGINT),
    'making': (SLOW, [], 'requests v5litepod-16', signal.SIGINT),
    'in the queue': (SLOW, [], 'queued resource WAITING_FOR_RESOURCES', signal.SIGTERM),
    'machines come up': (['ACTIVE'], ['CREATING'] * 1000, 'TPU VM exp7 CREATING', signal.SIGHUP),
    'keys': (['ACTIVE'], ['READY'], 'TPU VM exp7 READY', signal.SIGINT),
    'sending': (['ACTIVE'], ['READY'], None, signal.SIGINT),
}


@pytest.mark.engines
@needs('gcloud')
@pytest.mark.parametrize('queue, node, said, number', PHASES.values(), ids=PHASES)
def test_stopped_before_it_runs(world, queue, node, said, number):
    """Ctrl-C, SIGTERM or SIGHUP, in any phase: nothing is left that costs money."""
    world.cloud.queue_path, world.cloud.node_path = queue or ['ACTIVE'], node or ['READY']
    world.cloud.deletion_looks = 0
    run = world.launch('run', '--name=exp7', '--detach', '--', 'sleep', '300', on=",setup='sleep 100'")
    known = lambda: list((world.tmp / 'jobs' / 'exp7').glob('known_hosts.*'))
    world.until(run, said or known)
    run.send_signal(number)
    assert run.wait(150) == 130, run.said()
    assert world.cloud.live == [] and world.cloud.states == set()
    assert len(world.cloud.bodies) == (said != 'plan.txt')
    assert 'Traceback' not in run.said()


@pytest.mark.engines
@needs('gcloud')
def test_killed_while_it_waits_and_removed(world):
    """kill -9 leaves a slice; `down` finds and deletes it; a second job of that name, from elsewhere, does not."""
    world.cloud.queue_path = ['CREATING', *SLOW]
    run = world.launch('run', '--name=exp7', '--', 'sleep', '300')
    world.until(run, lambda: world.cloud.live and 'WAITING' in run.said())
    run.kill()
    run.wait(10)
    assert world.cloud.live == ['queuedResources/exp7']
    world.env['BIGJAX_JOBS'] = str(world.tmp / 'elsewhere')
    other = world.launch('run', '--name=exp7', '--', 'sleep', '300')
    assert other.wait(150) == 2 and 'in use in us-west4-a' in other.said() and world.cloud.live, other.said()
    world.env['BIGJAX_JOBS'] = str(world.tmp / 'jobs')
    down = world.launch('down', 'exp7', on=None)
    assert down.wait(150) == 0 and 'queued resource exp7 deleted' in down.said(), down.said()
    assert world.cloud.live == []


@pytest.mark.engines
@needs('gcloud')
def test_google_says_no(world):
    """The API's own message comes first, through the real gcloud."""
    world.cloud.refuse['POST queuedResources'] = Error(429, 'RESOURCE_EXHAUSTED', "Quota limit 'TPUV5s' has been exceeded.")
    run = world.launch('run', '--name=exp7', '--', 'sleep', '300')
    assert run.wait(150) == 2
    last = run.said().splitlines()[-1]
    assert last.startswith("launch: RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded."), run.said()
    assert 'quotas?project=p' in run.said() and world.cloud.live == []
