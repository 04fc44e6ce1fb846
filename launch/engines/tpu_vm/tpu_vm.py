"""The engine `tpu_vm`: a slice of TPUs at Google is made, the job runs on its machines by ssh, and it is deleted.

    --on=tpu_vm:v5e-16,zone=us-west4-a,spot             a slice of its own, asked for with a queued resource
    --on=tpu_vm:node=mine,zone=us-west4-a               a TPU VM that is there already, and stays

gcloud makes, shows and deletes it, and brings this machine's SSH key to its machines; nothing that lasts runs in a gcloud
command, as that runs a command anew that has died. One process a machine. A slice that is taken away while the job runs counts
as a preemption: it is deleted, made anew, and the job resumes.
"""
import dataclasses
import math
import os
import pathlib
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from bigjax.errors import UserError
from launch import target as target_
from launch.engines import base
from launch.engines.base import Check
from launch.engines.ssh import remote
from launch.engines.ssh.remote import RemoteEngine
from launch.engines.ssh.remote_steps import Settings
from launch.engines.ssh.transport import Hosts, Unreachable
from launch.engines.tpu_vm import gcloud, tpu_slice, tpu_types
from launch.engines.tpu_vm.tpu_slice import ABSENT, DEAD, READY, Allocation, Found
from launch.job import Job, digest
from launch.lines import say
from launch.outcome import LOST, End
from launch.steps import Step, Wait
from launch.target import text

PORT = 8482  # where JAX, too, meets on TPU VMs
ANSWER = 300.0  # seconds: machines that do not answer for so long are given up, and the slice is made anew
ROUNDS = 3  # slices that one start may give up
ASK = 10.0  # seconds between two questions after a machine that does not answer
# Another process may be killed before it gives its lock on the TPU back; one that somebody holds stays.
UNLOCK = ('if command -v lsof >/dev/null && [ -z "$(lsof -t /tmp/libtpu_lockfile /dev/accel* /dev/vfio/[0-9]* 2>/dev/null)" ]; '
          'then rm -f /tmp/libtpu_lockfile; fi')


@dataclasses.dataclass(frozen=True)
class Target:
    """What --on=tpu_vm:… says."""

    type: str = text("the slice: v5e-16, v5p-8, v4-32, v6e-8, …", '')
    zone: str = text("where; gcloud's own setting where it has one", '')
    project: str = text("who pays; gcloud's own setting where it has one", '')
    spot: bool = text('cheaper, and may be taken away at any time', False)
    reserved: bool = text('from a reservation', False)
    queued: bool = text('wait in the queue for it; queued=no has it now or not at all', True)
    node: str = text('use the TPU VM of this name, which is there; it is never deleted', '')
    slices: int = text('so many slices, joined by the network of the data centre', 1)
    runtime: str = text("the version of the machines' software, where the generation's is not wanted", '')
    network: str = text("of Google's cloud, where 'default' is not wanted", '')
    subnetwork: str = text('of that network', '')
    service_account: str = text('what the machines are, to other services of Google', '')
    internal_ips: bool = text('no addresses outside; ssh goes to those inside', False)
    valid_until: str = text('give it up where it has not come after so long: 6h', '')
    wait: str = text('how long to wait for it at most', '24h')
    keep: bool = text('do not delete it at the end', False)
    user: str = text('on the machines; with OS Login as Google writes it, me_example_com', '')
    identity: str = text("a private SSH key, where gcloud's own is not wanted", '~/.ssh/google_compute_engine')
    path: str = text('put before PATH there: ~/venv/bin', '')
    setup: str = text("a line of shell, run in the code's folder before each start", '')


class Engine(RemoteEngine):
    """One process a machine of a slice."""

    kind, Target = 'tpu_vm', Target

    def __init__(self, job: Job):
        super().__init__(job)
        target, on = self.target, f'--on={job.on}'
        if job.array:
            raise UserError(f'{on}: a slice runs one program on all its machines, not {job.array} of their own; use '
                            'slurm, ssh or jobset for them', code='launch/no-array')
        if not target.type and not target.node:
            raise UserError(f'{on}: which slice? write for example --on=tpu_vm:v5e-16,zone=us-west4-a',
                            code='launch/missing-key')
        self._slice = tpu_types.parse(target.type, self.kind) if target.type else None
        if self._slice and target.runtime:
            self._slice = dataclasses.replace(self._slice, runtime=target.runtime)
        alone = [key for key in ('spot', 'reserved', 'valid_until', 'runtime') if getattr(target, key)]
        if target.node and (alone or target.slices != 1):
            raise UserError(f"{on}: node={target.node} is there already; leave out {', '.join(alone) or 'slices'}",
                            code='launch/conflict')
        if target.spot and target.reserved:
            raise UserError(f'{on}: spot and reserved exclude each other; leave one out', code='launch/conflict')
        if target.slices < 1 or (not target.queued and (target.slices > 1 or target.valid_until)):
            raise UserError(f'{on}: several slices, and valid_until, need the queue; leave out queued=no, and let slices '
                            'be 1 or more', code='launch/conflict')
        if target.valid_until:
            tpu_slice.seconds(target.valid_until, 'valid_until')
        before, now = tpu_slice.load(job), gcloud.settings()
        self._where = {key: getattr(target, key) or before.get(key) or now[key] for key in ('zone', 'project')}
        if not self._where['zone']:
            raise UserError(f"{on}: zone is missing; add for example zone=us-west4-a, or 'gcloud config set compute/zone ZONE'",
                            code='launch/missing-key')
        flags = {key.replace('_', '-'): getattr(target, key)
                 for key in ('spot', 'reserved', 'network', 'subnetwork', 'service_account', 'internal_ips')}
        named = dataclasses.replace(job, name=target.node) if target.node else job
        self._allocation = Allocation(
            named, self._where, self._slice, slices=target.slices, queued=target.queued and not target.node,
            flags=flags | {'valid-until-duration': target.valid_until}, wait=tpu_slice.seconds(target.wait, 'wait'))
        self._found: Found | None = None
        self._asking, self._asked, self._gone = threading.Lock(), -math.inf, False

    @property
    def workers(self) -> int:
        if self._found and self._found.state == READY:
            return len(self.hosts())
        return self._slice.workers * self.target.slices if self._slice else 1

    def check(self) -> None:
        gcloud.installed()
        if not self._where['project']:
            raise UserError(f"--on={self.job.on}: project is missing; add project=ID, or 'gcloud config set project ID'",
                            code='launch/missing-key')
        super().check()

    def settings(self) -> Settings:
        setup = f'{UNLOCK}; {self.target.setup}' if self.target.setup else UNLOCK
        return Settings(path=self.target.path, setup=setup, wait=ANSWER)

    def hosts(self) -> Hosts:
        """The machines of the slice.

        Raises:
          UserError: there is none, or it is not ready.
        """
        if self._found is None:
            self._found = self._allocation.look()
        if self._found.state != READY:
            state, self._found = self._found, None
            raise UserError(f'{self._name}: there are no machines to talk to ({state}); {self._hint(state)}',
                            code='launch/no-machines')
        places = [(f'{tpu_slice.short(node)}:{number}', inside if self.target.internal_ips else outside or inside)
                  for node in self._found.nodes for number, (inside, outside) in enumerate(tpu_slice.endpoints(node))]
        return self._machines(tuple(address for _, address in places), tuple(name for name, _ in places))

    def planned(self) -> Hosts:
        count = self._slice.workers if self._slice else 1
        names = tuple(f'{node}:{number}' for node in self._allocation.nodes for number in range(count))
        return self._machines(tuple(f"ADDRESS-OF-{name.replace(':', '-')}" for name in names), names)

    def _machines(self, addresses: tuple[str, ...], names: tuple[str, ...]) -> Hosts:
        # Addresses are given to somebody else's machine tomorrow: every slice has known hosts of its own.
        options = 'StrictHostKeyChecking=accept-new', f'UserKnownHostsFile={self._known}'
        return Hosts(addresses, user=self.target.user, identity=self.target.identity, options=options, names=names)

    @property
    def _known(self) -> pathlib.Path:
        """The file of this slice's known hosts; it is there when they know our key."""
        made = [str((node.get('id'), node.get('createTime'))) for node in self._found.nodes] if self._found else []
        return self.job.folder / f'known_hosts.{digest(*made)}'

    @property
    def _name(self) -> str:
        return self.target.node or self.job.name

    def variables(self, process: int, coordinator: str) -> dict[str, str]:
        """One slice: what its machines would find out themselves from a metadata server, which may not answer at once.

        Several: nothing, since only the cloud knows which number it has given to each.
        """
        if self.target.slices > 1 or self.workers == 1:
            return {}
        first = tpu_slice.endpoints(self._found.nodes[0])[0][0] if self._found else f'ADDRESS-OF-{self._allocation.nodes[0]}-0'
        return {'BIGJAX_COORDINATOR': f'{first}:{PORT}', 'BIGJAX_PROCESSES': str(self.workers), 'BIGJAX_PROCESS': str(process)}

    def gone(self, host: int) -> bool:
        with self._asking:  # one answer for all machines that are silent
            if time.monotonic() > self._asked + ASK:
                try:
                    self._gone = self._allocation.look().state in (DEAD, ABSENT)
                except UserError:
                    self._gone = False
                self._asked = time.monotonic()
            return self._gone

    def plan(self) -> Sequence[Step]:
        own = not self.target.node
        name, user = self._name, self.target.user
        first: list[Step] = [self._allocation.command()] if own else []
        if own and self.target.queued:
            first += [gcloud.queue(name, self._where), Wait(f'repeated until it is ACTIVE, at most {self.target.wait}')]
        first += [gcloud.nodes(name, self._where), Wait(f'until {name} is READY; this tells the addresses')]
        first += [gcloud.keys(node, user, self._where, internal=self.target.internal_ips) for node in self._allocation.nodes]
        last: list[Step] = []
        if own and not self.target.keep:
            last = [Wait('until the job has ended, for good'),
                    dataclasses.replace(self._allocation.deletion(), why='also after Ctrl-C before it runs, and any error')]
        return [*first, *super().plan(), *last]

    def start(self) -> base.Group:
        self._found, self._asked = None, -math.inf
        if self.target.node:
            self.hosts()
            self._bring_key()
            return super().start()
        with self._allocation.or_nothing(self.target.keep):
            rounds, until = 1, time.monotonic() + ANSWER
            while True:
                self._found = self._allocation.ensure()
                try:
                    self._bring_key()
                    group = super().start()
                    say(f'{self.job.name}: {self._slice.type} costs money ' + (
                        'until you delete it (keep)' if self.target.keep else 'until the job has ended and a launcher sees it'))
                    return group
                except Unreachable as error:
                    if time.monotonic() > until:
                        if rounds == ROUNDS:
                            raise
                        say(f'{error}; the slice is deleted, and made anew')
                        self._allocation.delete()
                        rounds, until = rounds + 1, time.monotonic() + ANSWER
                    else:
                        say(f'{error}; tries again')
                        time.sleep(ASK)

    def attach(self, *, whole: bool = False) -> base.Group:
        found = self._allocation.look()
        if found.state == DEAD and self._allocation.mine(found):
            say(f'{self._name}: was taken away ({found})')
            return Taken(self.workers)
        self._found = found
        self.hosts()
        self._bring_key()
        return super().attach(whole=whole)

    def remembered(self) -> Job:
        """The job as its machines have it; by its name alone, where they cannot be asked, so that it can be deleted."""
        self._found = found = self._allocation.look(whole=True)
        if found.state == ABSENT or not (self.target.node or self._allocation.mine(found)):
            raise UserError(f"--on={self.job.on}: no job '{self.job.name}' is in {self._where['zone']}", code='launch/no-job')
        if found.state != READY:
            return self.job
        self._bring_key()
        theirs = remote.find(self)
        # What was said then holds, where this machine says nothing else (it may have another user, or key).
        before, asked = dataclasses.asdict(target_.parse(self.kind, theirs.target, Target)), dataclasses.asdict(self.target)
        default = dataclasses.asdict(Target())
        both = Target(**{key: value if value != default[key] else before[key] for key, value in asked.items()})
        return dataclasses.replace(theirs, on=f'{self.kind}:{target_.write(both)}')

    def _bring_key(self) -> None:
        """Once a slice; all its machines answer then.

        Raises:
          Unreachable: they do not, yet.
        """
        if self._known.exists():
            return
        self.job.folder.mkdir(parents=True, exist_ok=True)
        for node in self._allocation.nodes:
            try:
                gcloud.do(gcloud.keys(node, self.target.user, self._where, internal=self.target.internal_ips), 600.0)
            except gcloud.Refused as error:
                if error.status or any(word in error.said for word in (
                        'not present in the SSH agent', 'gcloud auth', 'crashed', 'Permission denied')):
                    raise
                raise Unreachable(f'{node}: does not answer to ssh ({error.said})') from None
        for old in self.job.folder.glob('known_hosts.*'):
            old.unlink()
        self._known.touch()

    def status(self) -> list[str]:
        self._found = found = self._allocation.look(whole=True)
        lines = [f"{self._name}: {found} in {self._where['zone']}"]
        return [*lines, *super().status()] if found.state == READY else [*lines, self._hint(found)]

    def _hint(self, found: Found) -> str:
        if self.target.node:
            return (f"start it with 'gcloud compute tpus tpu-vm start {self._name} --zone={self._where['zone']}'"
                    if found.state == DEAD else 'check node=, zone= and project=')
        if found.state == ABSENT:
            logs = self.job.logs or self.job.folder / 'logs'
            return f'the job has ended, or was never started; what it wrote is in {logs}, as far as a launcher followed it'
        if found.state == DEAD:
            return f"'python -m launch attach {self.job.name}' makes it anew and goes on"
        return 'it is not there yet'

    def finish(self) -> list[str]:
        """Deletes what is paid for, unless `keep`."""
        if self.target.node or self.target.keep:
            return []
        with gcloud.signals(lambda *_: say('is deleting what costs money; wait')):
            return self._allocation.delete()

    def down(self) -> list[str]:
        if self.target.node:
            return list(super().down())
        return self._allocation.delete() or [f"nothing of it is in {self._where['zone']}"]

    def exists(self) -> list[str]:
        return [] if self.target.node else self._allocation.exists()

    def doctor(self) -> list[Check]:
        checks = gcloud.doctor(self._where, self._slice.type if self._slice else '')
        return [*checks, _key_check(os.path.expanduser(self.target.identity))]


class Taken:
    """The group of a slice that is gone: all its processes are lost."""

    idle, stopped, only, running = True, False, None, True

    def __init__(self, workers: int):
        self._workers = workers

    def wait(self, seconds: float) -> list[End]:
        """That they are lost, once."""
        ends = [End(process, LOST, time.monotonic()) for process in range(self._workers)] if self.running else []
        self.running = False
        return ends

    def signal(self, number: int) -> None:
        """There is nobody."""

    def stop(self) -> None:
        """There is nobody."""

    def tail(self, process: int) -> list[str]:
        """Nothing."""
        return []

    def close(self) -> None:
        """There is nothing."""


def find(name: str, on: str) -> Job:
    """The job of that name, which another machine has started.

    Raises:
      UserError: there is no slice of that name.
    """
    asked = Engine(Job(name, on, ('python',)))
    return asked.remembered()


def _key_check(path: str) -> Check:
    """Whether ssh can use a private key without asking."""
    what = f'SSH key {path}'
    if not os.path.exists(path):
        return Check(what, True, 'is not there yet; gcloud makes it')
    run: Any = lambda *argv: subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False,
                                            stdin=subprocess.DEVNULL)
    if run('ssh-keygen', '-y', '-P', '', '-f', path).returncode == 0:
        return Check(what, True, 'has no passphrase')
    print_ = run('ssh-keygen', '-l', '-f', path).stdout.split()
    loaded = len(print_) > 1 and print_[1] in run('ssh-add', '-l').stdout
    return Check(what, loaded, 'has a passphrase, and is ' + ('' if loaded else 'not ') + 'in the agent',
                 f"load it with 'ssh-add {path}'")
