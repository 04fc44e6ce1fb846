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
import shutil
import subprocess
import time

from bigjax.errors import UserError
from bigjax.io.text import hint
from launch import job as jobs
from launch.engines import base
from launch.engines.slurm import slurm_script, slurm_state, slurm_target
from launch.engines.slurm.slurm_doctor import INSTALL, doctor  # noqa: F401  `doctor` is this engine's, see base
from launch.engines.slurm.slurm_group import Group
from launch.engines.slurm.slurm_target import Target
from launch.job import Job
from launch.lines import log
from launch.steps import Failed, Run, Step, Write, execute


class Engine(base.Engine):
    """A job of SLURM."""

    kind, restarts, Target = 'slurm', True, Target
    cost = "the cluster's nodes until the job ends; nothing while it is pending"

    def __init__(self, job: Job):
        super().__init__(job)
        target = self.target
        slurm_target.check(target, job.on, job.array)
        self.folder = pathlib.Path(os.path.abspath(pathlib.Path(target.folder).expanduser())) if target.folder else job.folder
        self._logs = pathlib.Path(os.path.abspath(pathlib.Path(job.logs).expanduser())) if job.logs else self.folder / 'logs'
        for path in (self.folder, self._logs):
            if not str(path).isprintable() or re.search(r'["\\]', str(path)):
                raise UserError(f'{str(path)!r}: SLURM does not accept this folder name; fix: set BIGJAX_JOBS to another one',
                                code='launch/bad-folder')
        self.job = dataclasses.replace(job, logs=str(self._logs))

    @property
    def name(self) -> str:
        return f'slurm:{self.target.partition}'.rstrip(':')

    @property
    def workers(self) -> int:
        return self.job.array or self.target.nodes * self.target.tasks_per_node

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
        return {f'{self.job.name}.sbatch': slurm_script.script(self.job, self.target, folder=self.folder, logs=self._logs)}

    def plan(self) -> list[Step]:
        script = str(self.folder / 'job.sbatch')
        return [Run(('mkdir', '-p', str(self._logs), str(self.folder))), Write(script, self.files()[f'{self.job.name}.sbatch']),
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
