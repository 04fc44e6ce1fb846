"""What an engine is: where a job's processes come from. One file each, named as --on names it.

A module of an engine has
    Target            a dataclass of what --on says after the name (`launch.target`)
    Engine            a subclass of the class here
    find(name, on)    the `Job` of that name that another machine has started there, as that left it on the engine;
                      UserError where there is none (detached engines only)
"""
import abc
import dataclasses
import importlib
import importlib.util
import signal
import time
from collections.abc import Sequence
from typing import Protocol

from bigjax.errors import UserError
from launch import target
from launch.job import Job
from launch.outcome import End
from launch.steps import Step

ENGINES = ('local', 'ssh', 'tpu_vm', 'slurm', 'jobset', 'sky')


class Group(Protocol):
    """Processes that run, as the restart loop sees them.

    Attributes:
      running: whether a process, or what it left behind, is still there.
      idle: all that was written until now has been passed on.
      stopped: somebody asked it to end ('launch kill', scancel): it is not started again.
      only: the one process whose output is passed on; None for all.
      again: where the engine itself starts the job again: (restarts, preemptions) until now.
    """

    running: bool
    idle: bool
    stopped: bool
    only: int | None

    def wait(self, seconds: float) -> list[End]:
        """Passes output on for at most so long; the ends since the last call."""

    def signal(self, number: int) -> None:
        """Sends SIGTERM or SIGKILL to the process groups of all that have not ended."""

    def stop(self) -> None:
        """Leaves word, where all launchers see it, that it is not to be started again; ends nothing yet."""

    def tail(self, process: int) -> list[str]:
        """Its last lines."""

    def close(self) -> None:
        """A group of `local` is killed; that of a detached engine goes on, and only its logs are not followed any more."""


class Engine(abc.ABC):
    """One job on one engine.

    Attributes:
      detached: the processes go on without the launcher; Ctrl-C leaves them alone, and `attach` finds them again.
      restarts: the engine itself starts the job again (SLURM's requeue, JobSet's restarts); else the launcher does.
    """

    kind = ''
    detached = True
    restarts = False
    Target: type

    def __init__(self, job: Job):
        self.job, self.target = job, target.parse(job.kind, job.target, type(self).Target)

    @property
    def name(self) -> str:
        """As --on writes it."""
        return self.job.on

    @property
    @abc.abstractmethod
    def workers(self) -> int:
        """How many processes there are, or machines where one cannot know."""

    def shares(self, runs: int) -> int:
        """How many workers of an array run that many runs; by default each has its own."""
        return runs

    def check(self) -> None:  # noqa: B027  an engine that needs no look has none
        """Raises UserError where it cannot be: a program is missing, an accelerator that this engine does not have."""

    @abc.abstractmethod
    def plan(self) -> Sequence[Step]:
        """Exactly what `start` does; needs no credentials, and touches nothing."""

    def files(self) -> dict[str, str]:
        """{name: text} of what another tool is given (a script, a manifest), for `render`."""
        return {}

    @abc.abstractmethod
    def start(self) -> Group:
        """All of the processes, or none. KeyboardInterrupt while it waits leaves nothing behind that costs money."""

    def attach(self, *, whole: bool = False) -> Group:
        """The processes that `start` started, from any machine; `whole`: their logs from the beginning.

        Raises:
          UserError: there are none.
        """
        raise UserError(f'{self.kind}: runs with its launcher, there is nothing to attach to', code='launch/not-detached')

    def status(self) -> list[str]:
        """A line for the job, then one for each worker."""
        raise UserError(f'{self.kind}: runs with its launcher, whose terminal shows it', code='launch/not-detached')

    def finish(self) -> list[str]:
        """When the job has ended and is not started again: removes what would go on to cost money; says what."""
        return []

    def down(self) -> list[str]:
        """Removes all that the job has made and that costs money or space elsewhere; says what."""
        return []

    def exists(self) -> list[str]:
        """What the job has made that still exists and costs money, or '?…' where that cannot be found out."""
        return []

    def doctor(self) -> list['Check']:
        """What must be so before a job can start, checked without starting one."""
        return []


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of `doctor`: what was looked at, whether it is well, what was found, how it is mended."""

    what: str
    ok: bool
    found: str
    mend: str = ''


def find(name: str, on: str) -> Job:
    """The job of that name on an engine, whichever machine started it.

    Raises:
      UserError: there is none, or the engine keeps none.
    """
    found = getattr(module(on.partition(':')[0], on), 'find', None)
    if found is None:
        raise UserError(f'--on={on}: runs with its launcher, and is not found from elsewhere', code='launch/not-detached')
    return found(name, on)


def engine(job: Job) -> Engine:
    """The engine that --on names.

    Raises:
      UserError: there is none of that name, or it cannot be so.
    """
    if not job.on:
        raise UserError('--on is missing; say where to run, for example --on=local:2', code='launch/no-engine')
    return module(job.kind, job.on).Engine(job)


def module(kind: str, on: str = ''):
    """The file of an engine."""
    if kind not in ENGINES:
        nearest = target.nearest(kind, ENGINES)
        raise UserError(f"--on={on or kind}: no such engine{nearest}; the engines are {', '.join(ENGINES)}",
                        code='launch/unknown-engine')
    folder = f'launch.engines.{kind}'
    is_folder = importlib.util.find_spec(folder).submodule_search_locations
    return importlib.import_module(f'{folder}.{kind}' if is_folder else folder)


def stop(group: Group, grace: float) -> bool:
    """SIGTERM, then after `grace` seconds SIGKILL; whether nothing is left. Output is passed on meanwhile."""
    group.signal(signal.SIGTERM)
    for number, until in ((signal.SIGKILL, time.monotonic() + grace), (None, time.monotonic() + grace + 30.0)):
        while group.running and time.monotonic() < until:
            group.wait(0.2)
        if group.running and number:
            group.signal(number)
    return not group.running
