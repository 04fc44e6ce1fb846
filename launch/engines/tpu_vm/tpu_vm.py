"""The engine `tpu_vm`: creates a slice of Cloud TPUs, runs the job on its machines over ssh, and deletes the slice.

    --on=tpu_vm:v5e-16,zone=us-west4-a,spot             a slice of its own, requested by a queued resource
    --on=tpu_vm:node=mine,zone=us-west4-a               an existing TPU VM, which is never deleted

gcloud creates, shows and deletes the slice, and copies this machine's SSH key to its machines. The job itself runs over plain
ssh, because `gcloud … ssh` runs a command again after it has died. There is one process per machine. A slice that is taken away
while the job runs counts as a preemption: it is deleted, created again, and the job resumes.
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
from launch.lines import log
from launch.outcome import LOST, End
from launch.steps import Step, Wait
from launch.target import text

PORT = 8482  # JAX's own coordinator port on TPU VMs
SSH_TIMEOUT_S = 300.0  # without an answer of its machines, after which a slice is created again
MAX_SLICES = 3  # that one start may create
RETRY_S = 10.0  # between two queries about a machine that does not answer
# A killed process can leave its lock on the TPU behind; a lock that a process holds is not removed.
UNLOCK = ('if command -v lsof >/dev/null && [ -z "$(lsof -t /tmp/libtpu_lockfile /dev/accel* /dev/vfio/[0-9]* 2>/dev/null)" ]; '
          'then rm -f /tmp/libtpu_lockfile; fi')


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=tpu_vm:…"""

    type: str = text("the slice: v5e-16, v5p-8, v4-32, v6e-8, …", '')
    zone: str = text("zone; by default gcloud's own setting", '')
    project: str = text("project to charge; by default gcloud's own setting", '')
    spot: bool = text('cheaper, and may be taken away at any time', False)
    reserved: bool = text('from a reservation', False)
    queued: bool = text('wait in the queue for it; with queued=no now or not at all', True)
    node: str = text('use the existing TPU VM of this name, and never delete it', '')
    slices: int = text("number of slices, joined by the data centre's network", 1)
    runtime: str = text("software version of the machines; by default the generation's", '')
    network: str = text("network of Google's cloud; by default 'default'", '')
    subnetwork: str = text('subnetwork of that network', '')
    service_account: str = text('service account of the machines', '')
    internal_ips: bool = text('no external addresses; ssh uses the internal ones', False)
    valid_until: str = text('give up if it is not there after that long: 6h', '')
    wait: str = text('longest time to wait for it', '24h')
    keep: bool = text('do not delete it at the end', False)
    user: str = text("login name on the machines; with OS Login in Google's form, me_example_com", '')
    identity: str = text("a private SSH key; by default gcloud's own", '~/.ssh/google_compute_engine')
    path: str = text('prepended to PATH there: ~/venv/bin', '')
    setup: str = text("a line of shell, run in the code's folder before each start", '')


class Engine(RemoteEngine):
    """One process per machine of a slice."""

    kind, Target = 'tpu_vm', Target

    def __init__(self, job: Job):
        super().__init__(job)
        target, on = self.target, f'--on={job.on}'
        if job.array:
            raise UserError(f'{on}: a slice runs one program on all its machines, not {job.array} independent ones; fix: use '
                            'slurm, ssh or jobset', code='launch/no-array')
        if not target.type and not target.node:
            raise UserError(f'{on}: no slice; fix: write for example --on=tpu_vm:v5e-16,zone=us-west4-a',
                            code='launch/missing-key')
        self._slice = tpu_types.parse(target.type, self.kind) if target.type else None
        if self._slice and target.runtime:
            self._slice = dataclasses.replace(self._slice, runtime=target.runtime)
        alone = [key for key in ('spot', 'reserved', 'valid_until', 'runtime') if getattr(target, key)]
        if target.node and (alone or target.slices != 1):
            raise UserError(f"{on}: node={target.node} exists already; fix: leave out {', '.join(alone) or 'slices'}",
                            code='launch/conflict')
        if target.spot and target.reserved:
            raise UserError(f'{on}: spot and reserved exclude each other; fix: leave one out', code='launch/conflict')
        if target.slices < 1 or (not target.queued and (target.slices > 1 or target.valid_until)):
            raise UserError(f'{on}: several slices, and valid_until, need the queue; fix: leave out queued=no, and write '
                            'slices=1 or more', code='launch/conflict')
        if target.valid_until:
            tpu_slice.seconds(target.valid_until, 'valid_until')
        before, now = tpu_slice.load(job), gcloud.settings()
        self._where = {key: getattr(target, key) or before.get(key) or now[key] for key in ('zone', 'project')}
        if not self._where['zone']:
            raise UserError(f"{on}: zone is missing; fix: add for example zone=us-west4-a, or run 'gcloud config set "
                            "compute/zone ZONE'",
                            code='launch/missing-key')
        flags = {key.replace('_', '-'): getattr(target, key)
                 for key in ('spot', 'reserved', 'network', 'subnetwork', 'service_account', 'internal_ips')}
        named = dataclasses.replace(job, name=target.node) if target.node else job
        self._allocation = Allocation(
            named, self._where, self._slice, slices=target.slices, queued=target.queued and not target.node,
            flags=flags | {'valid-until-duration': target.valid_until}, wait=tpu_slice.seconds(target.wait, 'wait'))
        self._found: Found | None = None
        self._gone_lock, self._gone_checked, self._gone = threading.Lock(), -math.inf, False

    @property
    def keeps_files(self) -> bool:
        """Whether the machines, and the files on them, outlive the job."""
        return bool(self.target.node or self.target.keep)

    @property
    def cost(self) -> str:
        if self.target.node:
            return f'{self.target.node}, which is neither created nor deleted'
        slices = f"{self.target.slices} x {self._slice.type} in {self._where['zone']}" + (' (spot)' if self.target.spot else '')
        return f"{slices}, from its creation until {'you delete it (keep)' if self.target.keep else 'the job ends'}"

    @property
    def workers(self) -> int:
        if self._found and self._found.state == READY:
            return len(self.hosts())
        return self._slice.workers * self.target.slices if self._slice else 1

    def check(self) -> None:
        base.require('gcloud', gcloud.INSTALL)
        if not self._where['project']:
            raise UserError(f"--on={self.job.on}: project is missing; fix: add project=ID, or run 'gcloud config set project "
                            "ID'", code='launch/missing-key')
        super().check()

    def settings(self) -> Settings:
        setup = f'{UNLOCK}; {self.target.setup}' if self.target.setup else UNLOCK
        return Settings(path=self.target.path, setup=setup, wait=SSH_TIMEOUT_S)

    def hosts(self) -> Hosts:
        """The machines of the slice.

        Raises:
          UserError: there is no slice, or it is not ready.
        """
        if self._found is None:
            self._found = self._allocation.look()
        if self._found.state != READY:
            state, self._found = self._found, None
            raise UserError(f'{self._name}: no machines ({state}); {self._hint(state)}',
                            code='launch/no-machines')
        places = [(f'{tpu_slice.short(node)}:{number}', inside if self.target.internal_ips else outside or inside)
                  for node in self._found.nodes for number, (inside, outside) in enumerate(tpu_slice.endpoints(node))]
        return self._machines(tuple(address for _, address in places), tuple(name for name, _ in places))

    def planned(self) -> Hosts:
        count = self._slice.workers if self._slice else 1
        names = tuple(f'{node}:{number}' for node in self._allocation.nodes for number in range(count))
        return self._machines(tuple(f"ADDRESS-OF-{name.replace(':', '-')}" for name in names), names)

    def _machines(self, addresses: tuple[str, ...], names: tuple[str, ...]) -> Hosts:
        # The cloud reuses addresses for other machines, so every slice has a file of known hosts of its own.
        options = 'StrictHostKeyChecking=accept-new', f'UserKnownHostsFile={self._known}'
        return Hosts(addresses, user=self.target.user, identity=self.target.identity, options=options, names=names)

    @property
    def _known(self) -> pathlib.Path:
        """The file of this slice's known hosts; it exists once its machines accept our key."""
        made = [str((node.get('id'), node.get('createTime'))) for node in self._found.nodes] if self._found else []
        return self.job.folder / f'known_hosts.{digest(*made)}'

    @property
    def _name(self) -> str:
        return self.target.node or self.job.name

    def variables(self, process: int, coordinator: str) -> dict[str, str]:
        """The meeting point within one slice, so that nothing depends on a metadata server that may not answer at once.

        Empty for several slices, whose numbers only the cloud's metadata has.
        """
        if self.target.slices > 1 or self.workers == 1:
            return {}
        first = tpu_slice.endpoints(self._found.nodes[0])[0][0] if self._found else f'ADDRESS-OF-{self._allocation.nodes[0]}-0'
        return {'BIGJAX_COORDINATOR': f'{first}:{PORT}', 'BIGJAX_PROCESSES': str(self.workers), 'BIGJAX_PROCESS': str(process)}

    def gone(self, host: int) -> bool:
        with self._gone_lock:  # one query serves all silent machines
            if time.monotonic() > self._gone_checked + RETRY_S:
                try:
                    self._gone = self._allocation.look().state in (DEAD, ABSENT)
                except UserError:
                    self._gone = False
                self._gone_checked = time.monotonic()
            return self._gone

    def plan(self) -> Sequence[Step]:
        own = not self.target.node
        name, user = self._name, self.target.user
        first: list[Step] = [self._allocation.command()] if own else []
        if own and self.target.queued:
            first += [gcloud.queue(name, self._where), Wait(f'repeated until it is ACTIVE, at most {self.target.wait}')]
        first += [gcloud.nodes(name, self._where), Wait(f'until {name} is READY; the output has the addresses')]
        first += [gcloud.keys(node, user, self._where, internal=self.target.internal_ips) for node in self._allocation.nodes]
        last: list[Step] = []
        if own and not self.target.keep:
            last = [Wait('until the last end of the job'),
                    dataclasses.replace(self._allocation.deletion(), why='also after Ctrl-C before it runs, and any error')]
        return [*first, *super().plan(), *last]

    def start(self) -> base.Group:
        self._found, self._gone_checked = None, -math.inf
        if self.target.node:
            self.hosts()
            self._copy_key()
            return super().start()
        with self._allocation.or_nothing(self.target.keep):
            rounds, until = 1, time.monotonic() + SSH_TIMEOUT_S
            while True:
                self._found = self._allocation.ensure()
                try:
                    self._copy_key()
                    group = super().start()
                    log(f'{self.job.name}: {self._slice.type} costs money until ' + (
                        'you delete it (keep)' if self.target.keep else "the job has ended under a launcher, or 'launch down'"))
                    return group
                except Unreachable as error:
                    if time.monotonic() > until:
                        if rounds == MAX_SLICES:
                            raise
                        log(f'{error}; deletes the slice and creates it again')
                        self._allocation.delete()
                        rounds, until = rounds + 1, time.monotonic() + SSH_TIMEOUT_S
                    else:
                        log(f'{error}; retries')
                        time.sleep(RETRY_S)

    def attach(self, *, whole: bool = False) -> base.Group:
        found = self._allocation.look()
        if found.state == DEAD and self._allocation.owned(found):
            log(f'{self._name}: was taken away ({found})')
            return Taken(self.workers)
        self._found = found
        self.hosts()
        self._copy_key()
        return super().attach(whole=whole)

    def recorded(self) -> Job:
        """The job from the record on its machines; with its name alone if they do not answer, so that it can be deleted."""
        self._found = found = self._allocation.look(whole=True)
        if found.state == ABSENT or not (self.target.node or self._allocation.owned(found)):
            raise UserError(f"--on={self.job.on}: no job '{self.job.name}' is in {self._where['zone']}", code='launch/no-job')
        if found.state != READY:
            return self.job
        self._copy_key()
        recorded = remote.find(self)
        # This machine's keys override the recorded ones: it may have another user or SSH key.
        before, now = dataclasses.asdict(target_.parse(self.kind, recorded.target, Target)), dataclasses.asdict(self.target)
        default = dataclasses.asdict(Target())
        both = Target(**{key: value if value != default[key] else before[key] for key, value in now.items()})
        return dataclasses.replace(recorded, on=f'{self.kind}:{target_.write(both)}')

    def _copy_key(self) -> None:
        """Copies the SSH key to the machines, once per slice; afterwards all of them answer.

        Raises:
          Unreachable: they do not answer yet.
        """
        if self._known.exists():
            return
        self.job.folder.mkdir(parents=True, exist_ok=True)
        for node in self._allocation.nodes:
            try:
                gcloud.do(gcloud.keys(node, self.target.user, self._where, internal=self.target.internal_ips), 600.0)
            except gcloud.Refused as error:
                if error.status or any(word in error.message for word in (
                        'not present in the SSH agent', 'gcloud auth', 'crashed', 'Permission denied')):
                    raise
                raise Unreachable(f'{node}: does not answer to ssh ({error.message})') from None
        for old in self.job.folder.glob('known_hosts.*'):
            old.unlink()
        self._known.touch()

    def status(self) -> list[str]:
        self._found = found = self._allocation.look(whole=True)
        lines = [f"{self._name}: {found} in {self._where['zone']}"]
        return [*lines, *super().status()] if found.state == READY else [*lines, self._hint(found)]

    def _hint(self, found: Found) -> str:
        if self.target.node:
            return (f"fix: start it with 'gcloud compute tpus tpu-vm start {self._name} --zone={self._where['zone']}'"
                    if found.state == DEAD else 'fix: check node=, zone= and project=')
        if found.state == ABSENT:
            return (f'the job has ended, or was never started; its output, as far as a launcher followed it, is in '
                    f'{self.job.log_folder}')
        if found.state == DEAD:
            return f"fix: 'python -m launch attach {self.job.name}' creates it again and resumes the job"
        return 'it is not there yet'

    def finish(self) -> list[str]:
        """Deletes the slice, unless `keep`."""
        if self.target.node or self.target.keep:
            return []
        with gcloud.signals(lambda *_: log('still deleting what costs money; please wait')):
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
    """The group of a slice that is gone, whose processes are all lost."""

    idle, stopped, only, running = True, False, None, True

    def __init__(self, workers: int):
        self._workers = workers

    def wait(self, seconds: float) -> list[End]:
        """Reports every process as LOST on the first call; afterwards returns []."""
        ends = [End(process, LOST, time.monotonic()) for process in range(self._workers)] if self.running else []
        self.running = False
        return ends

    def signal(self, number: int) -> None:
        """Does nothing: no process is left."""

    def stop(self) -> None:
        """Does nothing: no process is left."""

    def tail(self, process: int) -> list[str]:
        """An empty list: the logs are gone with the machines."""
        return []

    def close(self) -> None:
        """Does nothing."""


def find(name: str, on: str) -> Job:
    """The job of that name that another machine started.

    Raises:
      UserError: there is no slice of that name.
    """
    return Engine(Job(name, on, ('python',))).recorded()


def _key_check(path: str) -> Check:
    """The check that ssh can use a private key without a prompt."""
    what = f'SSH key {path}'
    if not os.path.exists(path):
        return Check(what, True, 'does not exist yet; gcloud makes it')
    run: Any = lambda *argv: subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False,
                                            stdin=subprocess.DEVNULL)
    if run('ssh-keygen', '-y', '-P', '', '-f', path).returncode == 0:
        return Check(what, True, 'has no passphrase')
    fingerprint = run('ssh-keygen', '-l', '-f', path).stdout.split()
    loaded = len(fingerprint) > 1 and fingerprint[1] in run('ssh-add', '-l').stdout
    return Check(what, loaded, 'has a passphrase, and is ' + ('' if loaded else 'not ') + 'in the agent',
                 f"load it with 'ssh-add {path}'")
