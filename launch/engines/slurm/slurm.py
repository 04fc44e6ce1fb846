"""The engine `slurm`: a job of a SLURM cluster, submitted with sbatch, usually on a login node.

The code is not copied: the job runs in the folder from which it is submitted, which all nodes must share, as a home folder
usually is. The same holds for the job's own folder (`launch.job.home`) with the script, the logs, and the commit and diff of
the code. SLURM itself restarts the job (`launch.engines.slurm.slurm_script`), so no launcher has to wait for it. Tasks find
each other by srun's variables (`bigjax.distributed.bootstrap`). The values of --env are in neither script nor logs: sbatch
takes the variables by name, and SLURM keeps them with the job.
"""
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

from bigjax.errors import UserError
from bigjax.io.text import hint, printable
from launch import job as jobs
from launch.engines import base
from launch.engines.base import Check
from launch.engines.slurm import slurm_script, slurm_state
from launch.engines.slurm.slurm_group import Group
from launch.job import Job
from launch.lines import log
from launch.steps import Failed, Run, Step, Write, execute
from launch.target import text

INSTALL = 'apt install slurm-client, dnf install slurm'
WORD = re.compile(r'[^\s\'"\\;#]*')


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=slurm:…"""

    nodes: int = text('machines', 1)
    gpus: str = text('GPUs per node: 8, or a100:8', '')
    tasks: str = text("'node': one process per node, which drives all of its GPUs; 'gpu': one process per GPU", 'node')
    partition: str = text("SLURM's partition; by default the cluster's", '')
    account: str = text('the account to charge', '')
    qos: str = text('quality of service', '')
    constraint: str = text("features of the nodes: 'a100|h100'", '')
    time: str = text('time limit: 24:00:00, 2-00 (days-hours), or minutes', '')
    cpus: int = text("CPUs per process; by default the cluster's, often 1", 0)
    memory: str = text('memory per node: 64G', '')
    notice: int = text('seconds before the time limit at which the processes get SIGTERM, save, and are requeued', 120)
    setup: str = text("a line of shell before the start, on the first node: setup='module load cuda'", '')
    path: str = text('prepended to PATH', '')
    extra: str = text("more options of sbatch: extra='--exclusive --nodelist=a,b'", '')
    folder: str = text("the job's own folder, shared by all nodes (default: $BIGJAX_JOBS/NAME, or in the home folder)", '')


class Engine(base.Engine):
    """A job of SLURM."""

    kind, restarts, Target = 'slurm', True, Target
    cost = "the cluster's nodes until the job ends; nothing while it is pending"

    def __init__(self, job: Job):
        super().__init__(job)
        target = self.target
        self._gpus = int(target.gpus.rpartition(':')[2]) if re.fullmatch(r'([\w.-]+:)?\d+', target.gpus) else 0
        self._check_target(job)
        self.folder = pathlib.Path(os.path.abspath(pathlib.Path(target.folder).expanduser())) if target.folder else job.folder
        self._logs = pathlib.Path(os.path.abspath(pathlib.Path(job.logs).expanduser())) if job.logs else self.folder / 'logs'
        for path in (self.folder, self._logs):
            if not str(path).isprintable() or re.search(r'["\\]', str(path)):
                raise UserError(f'{str(path)!r}: SLURM does not accept this folder name; fix: set BIGJAX_JOBS to another one',
                                code='launch/bad-folder')
        self.job = dataclasses.replace(job, logs=str(self._logs))

    def _check_target(self, job: Job) -> None:
        """Raises UserError for a value that SLURM would not accept."""
        target, where = self.target, f'--on={printable(job.on)}'
        words = {'partition': target.partition, 'account': target.account, 'qos': target.qos, 'constraint': target.constraint}
        wrong = [(target.nodes < 1, f'got nodes={target.nodes}, expected 1 or more'),
                 (target.gpus and not re.fullmatch(r'([\w.-]+:)?\d+', target.gpus),
                  f'got gpus={target.gpus}, expected a number per node or TYPE:NUMBER; fix: write for example gpus=8'),
                 (target.tasks not in ('node', 'gpu'), f"got tasks={target.tasks}, expected 'node' or 'gpu'"),
                 (target.tasks == 'gpu' and self._gpus < 1, 'tasks=gpu needs the GPUs per node; fix: add gpus=…'),
                 (not re.fullmatch(r'(\d+[KMGT]?)?', target.memory),
                  f'got memory={target.memory}; fix: write for example memory=64G'),
                 (target.cpus < 0, f'got cpus={target.cpus}, expected 0 or more'),
                 (target.notice < 0, f'got notice={target.notice}, expected 0 or more'),
                 ('\n' in target.path, 'path has a line break')]
        wrong += [(not WORD.fullmatch(value), f'{key}={value!r} has a character that SLURM does not accept')
                  for key, value in words.items()]
        try:
            limit = slurm_state.seconds(target.time) if target.time else None
        except ValueError:
            limit = None
            wrong += [(True, f'time={target.time} is not a time of SLURM; fix: write for example time=24:00:00, time=2-00, or '
                       'minutes')]
        wrong += [(limit is not None and target.notice >= limit,
                   f'notice={target.notice} s is not below time={target.time}; fix: write a shorter notice')]
        try:
            extra = shlex.split(target.extra)
        except ValueError as error:
            extra = []
            wrong += [(True, f'extra={target.extra}: {error}')]
        wrong += [(not word.startswith('-') or not word.isprintable(),
                   f"extra: '{word}' is not an option of sbatch; fix: write each as --name=value") for word in extra]
        if job.array:
            wrong += [(target.nodes > 1 or target.tasks == 'gpu', 'each share of a sweep has one node and one process; fix: '
                       'leave out nodes and tasks')]
        if found := next((message for bad, message in wrong if bad), ''):
            raise UserError(f'{where}: {found}', code='launch/bad-value')

    @property
    def name(self) -> str:
        return f'slurm:{self.target.partition}'.rstrip(':')

    @property
    def workers(self) -> int:
        return self.job.array or self.target.nodes * (self._gpus if self.target.tasks == 'gpu' else 1)

    def check(self) -> None:
        _installed()
        self.job.values()
        try:
            known = [partition.name for partition in slurm_state.partitions()]
        except Failed as error:
            raise UserError(f'no answer from SLURM: {error}', code='launch/no-answer') from None
        for wanted in self.target.partition.split(',') if self.target.partition else ():
            if wanted not in known:
                raise UserError(f"--on={self.job.on}: no partition '{wanted}' in the cluster{hint(wanted, known)}; fix: "
                                f"write one of {', '.join(known)}", code='launch/unknown-partition')

    def files(self) -> dict[str, str]:
        return {f'{self.job.name}.sbatch': self._script()}

    def _script(self) -> str:
        target = self.target
        options: dict[str, str | None] = {
            'nodes': str(target.nodes), 'ntasks-per-node': str(self._gpus if target.tasks == 'gpu' else 1),
            'gres': f'gpu:{target.gpus}' if self._gpus else '', 'cpus-per-task': str(target.cpus or ''), 'mem': target.memory,
            'partition': target.partition, 'account': target.account, 'qos': target.qos, 'constraint': target.constraint,
            'time': target.time, 'signal': f'TERM@{target.notice}' if target.notice else '',
            'array': f'0-{self.job.array - 1}' if self.job.array else ''}
        tasks = target.nodes * (self._gpus if target.tasks == 'gpu' else 1)
        return slurm_script.script(
            self.job, {name: value for name, value in options.items() if value}, folder=self.folder, logs=self._logs,
            tasks=tasks, nodes=target.nodes, devices=self._gpus if target.tasks == 'node' else 0,
            path=os.path.expanduser(target.path), setup=target.setup, extra=target.extra, cpus=target.cpus)

    def plan(self) -> list[Step]:
        script = str(self.folder / 'job.sbatch')
        return [Run(('mkdir', '-p', str(self._logs), str(self.folder))), Write(script, self._script()),
                Run(('sbatch', '--parsable', script), why=f'runs in this folder, which all nodes must share: {os.getcwd()}')]

    def start(self) -> Group:
        """Submits the job. If sbatch rejects it, no job is left and the name is free again.

        Raises:
          UserError: sbatch rejects it, with sbatch's message.
        """
        make, write, submit = self.plan()
        try:
            execute(make)
            (self.folder / 'stop').unlink(missing_ok=True)
            pathlib.Path(write.path).write_text(write.text)
            if not (self.folder / 'job.json').exists():
                (self.folder / 'job.json').write_text(self.job.text())
            _keep_code(self.folder)
            number = execute(submit).strip().split(';')[0]
        except OSError as error:
            raise UserError(f'{self.folder}: cannot be written ({error.strerror}); fix: set BIGJAX_JOBS to a writable folder '
                            'that all nodes share', code='launch/not-writable') from None
        except Failed as error:
            for folder in (self.folder, self.job.folder):
                (folder / 'job.json').unlink(missing_ok=True)
            words = ' '.join(error.stderr.replace('sbatch: error: ', '').split()) or str(error)
            raise UserError(f'rejected by sbatch: {words}', code='launch/rejected') from None
        (self.folder / 'number').write_text(number + '\n')
        log(f'{self.job.name} is SLURM job {number}; script, logs and the state of the code: {self.folder}')
        return self._group(number, whole=True)

    def attach(self, *, whole: bool = False) -> Group:
        _installed()
        return self._group(self._number(), whole=whole)

    def _group(self, number: str, *, whole: bool) -> Group:
        return Group(self.job, number, self.folder, self._logs, self.workers, whole=whole)

    def _number(self) -> str:
        """SLURM's number of the job that `start` submitted."""
        try:
            return (self.folder / 'number').read_text().strip()
        except OSError:
            raise UserError(f"{self.job.name}: was not submitted; fix: remove its record with 'python -m launch down "
                            f"{self.job.name}'", code='launch/no-job') from None

    def status(self) -> list[str]:
        _installed()
        number = self._number()
        states = slurm_state.queued(number)
        if states is None:
            raise UserError('no answer from SLURM (squeue); fix: try again later', code='launch/no-answer')
        over = slurm_state.over(number) if len(states) < (self.job.array or 1) else {}
        lines = [f'{self.job.name}: SLURM job {number}, {self.folder}']
        for task in range(self.job.array or 1):
            state, which = states.get(task), f' {number}_{task}' if self.job.array else ''
            if state:
                lines.append(f'slurm{which}  {state}, for {state.elapsed}' + (f', {state.left} left' if state.nodes else ''))
            else:
                lines.append(f'slurm{which}  over: ' + (f'{over[task].name}, exit code {over[task].code}' if task in over else
                                                         'SLURM has no record of it any more'))
        return lines + [f'[{process}]  {_last_line(self._logs / f"{process}.log")}' for process in range(self.workers)]

    def exists(self) -> list[str]:
        if not (self.folder / 'number').exists():
            return []
        number = self._number()
        try:
            states = slurm_state.queued(number)
        except UserError:
            states = None
        if states is None:
            return [f'?SLURM job {number}']
        return [f'SLURM job {number} ({state})' for state in dict.fromkeys(map(str, states.values()))]

    def down(self) -> list[str]:
        done = []
        if self.exists():
            number = self._number()
            execute(Run(('scancel', '--quiet', number)), seconds=slurm_state.TIMEOUT_S)
            until = time.monotonic() + 120
            while slurm_state.queued(number) != {}:
                if time.monotonic() > until:
                    raise UserError(f'SLURM job {number} is cancelled and still runs; fix: see squeue -j {number}',
                                    code='launch/still-running')
                time.sleep(1)
            done.append(f'SLURM job {number} is cancelled')
        if self.folder != self.job.folder and (self.folder / 'job.json').exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        return [*done, f'its folder is removed: {self.folder}']

    def doctor(self) -> list[Check]:
        """Checks the partition and its nodes by sinfo."""
        missing = [name for name in ('sbatch', 'squeue', 'scancel', 'scontrol', 'sinfo') if shutil.which(name) is None]
        checks = [Check('programs', not missing, f"no {', '.join(missing)}" if missing else 'sbatch, squeue, scancel, scontrol',
                        f'log in to the cluster, or install them ({INSTALL})')]
        try:
            partitions = {} if missing else {partition.name: partition for partition in slurm_state.partitions()}
        except Failed as error:
            return [*checks, Check('controller', False, str(error), 'contact the administrator of the cluster')]
        if missing:
            return checks
        checks.append(Check('controller', True, f"answers; partitions {', '.join(partitions)}"))
        wanted = (self.target.partition or next((name for name, p in partitions.items() if p.default), '')).split(',')[0]
        partition = partitions.get(wanted)
        if partition is None:
            found = f"no '{wanted}' in the cluster{hint(wanted, partitions)}" if wanted else 'the cluster has no default one'
            return [*checks, Check('partition', False, found, f"write partition=…, one of {', '.join(partitions)}")]
        checks.append(Check('partition', partition.up, f"{wanted} is {'up' if partition.up else 'down'}", 'choose another one'))
        up = [node for node in slurm_state.nodes(wanted) if node.up]
        able = [node for node in up if self._fits(node)]
        needs = ', '.join(filter(None, (f'{self.target.gpus} GPUs' if self._gpus else '', f'cpus={self._cpus}',
                                        f'memory={self.target.memory}' if self.target.memory else '')))
        checks.append(Check('nodes', len(able) >= self.target.nodes,
                            f'{len(able)} of {len(up)} that are up have {needs}; {self.target.nodes} are requested',
                            f'request less, or see what there is: sinfo --Node --partition={wanted} --format="%N %t %c %m %G"'))
        if self.target.time and partition.limit is not None:
            limit = slurm_state.seconds(self.target.time)
            checks.append(Check('time', limit is not None and limit <= partition.limit,
                                f'{self.target.time} of at most {partition.limit / 3600:.1f} h', 'request less; the job is '
                                'requeued and resumes'))
        home = self.folder.parent
        return [*checks, Check('folder', _writable(home), f'{home}: all nodes must share it, and {os.getcwd()}',
                               'set BIGJAX_JOBS to a writable folder')]

    @property
    def _cpus(self) -> int:
        """CPUs per node."""
        return max(1, self.target.cpus) * (self._gpus if self.target.tasks == 'gpu' else 1)

    def _fits(self, node: slurm_state.Node) -> bool:
        number, unit = re.fullmatch(r'(\d*)([KMGT]?)', self.target.memory).groups()
        mebibytes = int(number or 0) * {'K': 1 / 1024, 'G': 1024, 'T': 1024**2}.get(unit, 1)
        return node.gpus >= self._gpus and node.cpus >= self._cpus and node.memory >= mebibytes


def find(name: str, on: str) -> Job:
    """The job of that name: from its record here, or from the folder in the comment of its SLURM job.

    Raises:
      UserError: no pending or running job has that name, or its folder does not exist here.
    """
    if (jobs.home() / name / 'job.json').exists():
        known = jobs.load(name)
        if known.kind == 'slurm':
            return known
    _installed()
    try:
        numbers = slurm_state.numbers(name)
        folder = slurm_state.folder(numbers[-1]) if numbers else ''
    except Failed as error:
        raise UserError(f'no answer from SLURM: {error}', code='launch/no-answer') from None
    if not folder:
        raise UserError(f"no job '{name}' of yours is pending or running on this cluster; fix: see 'squeue --me'; "
                        'the record of one that is over is on the machine that started it', code='launch/no-job')
    try:
        job = jobs.parse(json.loads((pathlib.Path(folder) / 'job.json').read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{folder}/job.json: cannot be read here ({error}); fix: attach from a machine that shares that folder',
                        code='launch/damaged-record') from None
    at = f"{job.on}{',' if ':' in job.on else ':'}folder='{folder}'"
    return job if pathlib.Path(folder) == job.folder or 'folder=' in job.target else dataclasses.replace(job, on=at)


def _installed() -> None:
    base.require('sbatch', f"log in to the cluster's login node, or install SLURM's client here ({INSTALL})")


def _keep_code(folder: pathlib.Path) -> None:
    """Writes the commit of the current folder and the diff against it, if it is in a repository."""
    for name, words in (('commit', ('rev-parse', 'HEAD')), ('changes.diff', ('diff', 'HEAD', '--binary'))):
        try:
            done = subprocess.run(['git', *words], capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return
        if done.returncode:
            return
        (folder / name).write_bytes(done.stdout)


def _last_line(path: pathlib.Path) -> str:
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors='replace').splitlines()
    except OSError:
        return 'no output yet'
    return lines[-1] if lines else 'no output yet'


def _writable(path: pathlib.Path) -> bool:
    """Whether the folder can be written, or created."""
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK)
