"""A SLURM cluster to test against: slurmctld in the control network, a slurmd on each of two hosts of `tests.launch.hosts`.

    with Cluster(hosts) as cluster:               # or the fixture `cluster`
        subprocess.run([*cluster.inside, 'sinfo'], env=cluster.env)

    cluster.inside                 arguments in front of a command of a user of the cluster
    cluster.env                    what such a command finds in its environment
    cluster.show(number)           the fields of a job in scontrol, {field: value}
    cluster.shared                 a folder that all nodes, and this machine, see under the same path
    cluster.power_off(host)        a node, at once; power_on(host) starts it again

The daemons read a configuration of their own, with a key of their own; nothing outside of one folder is written, and all of
them end with the cluster.
"""
import contextlib
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import tempfile
import time

import pytest

from tests.launch.hosts import SUBNET, Hosts, missing

PROGRAMS = {'munged': 'munge', 'slurmctld': 'slurmctld', 'slurmd': 'slurmd', 'sbatch': 'slurm-client'}
CONFIGURATION = """
ClusterName=bjx
SlurmctldHost=control({subnet}.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld
SlurmdLogFile={base}/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
InactiveLimit=0
KillWait=10
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=10
JobRequeue=1
SlurmdParameters=config_overrides
{nodes}
PartitionName=cpu Nodes={names} Default=YES MaxTime=60 State=UP
PartitionName=old Nodes={names} MaxTime=10 State=DOWN
"""


def absent() -> str:
    """Why there can be no cluster here; '' where there can."""
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    return f"a SLURM cluster needs {' '.join(packages)} (apt-get install {' '.join(packages)})" if packages else missing()


class Cluster:
    """See above."""

    def __init__(self, hosts: Hosts):
        self._hosts, self._running, self._undo = hosts, {}, contextlib.ExitStack()
        self.inside, self.shared = hosts.control, hosts.shared

    def __enter__(self) -> 'Cluster':
        with contextlib.ExitStack() as undo:
            self._base = pathlib.Path(tempfile.mkdtemp(prefix='bigjax-slurm-', dir='/var/tmp'))
            self._base.chmod(0o755)  # munged refuses what others can write, and is another user
            undo.callback(shutil.rmtree, self._base, ignore_errors=True)
            undo.callback(self._end)
            for name in ('munge', 'state', 'log', *(f'spool.{name}' for name in self._hosts.names)):
                (self._base / name).mkdir()
            nodes = '\n'.join(f'NodeName={name} NodeAddr={address} CPUs=4 RealMemory=4000 State=UNKNOWN' for name, address
                              in zip(self._hosts.names, self._hosts.addresses, strict=True))
            configuration = self._base / 'slurm.conf'
            configuration.write_text(CONFIGURATION.format(subnet=SUBNET, base=self._base, nodes=nodes,
                                                          names=','.join(self._hosts.names)))
            self.env = {**os.environ, 'SLURM_CONF': str(configuration)}
            self._munged()
            self._daemon('slurmctld', [*self.inside, 'unshare', '--uts', 'sh', '-c',
                                       'hostname control; exec slurmctld -D -c'])
            for host in range(len(self._hosts.names)):
                self._start(host)
            self._until_idle()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._undo.close()

    def show(self, number: str) -> dict[str, str]:
        """The fields of a job."""
        return dict(re.findall(r'(\w+)=(\S*)', self.run('scontrol', '--oneliner', 'show', 'job', number)))

    def run(self, *words: str) -> str:
        """The output of a command of SLURM."""
        done = subprocess.run([*self.inside, *words], env=self.env, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def power_off(self, host: int) -> None:
        """A node, at once."""
        self._hosts.power_off(host)

    def power_on(self, host: int) -> None:
        """A node, and its slurmd; returns when all nodes are up and have nothing to do."""
        self._hosts.power_on(host)
        self._start(host)
        self._until_idle()

    def _start(self, host: int) -> None:
        name = self._hosts.names[host]
        self._daemon(f'slurmd.{name}', [*self._hosts.inside(host), f"SLURM_CONF={self.env['SLURM_CONF']}", 'slurmd', '-D', '-N',
                                        name])

    def _munged(self) -> None:
        folder = self._base / 'munge'
        (folder / 'key').write_bytes(secrets.token_bytes(128))
        (folder / 'key').chmod(0o400)
        for path in (folder, folder / 'key'):
            shutil.chown(path, 'munge', 'munge')
        folder.chmod(0o711)
        self._daemon('munged', ['setpriv', '--reuid=munge', '--regid=munge', '--clear-groups', 'munged', '-F',
                                *(f'--{what}={folder}/{what.removesuffix("-file")}' for what in
                                  ('key-file', 'socket', 'pid-file', 'log-file', 'seed-file'))])
        self._until(lambda: (folder / 'socket').exists(), 10, 'munged')

    def _daemon(self, name: str, argv) -> None:
        """In the foreground, so that its number is known; it dies with this process."""
        with open(self._base / 'log' / f'{name}.out', 'ab') as log:
            self._running[name] = subprocess.Popen(['setpriv', '--pdeathsig', 'KILL', *argv], env=self.env, cwd='/',
                                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _until_idle(self) -> None:
        def idle():
            done = subprocess.run([*self.inside, 'sinfo', '--noheader', '--partition=cpu', '--format=%T'], env=self.env,
                                  capture_output=True, text=True, timeout=30, check=False)
            return set(done.stdout.split()) == {'idle'}
        self._until(idle, 40, 'slurm')

    def _until(self, so, seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not so():
            if time.monotonic() > end:
                logs = '\n'.join(f'{path.name}: {path.read_text(errors="replace")[-1500:]}'
                                 for path in sorted((self._base / 'log').iterdir()))
                raise RuntimeError(f'{what} does not come up: {logs}')
            time.sleep(0.2)

    def _end(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


@pytest.fixture(scope='module')
def cluster():
    """Two nodes, for the tests of a file; skipped with the reason where they cannot be."""
    if why := absent():
        pytest.skip(why)
    with Hosts(2) as hosts, Cluster(hosts) as made:
        yield made
