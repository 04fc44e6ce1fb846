"""The engine `sky`: a managed job of SkyPilot, on whatever cloud or cluster it is set up for.

    --on=sky:A100:8,nodes=2,infra=gcp,spot          --on=sky:v5e-16,infra=gcp,setup='pip install -e .[tpu]'
    --on=sky:cpus=4,infra=k8s

SkyPilot finds the machines, copies the code, restarts the job elsewhere when they are taken away, and removes them at its end;
its controller does so without this launcher. The engine uses its program `sky` alone, which has its own credentials.
"""
import base64
import dataclasses
import json
import pathlib
import re
import shlex
from typing import Any

from bigjax.errors import UserError
from bigjax.io.text import printable
from launch import job as jobs
from launch import outcome, steps
from launch.engines import base
from launch.engines.base import Check
from launch.engines.manifest import dump
from launch.engines.sky import queue
from launch.engines.sky.managed_job import Group
from launch.engines.sky.queue import FINISHED, INSTALL, TIMEOUT_S, newest, sky
from launch.engines.tpu_vm import tpu_types
from launch.steps import Failed, Run, Write
from launch.target import text

LAUNCH_TIMEOUT_S = 3600.0  # the first job of an account waits until SkyPilot has made its controller
PORT = 55527  # of the coordinator
RECORD = re.compile(r'BIGJAX_RECORD:\s*[\'"]?([A-Za-z0-9+/=]+)')


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=sky:…"""

    type: str = text('accelerators of each machine (A100:8), or a TPU slice (v5e-16)', '')
    nodes: int = text('machines', 1)
    infra: str = text('gcp, gcp/us-central1, k8s/CONTEXT, ssh/POOL, slurm; by default the cheapest', '')
    spot: bool = text('machines that the cloud may take away', False)
    cpus: str = text('CPUs of each machine, 4 or 4+', '')
    memory: str = text('memory of each machine in GB, 16 or 16+', '')
    disk: int = text('disk of each machine in GB', 0)
    image: str = text('disk image, or docker:NAME:TAG', '')
    code: str = text("the folder that is copied; '' for none", '.')
    setup: str = text('shell text that runs once on each machine, in that folder', '')
    runtime: str = text("software version of a TPU VM, if not the generation's usual one", '')


class Engine(base.Engine):
    """One managed job, named as the job."""

    kind, restarts, keeps_files, Target = 'sky', True, False, Target
    cost = "the machines until the job ends, and SkyPilot's controller"

    def __init__(self, job: jobs.Job):
        super().__init__(job)
        on, target = f'--on={printable(job.on)}', self.target
        if target.nodes < 1:
            raise UserError(f'{on}: got nodes={target.nodes}, expected 1 or more', code='launch/bad-value')
        if not (target.type or target.cpus) and job.command != ('true',):
            raise UserError(f'{on}: no type of machine; fix: write for example sky:A100:8, sky:v5e-16 or sky:cpus=4',
                            code='launch/missing-key')
        self._slice = None
        if re.match(r'(tpu-?)?(v\d|v\d\w+|tpu7x|trillium|ironwood)-\d+$', target.type.lower()):
            try:
                self._slice = tpu_types.parse(target.type.lower().removeprefix('tpu-'), 'tpu_vm')
            except UserError as error:
                raise UserError(str(error).replace('--on=tpu_vm:', '--on=sky:', 1), code=error.code) from None
            if target.nodes > 1 or job.array:
                what = 'nodes' if target.nodes > 1 else 'the array'
                raise UserError(f'{on}: SkyPilot does not join TPU slices; fix: leave {what} out, or use --on=tpu_vm:… or '
                                '--on=jobset:…', code='launch/conflict')
        elif target.type and not re.fullmatch(r'[A-Za-z0-9-]+(:\d+)?', target.type):
            raise UserError(f"{on}: '{target.type}' is not an accelerator; fix: write for example A100:8 or v5e-16",
                            code='launch/unknown-machine')
        if job.array and target.nodes > 1:
            raise UserError(f'{on}: each process of an array has one machine; fix: leave nodes out', code='launch/no-array')

    @property
    def workers(self) -> int:
        return self.job.array or (self._slice.workers if self._slice else self.target.nodes)

    @property
    def code(self) -> str:
        folder = self.target.code and pathlib.Path(self.target.code).expanduser().resolve()
        return f'a copy of {folder}' if folder else "what the machine's image holds"

    def check(self) -> None:
        base.require('sky', INSTALL)
        if self.target.code and not pathlib.Path(self.target.code).expanduser().is_dir():
            raise UserError(f'--on={self.job.on}: code={self.target.code}: no such folder here', code='launch/no-file')
        self.job.values()

    def files(self) -> dict[str, str]:
        return {'sky.yaml': dump(task(self.job, self.target, self._slice))}

    def plan(self) -> list[Write | Run]:
        path = str(self.job.folder / 'sky.yaml')
        secrets = [word for name in self.job.env for word in ('--secret', name)]  # sky reads the values from its environment
        return [Write(path, self.files()['sky.yaml']), Run(sky('jobs', 'launch', '--yes', '--detach-run', *secrets, path))]

    def start(self) -> Group:
        """Submits the job; it is in SkyPilot's queue when this returns.

        Raises:
          UserError: a job of this name has not ended.
          Failed: SkyPilot rejects it.
        """
        self.job.values()
        before = newest(self.job.name)
        if before and before['status'] not in FINISHED:
            raise UserError(f'--name={self.job.name}: SkyPilot has a job of this name that has not ended; fix: attach to it, '
                            'kill it, or choose another name', code='launch/name-in-use')
        written, launch = self.plan()
        path = pathlib.Path(written.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written.text)
        try:
            steps.execute(launch, seconds=LAUNCH_TIMEOUT_S)
        except (KeyboardInterrupt, Failed):
            found = queue.running(self.job.name)
            if found and found.get('job_id') != (before or {}).get('job_id'):
                queue.cancel(found['job_id'])
            raise
        return self._group(whole=True)

    def _group(self, whole: bool) -> Group:
        found = newest(self.job.name)
        if found is None:
            raise UserError(f'{self.job.name}: SkyPilot has no job of this name', code='launch/no-job')
        return Group(self.job.name, str(found['job_id']), self.job.log_folder, whole=whole)

    def attach(self, *, whole: bool = False) -> Group:
        return self._group(whole)

    def status(self) -> list[str]:
        found = newest(self.job.name)
        if found is None:
            return [f'{self.job.name} on {self.name}: SkyPilot has no job of this name']
        rows = [f"{self.job.name} on {self.name}: {found['status']}, {found.get('recovery_count') or 0} restarts, job "
                f"{found['job_id']} of 'sky jobs queue'"]
        words = (found.get('cluster_resources'), found.get('infra'), found.get('failure_reason'))
        return rows + [f'     {word}' for word in words if word and word != '-']

    def down(self) -> list[str]:
        found = queue.running(self.job.name)
        if found is None:
            return ['SkyPilot has removed its machines']
        queue.cancel(found['job_id'])
        return [f"job {found['job_id']} is cancelled; SkyPilot removes its machines"]

    def exists(self) -> list[str]:
        try:
            found = queue.running(self.job.name)
        except (Failed, UserError):
            return ['?whether SkyPilot still runs it']
        return [f"job {found['job_id']} of SkyPilot ({found['status']})"] if found else []


def task(job: jobs.Job, target: Target, slice: tpu_types.Slice | None) -> dict[str, Any]:
    """The task as SkyPilot reads it, without the variables of --env, whose names are on the command line."""
    kind = f'tpu-{slice.type}' if slice else target.type
    recovery: dict[str, Any] = {'max_restarts_on_errors': job.restarts}
    if job.preemptions:
        recovery['recover_on_exit_codes'] = [outcome.PREEMPTED]
    resources = {'infra': target.infra, 'accelerators': kind, 'cpus': target.cpus, 'memory': target.memory,
                 'disk_size': target.disk, 'image_id': target.image, 'use_spot': target.spot,
                 'accelerator_args': {'runtime_version': target.runtime or slice.runtime} if slice else {},
                 'job_recovery': recovery}
    record = base64.b64encode(job.text().encode()).decode()
    return {'name': job.name,
            **({'workdir': str(pathlib.Path(target.code).expanduser().resolve())} if target.code else {}),
            'num_nodes': job.array or target.nodes,
            'resources': {key: value for key, value in resources.items() if value},
            'envs': {'BIGJAX_RECORD': record, 'PYTHONUNBUFFERED': '1'},
            **({'setup': f'set -e\n{target.setup}\n'} if target.setup else {}),
            'run': script(job, 1 if slice else target.nodes)}


def script(job: jobs.Job, nodes: int) -> str:
    """The shell text of each machine. TPU VMs find each other (nodes=1); other machines meet at the address of the first."""
    rank = '"$SKYPILOT_NODE_RANK"'
    if job.array:
        meet = ['export BIGJAX_PROCESSES=1 BIGJAX_PROCESS=0', f'export BIGJAX_SHARE="$SKYPILOT_NODE_RANK/{job.array}"']
    elif nodes == 1:
        meet = []
    else:
        meet = [f'export BIGJAX_PROCESSES={nodes} BIGJAX_PROCESS={rank}',
                f'export BIGJAX_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"']
    last_line = f"printf 'bigjax: process %s ended with exit code %s\\n' {rank} \"$code\""  # which managed_job.END reads
    return '\n'.join([*meet, shlex.join(job.command), 'code=$?', last_line, 'exit "$code"', ''])


def doctor(engine: Engine) -> list[Check]:
    """The checks of SkyPilot, of its clouds, and of its queue."""
    checks = [base.installed('sky', INSTALL)]
    for what, words, fix in (('clouds', ('check',), 'log in to a cloud, and read the output of sky check'),
                             ('jobs', ('jobs', 'queue', '--output', 'json'), 'sky api info shows its server')):
        if checks[0].ok:
            try:
                output = steps.execute(Run(sky(*words)), seconds=TIMEOUT_S).strip()
                checks.append(Check(what, True, output.splitlines()[-1] if what == 'clouds' and output else 'answers'))
            except Failed as error:
                checks.append(Check(what, False, str(error), fix))
    return checks


def find(name: str, on: str) -> jobs.Job:
    """The job whose record is in the YAML that SkyPilot's queue keeps.

    Raises:
      UserError: there is none, or no launcher created it.
    """
    row = newest(name)
    if row is None:
        raise UserError(f'--on={on}: SkyPilot has no job {name}', code='launch/no-job')
    found = RECORD.search(row.get('user_yaml') or '')
    try:
        return jobs.parse(json.loads(base64.b64decode(found[1])))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f'--on={on}: the job {name} of SkyPilot has no record of a launcher ({error})',
                        code='launch/damaged-record') from None
