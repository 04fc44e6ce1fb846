"""The interface of an engine, which starts and follows a job's processes. Each is a file or folder named as --on names it.

The module of an engine has
    Target            a dataclass of the values after the engine's name in --on (`launch.target`)
    Engine            a subclass of `Engine`
    find(name, on)    the `Job` of that name that another machine started, from its record on the engine; UserError if there
                      is none (detached engines only)
    doctor(engine)    the conditions for a start as a list of `Check`, without starting a job (detached engines only)
"""
import abc
import dataclasses
import importlib
import shutil
import signal
import time
from collections.abc import Sequence
from typing import Protocol

from bigjax.errors import UserError
from bigjax.io.text import hint
from launch import target
from launch.job import Job
from launch.outcome import End
from launch.steps import Step

ENGINES = {'local': 'launch.engines.local', 'ssh': 'launch.engines.ssh.ssh', 'tpu_vm': 'launch.engines.tpu_vm.tpu_vm',
           'slurm': 'launch.engines.slurm.slurm', 'jobset': 'launch.engines.jobset.jobset', 'sky': 'launch.engines.sky.sky'}


class Group(Protocol):
    """Running processes, as the restart loop sees them.

    Attributes:
      running: whether a process, or one that it started, is still alive.
      idle: whether all output so far has been printed.
      stopped: whether another command ended it ('launch kill', scancel): it is not restarted.
      only: the one process whose output is printed; None for all.
      again: (restarts, preemptions) so far, if the engine itself restarts the job.
    """

    running: bool
    idle: bool
    stopped: bool
    only: int | None

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns the ends since the last call."""

    def signal(self, number: int) -> None:
        """Sends SIGTERM or SIGKILL to the process groups of all processes that have not ended."""

    def stop(self) -> None:
        """Leaves a mark, visible to all launchers, that the job is not to be restarted; ends no process yet."""

    def tail(self, process: int) -> list[str]:
        """The last lines of one process."""

    def close(self) -> None:
        """Kills a group of `local`; a group of a detached engine keeps running and is no longer followed."""


class Engine(abc.ABC):
    """One job on one engine.

    Attributes:
      detached: the processes keep running without the launcher; Ctrl-C leaves them alone, and `attach` finds them again.
      restarts: the engine itself restarts the job (SLURM's requeue, JobSet's restarts); otherwise the launcher does.
      code, cost: for the summary of a dry run: which code runs; what costs money, and until when.
      keeps_files: whether files on the processes' own disks outlive the job.
    """

    kind = ''
    detached = True
    restarts = False
    keeps_files = True
    code = 'this folder as it is, not copied'
    cost = 'nothing'
    Target: type

    def __init__(self, job: Job):
        self.job, self.target = job, target.parse(job.kind, job.target, type(self).Target)

    @property
    def name(self) -> str:
        """The engine as --on writes it."""
        return self.job.on

    @property
    @abc.abstractmethod
    def workers(self) -> int:
        """The number of processes, or of machines if that is not known."""

    def shares(self, runs: int) -> int:
        """The number of workers of an array that share that many runs; by default one per run."""
        return runs

    def check(self) -> None:  # noqa: B027  optional: not every engine needs one
        """Raises UserError if the job cannot start: a program is missing, or the engine lacks the accelerator."""

    @abc.abstractmethod
    def plan(self) -> Sequence[Step]:
        """The exact steps of `start`; needs no credentials and changes nothing."""

    def files(self) -> dict[str, str]:
        """{name: text} of the files that the engine submits (a script, a manifest), for `render`."""
        return {}

    @abc.abstractmethod
    def start(self) -> Group:
        """Starts all of the processes, or none. A KeyboardInterrupt while it waits leaves nothing that costs money."""

    def attach(self, *, whole: bool = False) -> Group:
        """The processes that `start` started, from any machine; with `whole` their logs from the beginning.

        Raises:
          UserError: there are none.
        """
        raise UserError(f'{self.kind}: runs with its launcher, so there is nothing to attach to', code='launch/not-detached')

    def status(self) -> list[str]:
        """One line for the job, then one per worker."""
        raise UserError(f'{self.kind}: runs with its launcher, whose terminal shows it', code='launch/not-detached')

    def finish(self) -> list[str]:
        """Removes what would still cost money after the job's last end; returns a line for each thing removed."""
        return []

    def down(self) -> list[str]:
        """Removes all that the job has created elsewhere; returns a line for each thing removed."""
        return []

    def exists(self) -> list[str]:
        """The job's resources that still exist and cost money; '?…' if the engine does not answer."""
        return []


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of `doctor`: the thing checked, whether it passed, what was found, and the fix."""

    what: str
    ok: bool
    found: str
    fix: str = ''


def doctor(engine: Engine) -> list[Check]:
    """The conditions for a start, checked without starting a job."""
    checks = getattr(module(engine.job.kind), 'doctor', None)
    return checks(engine) if checks else []


def warnings(engine: Engine) -> list[str]:
    """Reasons why the job would run and still be of no use, printed before it starts."""
    workdir = engine.job.workdir
    if engine.keeps_files or not workdir or '://' in workdir:
        return []
    return [f'--workdir={workdir}: is on the machines of {engine.kind}, and the run is lost with them; fix: write a bucket, '
            'gs://…, or a folder on a mounted disk that outlives them']


def installed(name: str, install: str) -> Check:
    """The check that a program is on PATH."""
    path = shutil.which(name)
    return Check(name, bool(path), path or 'no such program here', install)


def require(name: str, install: str) -> None:
    """Raises UserError unless the program is installed here; `install` is the fix."""
    if shutil.which(name) is None:
        raise UserError(f"'{name}': no such program here; fix: {install}", code='launch/no-program')


def find(name: str, on: str) -> Job:
    """The job of that name on an engine, whichever machine started it.

    Raises:
      UserError: there is none, or the engine keeps no records.
    """
    found = getattr(module(on.partition(':')[0], on), 'find', None)
    if found is None:
        raise UserError(f'--on={on}: runs with its launcher, so other machines cannot find it', code='launch/not-detached')
    return found(name, on)


def engine(job: Job) -> Engine:
    """The engine that --on names.

    Raises:
      UserError: there is none of that name, or its target is wrong.
    """
    if not job.on:
        raise UserError('--on is missing; fix: name an engine, for example --on=local:2', code='launch/no-engine')
    return module(job.kind, job.on).Engine(job)


def module(kind: str, on: str = ''):
    """The module of an engine."""
    if kind not in ENGINES:
        near = hint(kind, ENGINES)
        raise UserError(f"--on={on or kind}: no such engine{near}; fix: write one of {', '.join(ENGINES)}",
                        code='launch/unknown-engine')
    return importlib.import_module(ENGINES[kind])


def stop(group: Group, grace: float) -> bool:
    """Sends SIGTERM, then after `grace` seconds SIGKILL, printing output meanwhile; returns whether all have ended."""
    group.signal(signal.SIGTERM)
    for number, until in ((signal.SIGKILL, time.monotonic() + grace), (None, time.monotonic() + grace + 30.0)):
        while group.running and time.monotonic() < until:
            group.wait(0.2)
        if group.running and number:
            group.signal(number)
    return not group.running
