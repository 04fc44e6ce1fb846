"""The engine `jobset`: a JobSet of a Kubernetes cluster, on TPU slices of GKE, GPUs or CPUs, in a container image.

    --on=jobset:v6e-16,image=REGION-docker.pkg.dev/P/R/bigjax:1,context=gke_P_us-east5_c1,queue=team-a
    --on=jobset:h100:8,nodes=2,image=…          --on=jobset:cpu:4,image=…,context=kind-kind

The cluster restarts the job by itself, also after its launcher is gone (`launch.engines.jobset.jobset_manifest`). The engine
uses kubectl alone, which has its own configuration and credentials.
"""
import dataclasses
import json
import re
import shlex

from bigjax.errors import UserError
from bigjax.io.text import printable
from launch import job as jobs
from launch import steps
from launch.engines import base
from launch.engines.jobset import gke_types, pods
from launch.engines.jobset import jobset_manifest as manifest
from launch.engines.jobset.doctor import INSTALL, doctor  # noqa: F401  `doctor` is this engine's, see base
from launch.engines.jobset.jobset_group import Group
from launch.engines.jobset.jobset_manifest import KIND
from launch.engines.manifest import dump
from launch.steps import Failed, Run
from launch.target import parse, text, write


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=jobset:…"""

    type: str = text('a TPU slice (v5e-16, v5p-8, tpu7x-8), or one machine (h100:8, gpu:8 for any kind, cpu:4)', '')
    image: str = text('container image with bigjax, or with what setup needs', '')
    context: str = text("kubectl's context; by default the current one, or that of cluster, project and zone", '')
    namespace: str = text("Kubernetes namespace; by default the context's", '')
    slices: int = text('TPU slices that train together', 1)
    nodes: int = text('machines with GPUs or CPUs', 1)
    topology: str = text('topology of a TPU slice, 4x4x8; by default the most cubic one', '')
    chips: int = text('chips per machine of a v5e-8 or v6e-8: 8, or 4', 0)
    queue: str = text('local queue of Kueue', '')
    service_account: str = text("Kubernetes service account, for access to buckets", '')
    priority: str = text('priority class', '')
    spot: bool = text('nodes that the cloud may take away', False)
    selector: tuple[str, ...] = text('more labels of the nodes, KEY=VALUE+KEY=VALUE', ())
    setup: str = text('a line of shell that runs in each container before the command', '')
    path: str = text('the folder in the container where the command runs', '')
    cluster: str = text("GKE's name of the cluster", '')
    project: str = text("the cluster's project", '')
    zone: str = text("the cluster's zone or region", '')
    xpk: bool = text('render: also the command line of xpk', False)


class Engine(base.Engine):
    """One JobSet, named as the job."""

    kind, restarts, keeps_files, Target = 'jobset', True, False, Target
    cost = "the cluster's nodes until the job ends; nothing while it waits in a queue"

    def __init__(self, job: jobs.Job):
        super().__init__(job)
        on = f'--on={printable(job.on)}'
        for key in ('slices', 'nodes'):
            if getattr(self.target, key) < 1:
                raise UserError(f'{on}: got {key}={getattr(self.target, key)}, expected 1 or more', code='launch/bad-value')
        for item in self.target.selector:
            if not re.fullmatch(r'[^=\s]+=[^=\s]*', item):
                raise UserError(f"{on}: selector={item}: expected KEY=VALUE, several with + between",
                                code='launch/bad-value')
        self.types = None
        if self.target.type:
            self.types = gke_types.parse(self.target.type, self.target.topology, self.target.chips)
            _check_machines(self.types, self.target, on, job.array)

    @property
    def machines(self) -> gke_types.Machines:
        """The machines of the job.

        Raises:
          UserError: --on has no type, or no image.
        """
        for key, example in (('type', 'v6e-16'), ('image', 'REGISTRY/NAME:TAG')):
            if not getattr(self.target, key):
                raise UserError(f'--on={self.job.on}: {key} is missing; fix: write for example {key}={example}',
                                code='launch/missing-key')
        return self.types

    @property
    def workers(self) -> int:
        return manifest.processes(self.job, self.target, self.machines) * self.target.slices

    @property
    def code(self) -> str:
        return f"the image {self.target.image or '?'}"

    def kubectl(self, *words: str) -> tuple[str, ...]:
        """The argument vector of a kubectl command for the job's cluster."""
        named = self.target.cluster and self.target.project and self.target.zone
        context = self.target.context or (
            f'gke_{self.target.project}_{self.target.zone}_{self.target.cluster}' if named else '')
        return ('kubectl', *((f'--context={context}',) if context else ()),
                *((f'--namespace={self.target.namespace}',) if self.target.namespace else ()), *words)

    def check(self) -> None:
        _ = self.machines
        base.require('kubectl', INSTALL)
        self.job.values()

    def files(self) -> dict[str, str]:
        found = {'jobset.yaml': dump(manifest.jobset(self.job, self.target, self.machines))}
        return {**found, **manifest.xpk(self.job, self.target, self.machines)} if self.target.xpk else found

    def plan(self) -> list[Run]:
        """Creates the JobSet, then the Secret that it owns: neither can be left without the other."""
        made = [Run(self.kubectl('create', '--filename=-'), self.files()['jobset.yaml'])]
        return made + [manifest.secret_step(self.job, self.kubectl())] if self.job.env else made

    def start(self) -> Group:
        """Creates the JobSet, which exists when this returns; its pods may wait for nodes.

        Raises:
          UserError: the name is in use.
          Failed: the cluster rejects it.
        """
        values, made = self.job.values(), False
        try:
            for step in self.plan():
                steps.execute(step, values=values)
                made = True
        except Failed as error:
            if not made and 'AlreadyExists' in error.stderr:
                raise UserError(f"--name={self.job.name}: there is a JobSet of this name; fix: attach to it, remove it with "
                                f"'python -m launch down {self.job.name}', or choose another name",
                                code='launch/name-in-use') from None
            if made:
                self.down()
            raise
        except KeyboardInterrupt:
            self.down()
            raise
        return self._group(whole=True)

    def _group(self, whole: bool) -> Group:
        return Group(self.kubectl, self.job.name, self.workers, self.workers // self.target.slices, self.job.log_folder,
                     whole=whole)

    def attach(self, *, whole: bool = False) -> Group:
        if pods.query(self.kubectl, self.job.name)[0] is None:
            raise UserError(f'{self.job.name}: no such JobSet in the cluster ({shlex.join(self.kubectl())})',
                            code='launch/no-job')
        return self._group(whole)

    def status(self) -> list[str]:
        jobset, items = pods.query(self.kubectl, self.job.name)
        if jobset is None:
            return [f'{self.job.name} on {self.name}: there is no such JobSet']
        return [f'{self.job.name} on {self.name}: {pods.state(jobset)}', *pods.table(items, self.workers // self.target.slices)]

    def down(self) -> list[str]:
        """Deletes the JobSet, and with it its pods and Secret."""
        gone = steps.execute(Run(self.kubectl('delete', KIND, self.job.name, '--cascade=foreground', '--ignore-not-found',
                                              f'--timeout={self.job.grace + 60:.0f}s')), seconds=self.job.grace + 90)
        return [gone.strip() or 'its JobSet was already gone']

    def exists(self) -> list[str]:
        try:
            jobset, items = pods.query(self.kubectl, self.job.name)
        except (Failed, UserError):
            return ['?whether its JobSet is still there']
        count = sum(item.get('status', {}).get('phase') in ('Pending', 'Running') for item in items)
        return [f'JobSet {self.job.name} with {count} pods'] if count or (jobset and not pods.condition(jobset)) else []


def _check_machines(machines: gke_types.Machines, target: Target, on: str, array: int) -> None:
    """Raises UserError if the type does not go with the other keys."""
    tpu = machines.kind == 'tpu'
    if tpu and target.nodes > 1:
        raise UserError(f'{on}: the type of a TPU slice fixes its number of machines; fix: leave nodes out, or use slices',
                        code='launch/conflict')
    if not tpu and target.slices > 1:
        raise UserError(f'{on}: only TPUs have slices; fix: write nodes={target.slices}', code='launch/conflict')
    if target.slices > 1 and machines.hosts == 1:
        raise UserError(f'{on}: GKE joins slices of several machines, and {machines.name} is one; fix: take a larger type',
                        code='launch/conflict')
    if array and (machines.hosts > 1 or target.slices > 1 or target.nodes > 1):
        raise UserError(f'{on}: each process of an array has one machine; fix: take a type of one machine, without nodes',
                        code='launch/no-array')
    if target.xpk and not (target.cluster and target.project and target.zone and machines.xpk):
        raise UserError(f'{on}: xpk needs cluster, project, zone and a type that it supports (TPUs, and GPUs by name)',
                        code='launch/missing-key')


def find(name: str, on: str) -> jobs.Job:
    """The job whose record is an annotation of the JobSet of that name.

    Raises:
      UserError: there is none, or no launcher created it.
    """
    here = Engine(jobs.Job(name, on, ('true',)))
    jobset = pods.query(here.kubectl, name)[0]
    if jobset is None:
        raise UserError(f'--on={on}: no JobSet {name} in the cluster ({shlex.join(here.kubectl())})', code='launch/no-job')
    try:
        job = jobs.parse(json.loads(jobset['metadata']['annotations'][manifest.RECORD]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f'--on={on}: the JobSet {name} has no record of a job ({error})',
                        code='launch/damaged-record') from None
    return dataclasses.replace(job, on=_reached(job.on, on))


def _reached(recorded: str, given: str) -> str:
    """The recorded target, with the cluster's address as this machine reaches it."""
    before = parse('jobset', recorded.partition(':')[2], Target)
    now = parse('jobset', given.partition(':')[2], Target)
    if not (now.context or now.namespace or now.cluster):
        return recorded
    merged = dataclasses.replace(before, context=now.context, namespace=now.namespace, cluster=now.cluster or before.cluster,
                                 project=now.project or before.project, zone=now.zone or before.zone)
    return f'jobset:{write(merged)}'
