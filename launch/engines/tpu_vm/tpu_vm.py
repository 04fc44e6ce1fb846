"""The engine `tpu_vm`: creates a slice of Cloud TPUs, runs the job on its machines over ssh, and deletes the slice.

    --on=tpu_vm:v5e-16,zone=us-west4-a,spot             a slice of its own, requested by a queued resource
    --on=tpu_vm:node=mine,zone=us-west4-a               an existing TPU VM, which is never deleted

gcloud creates, shows and deletes the slice, and copies this machine's SSH key to its machines. The job itself runs over plain
ssh, because `gcloud … ssh` runs a command again after it has died. There is one process per machine. A slice that is taken away
while the job runs counts as a preemption: it is deleted, created again, and the job resumes.
"""
import dataclasses
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from bigjax.errors import UserError
from launch import target as target_
from launch.engines import base
from launch.engines.base import Check
from launch.engines.ssh import remote
from launch.engines.ssh.remote import RemoteEngine
from launch.engines.ssh.transport import Unreachable
from launch.engines.tpu_vm import gcloud, tpu_slice, tpu_types
from launch.engines.tpu_vm.resources import ABSENT, DEAD, READY, Resources
from launch.engines.tpu_vm.slice_machines import RETRY_S, SSH_TIMEOUT_S, SliceMachines
from launch.engines.tpu_vm.tpu_slice import Allocation
from launch.job import Job
from launch.lines import log
from launch.outcome import LOST, End
from launch.steps import Step, Wait
from launch.target import text

MAX_SLICES = 3  # that one start may create


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
    machines: SliceMachines

    def __init__(self, job: Job):
        super().__init__(job)
        target, on = self.target, f'--on={job.on}'
        _check_target(target, on, job.array)
        self._slice = tpu_types.parse(target.type, self.kind) if target.type else None
        if self._slice and target.runtime:
            self._slice = dataclasses.replace(self._slice, runtime=target.runtime)
        before, now = tpu_slice.load(job), gcloud.settings()
        self._where = {key: getattr(target, key) or before.get(key) or now[key] for key in ('zone', 'project')}
        if not self._where['zone']:
            raise UserError(f"{on}: zone is missing; fix: add for example zone=us-west4-a, or run 'gcloud config set "
                            "compute/zone ZONE'", code='launch/missing-key')
        flags = {key.replace('_', '-'): getattr(target, key)
                 for key in ('spot', 'reserved', 'network', 'subnetwork', 'service_account', 'internal_ips')}
        self.resources = Resources(
            dataclasses.replace(job, name=target.node) if target.node else job, self._where, self._slice, slices=target.slices,
            queued=target.queued and not target.node, flags=flags | {'valid-until-duration': target.valid_until})
        self.allocation = Allocation(self.resources, tpu_slice.record(job), tpu_slice.seconds(target.wait, 'wait'))
        self.machines = SliceMachines(job, target, self._slice, self.resources)

    @property
    def keeps_files(self) -> bool:
        """Whether the machines, and the files on them, outlive the job."""
        return bool(self.target.node or self.target.keep)

    @property
    def cost(self) -> str:
        if self.target.node:
            return f'{self.target.node}, which is neither created nor deleted'
        return (f"{self.resources.text}{' (spot)' if self.target.spot else ''}, from its creation until "
                f"{'you delete it (keep)' if self.target.keep else 'the job ends'}")

    def check(self) -> None:
        base.require('gcloud', gcloud.INSTALL)
        if not self._where['project']:
            raise UserError(f"--on={self.job.on}: project is missing; fix: add project=ID, or run 'gcloud config set project "
                            "ID'", code='launch/missing-key')
        super().check()

    def plan(self) -> Sequence[Step]:
        own, name = not self.target.node, self.resources.name
        first: list[Step] = [self.resources.command()] if own else []
        if own and self.target.queued:
            first += [gcloud.queue(name, self._where), Wait(f'repeated until it is ACTIVE, at most {self.target.wait}')]
        first += [gcloud.nodes(name, self._where), Wait(f'until {name} is READY; the output has the addresses')]
        last: list[Step] = []
        if own and not self.target.keep:
            last = [Wait('until the last end of the job'),
                    dataclasses.replace(self.resources.deletion(), why='also after Ctrl-C before it runs, and any error')]
        return [*first, *self.machines.key_steps(), *super().plan(), *last]

    def start(self) -> base.Group:
        self.machines.forget()
        if self.target.node:
            self.machines.hosts()
            self.machines.copy_key()
            return super().start()
        with self.allocation.or_nothing(self.target.keep):
            rounds, until = 1, time.monotonic() + SSH_TIMEOUT_S
            while True:
                self.machines.found = self.allocation.ensure()
                try:
                    self.machines.copy_key()
                    group = super().start()
                    log(f'{self.job.name}: {self._slice.type} costs money until ' + (
                        'you delete it (keep)' if self.target.keep else "the job has ended under a launcher, or 'launch down'"))
                    return group
                except Unreachable as error:
                    if time.monotonic() > until:
                        if rounds == MAX_SLICES:
                            raise
                        log(f'{error}; deletes the slice and creates it again')
                        self.allocation.delete()
                        rounds, until = rounds + 1, time.monotonic() + SSH_TIMEOUT_S
                    else:
                        log(f'{error}; retries')
                        time.sleep(RETRY_S)

    def attach(self, *, whole: bool = False) -> base.Group:
        found = self.resources.look()
        if found.state == DEAD and self.resources.owned(found):
            log(f'{self.resources.name}: was taken away ({found})')
            return Taken(self.workers)
        self.machines.found = found
        self.machines.hosts()
        self.machines.copy_key()
        return super().attach(whole=whole)

    def status(self) -> list[str]:
        self.machines.found = found = self.resources.look(whole=True)
        lines = [f"{self.resources.name}: {found} in {self._where['zone']}"]
        return [*lines, *(super().status() if found.state == READY else [self.machines.hint(found)])]

    def finish(self) -> list[str]:
        """Deletes the slice, unless `keep`."""
        if self.target.node or self.target.keep:
            return []
        with gcloud.signals(lambda *_: log('still deleting what costs money; please wait')):
            return self.allocation.delete()

    def down(self) -> list[str]:
        if self.target.node:
            return list(super().down())
        return self.allocation.delete() or [f"nothing of it is in {self._where['zone']}"]

    def exists(self) -> list[str]:
        return [] if self.target.node else self.resources.exists()


def _check_target(target: Target, on: str, array: int) -> None:
    """Raises UserError for values that exclude each other or are missing."""
    if array:
        raise UserError(f'{on}: a slice runs one program on all its machines, not {array} independent ones; fix: use '
                        'slurm, ssh or jobset', code='launch/no-array')
    if not target.type and not target.node:
        raise UserError(f'{on}: no slice; fix: write for example --on=tpu_vm:v5e-16,zone=us-west4-a',
                        code='launch/missing-key')
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
    """The job from the record on its machines; with its name alone if they do not answer, so that it can be deleted.

    Raises:
      UserError: there is no slice of that name.
    """
    here = Engine(Job(name, on, ('python',)))
    here.machines.found = found = here.resources.look(whole=True)
    if found.state == ABSENT or not (here.target.node or here.resources.owned(found)):
        raise UserError(f"--on={on}: no job '{name}' is in {here.resources.where['zone']}", code='launch/no-job')
    if found.state != READY:
        return here.job
    here.machines.copy_key()
    recorded = remote.find(here)
    # This machine's keys override the recorded ones: it may have another user or SSH key.
    before, now = dataclasses.asdict(target_.parse(here.kind, recorded.target, Target)), dataclasses.asdict(here.target)
    default = dataclasses.asdict(Target())
    both = Target(**{key: value if value != default[key] else before[key] for key, value in now.items()})
    return dataclasses.replace(recorded, on=f'{here.kind}:{target_.write(both)}')


def doctor(engine: Engine) -> list[Check]:
    """The checks of gcloud, of the type in the zone, and of the SSH key."""
    type_ = tpu_types.parse(engine.target.type, engine.kind).type if engine.target.type else ''
    return [*gcloud.doctor(engine.resources.where, type_), _key_check(os.path.expanduser(engine.target.identity))]


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
