"""The engine `slurm` on a real cluster of two nodes (`tests.launch.cluster`): a run of two processes, one on each, that is
cancelled, requeued, and loses a node, ends with the numbers of a straight run."""
import os
import subprocess
import sys
import time

import pytest

from tests.launch.tools import assert_secret, copy_of_code, launcher, until
from tests.trust.runs import numbers

pytestmark = pytest.mark.engines
TOLD = ('JAX_PLATFORMS', 'BIGJAX_PLATFORM', 'MPLBACKEND', 'XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR',
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES')


class User:
    """Somebody who works on the cluster, in a folder that all nodes see."""

    def __init__(self, nodes):
        self.cluster, self.folder = nodes, nodes.shared
        self.code = copy_of_code(self.folder / 'code')
        own = {'BIGJAX_JOBS': str(self.folder / 'jobs'), 'PYTHONPATH': str(self.code), 'MPLBACKEND': 'Agg',
               'JAX_COMPILATION_CACHE_DIR': str(self.folder / 'cache')}
        self.env = {**nodes.env, **own}
        self.told = [name for name in TOLD if name in self.env]
        self._running = []

    def start(self, *argv, **variables):
        """A launcher that runs."""
        process = subprocess.Popen([*self.cluster.inside, *launcher(*argv)], cwd=self.code,
                                   env={**self.env, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._running.append(process)
        return process

    def launch(self, *argv, **variables):
        """(exit code, stdout, stderr)."""
        process = self.start(*argv, **variables)
        out, err = process.communicate(timeout=150)
        return process.returncode, out, err

    def train(self, name, *flags):
        """The arguments that run an experiment of two processes."""
        return ('run', '--on=slurm:nodes=2,cpus=1', f'--name={name}', f"--env={','.join(self.told)}", *flags, '--',
                sys.executable, '-m', 'experiments.mnist1d', f'--workdir={self.folder}/{name}', '--variant=mlp',
                '--config.data=fake', '--config.population=1', '--config.steps=200', '--config.checkpoint_every=20',
                '--config.log_every=2', '--config.eval_every=100')

    def number(self, name):
        """SLURM's, of a job."""
        return (self.folder / 'jobs' / name / 'number').read_text().strip()

    def until_step(self, name, step):
        """Waits until a run has come to a step."""
        path = self.folder / name / 'metrics.jsonl'
        until(lambda: path.exists() and f'"step": {step}' in path.read_text(), 120)

    def until_pending(self, name):
        """Waits until SLURM has put a job back."""
        until(lambda: self.cluster.show(self.number(name))['JobState'] == 'PENDING', 90)

    def at_once(self, name):
        """A job that SLURM has put back waits for two minutes, so that all of its last start has ended; this one for less."""
        number = self.number(name)
        self.until_pending(name)
        time.sleep(3)
        self.cluster.run('scontrol', 'update', f'JobId={number}', 'StartTime=now')

    def numbers(self, name):
        """The metrics of a run, wall clock aside."""
        return numbers(self.folder / name)

    def log(self, name, process=0):
        """The output of a process."""
        return (self.folder / 'jobs' / name / 'logs' / f'{process}.log').read_text()

    def close(self):
        """Ends what still runs."""
        for process in self._running:
            process.kill()


@pytest.fixture(scope='module')
def user(cluster):
    made = User(cluster)
    yield made
    made.close()


@pytest.fixture(scope='module')
def straight(user):
    """The numbers of a run that nothing happens to, which is also the first one."""
    code, out, err = user.launch(*user.train('straight'))
    assert code == 0, err
    assert '[0] ' in out and "all 2 processes are here: host1: 0, host2: 1" in out.replace(' · ', ', '), out
    assert '0 restarts, 0 preemptions · done' in err.splitlines()[-1], err
    return user.numbers('straight')


def test_a_straight_run(user, straight):
    assert len(straight) > 100 and user.cluster.show(user.number('straight'))['ExitCode'] == '0:0'
    assert (user.folder / 'straight' / 'report.html').exists()


def test_scancel_stops_and_saves_and_nothing_starts_it_again(user, straight):
    """A detached job is followed from a machine without its record; the same run is resumed under another name."""
    assert user.launch(*user.train('cancelled', '--detach'))[0] == 0
    user.until_step('cancelled', 40)
    follower = user.start('attach', 'cancelled', '--on=slurm', BIGJAX_JOBS=str(user.folder / 'elsewhere'))
    until(lambda: 'SLURM job' in follower.stderr.readline(), 20)
    user.cluster.run('scancel', user.number('cancelled'))
    err = follower.communicate(timeout=60)[1]
    assert follower.returncode == 75 and 'stopped by another command; process' in err and 'exit code 75' in err, err
    assert user.cluster.show(user.number('cancelled'))['JobState'] == 'CANCELLED'
    assert 'SIGTERM: saving after this step' in user.log('cancelled') + user.log('cancelled', 1)
    assert len(user.numbers('cancelled')) < len(straight)
    argv = [word.replace('--name=cancelled', '--name=continued') for word in user.train('cancelled')]
    code, _, err = user.launch(*argv)
    assert code == 0 and 'resuming from step' in user.log('continued'), err
    assert user.numbers('cancelled') == straight


@pytest.mark.parametrize('name, command', [('requeued', ('scontrol', 'requeue')), ('preempted', ('scancel', '--signal=TERM'))])
def test_a_job_that_slurm_or_its_script_requeues_resumes(user, straight, name, command):
    """SIGTERM from outside, as before a time limit, is the second: then only the script requeues the job."""
    process = user.start(*user.train(name))
    user.until_step(name, 40)
    user.cluster.run(*command, user.number(name))
    user.at_once(name)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and '0 restarts, 1 preemption · done' in err.splitlines()[-1], err
    assert 'resuming from step' in user.log(name) and 'start 1' in user.log(name)
    assert name == 'requeued' or ('exit code 75' in err and 'preemption 1 of 100' in err)
    shown = user.cluster.show(user.number(name))
    assert (shown['JobState'], shown['Restarts']) == ('COMPLETED', '1')
    assert user.numbers(name) == straight


def test_a_node_that_is_switched_off(user, straight):
    process = user.start(*user.train('lost'))
    user.until_step('lost', 40)
    user.cluster.power_off(1)
    user.until_pending('lost')
    user.cluster.power_on(1)
    user.at_once('lost')
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and '0 restarts, 1 preemption · done' in err.splitlines()[-1], err
    assert 'resuming from step' in user.log('lost')
    assert user.numbers('lost') == straight


def test_launch_kill(user):
    """A job that waits never runs; one that runs saves, and is not started again."""
    assert user.launch(*user.train('killed', '--detach'))[0] == 0
    assert user.launch('run', '--detach', '--on=slurm:nodes=2,extra=--exclusive', '--name=waits', '--', 'true')[0] == 0
    user.until_step('killed', 20)
    for name in ('waits', 'killed'):
        code, _, err = user.launch('kill', name)
        assert code == 0 and err.endswith(f'launch: {name}: stopped\n'), err
    shown = user.cluster.show(user.number('killed'))
    assert (shown['JobState'], shown['ExitCode'], shown['Restarts']) == ('FAILED', '75:0', '0')
    assert not (user.folder / 'jobs' / 'waits' / 'logs' / '0.log').exists()
    for name in ('waits', 'killed'):
        code, _, err = user.launch('down', name, '--yes')
        assert code == 0 and not (user.folder / 'jobs' / name).exists(), err


def test_an_array_of_six_shares(user):
    """One of them is preempted once, and is started again alone."""
    program = user.folder / 'share.sh'
    program.write_text('echo "share $BIGJAX_SHARE"\n[ "$BIGJAX_SHARE" != 5/6 ] || [ "$SLURM_RESTART_COUNT" ] || exit 75\n')
    start = ('import sys; from launch import commands, job; '
             f"sys.exit(commands.start(job.Job('shares', 'slurm', ('sh', {str(program)!r}), array=6)))")
    process = subprocess.Popen([*user.cluster.inside, sys.executable, '-c', start], cwd=user.code, env=user.env,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    user._running.append(process)
    record = user.folder / 'jobs' / 'shares' / 'ends.5'
    until(lambda: record.exists() and 'preempted' in record.read_text(), 60)
    number = user.number('shares')
    until(lambda: 'PENDING' in user.cluster.run('squeue', '--noheader', '--array', f'--jobs={number}', '--format=%T'), 30)
    user.cluster.run('scontrol', 'update', f'JobId={number}_5', 'StartTime=now')
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and '6 processes' in err and '0 restarts, 1 preemption · done' in err, err
    found = sorted(line for line in out.splitlines() if 'share ' in line and '---' not in line)
    assert found == sorted([f'[{i}] share {i}/6' for i in range(6)] + ['[5] share 5/6'])


def test_values_are_nowhere_but_where_they_are_wanted(user):
    secret = f'open, "sesame"\n{os.getpid()}'
    code, out, err = user.launch('run', '--on=slurm', '--name=secret', '--env=TOKEN', '--', sys.executable, '-c',
                                 'import os; print(len(os.environ["TOKEN"]), os.getcwd())', TOKEN=secret)
    assert code == 0 and out.splitlines()[-1] == f'{len(secret)} {user.code}', err
    assert_secret('sesame', out, err, folders=[user.folder / 'jobs' / 'secret'])


def test_what_the_cluster_does_not_have(user):
    code, out, _ = user.launch('doctor', '--on=slurm:nodes=3,time=2:00:00')
    assert code == 4 and 'FAIL  nodes: 2 of 2 that are up have cpus=1; 3 are requested' in out and 'FAIL  time' in out, out
    assert user.launch('doctor', '--on=slurm:nodes=2,time=0:30:00')[0] == 0
    code, _, err = user.launch('run', '--on=slurm:extra=--nodelist=nobody', '--name=refused', '--', 'true')
    assert code == 2 and 'rejected by sbatch: Batch job submission failed: Invalid node name' in err
