"""The steps that start a job on machines that ssh reaches, as data: printed by a dry run and executed as printed."""
import dataclasses
import math
import pathlib
import shlex
from collections.abc import Mapping

from launch import job as jobs
from launch.engines.ssh import bundle
from launch.engines.ssh.transport import Hosts, Script, shell_path
from launch.job import Job
from launch.steps import Run, Write

REMOTE = pathlib.Path(__file__).with_name('remote.sh')
IN_USE, STOPPED = 3, 4  # exit codes of PREPARE
PREPARE = """\
command -v rsync >/dev/null || {{ echo 'rsync: not found' >&2; exit 127; }}
mkdir -p {base}/code {base}/jobs/{name}/claims && cd {base}/jobs && chmod 700 {name} || exit 1
was=$(cat {name}/id 2>/dev/null)
if [ "$was" != {id} ]; then
  if sh {name}/remote.sh show </dev/null 2>/dev/null | grep -qE ' (running|ended|elsewhere) '; then exit {in_use}; fi
  rm -rf {name} && mkdir -p {name}/claims && chmod 700 {name} && echo {id} > {name}/id && echo new || exit 1
elif [ -f {name}/stop ]; then exit {stopped}; fi
"""

@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings common to all engines over ssh.

    Attributes:
      path: prepended to PATH there.
      setup: a line of shell that runs in the code's folder before each start, once per machine.
      code: the remote folder, in the home folder ('~/…') or absolute.
      wait: seconds to wait at a restart for a machine that does not answer.
      lost: seconds of silence after which a machine counts as lost.
      per_host: processes on each machine.
      coordinator: the address of the first machine as the others reach it; '' for the one that ssh connects to.
      limit: MB that may be copied.
    """

    path: str = ''
    setup: str = ''
    code: str = '~/.bigjax'
    wait: float = 1800.0
    lost: float = 90.0
    per_host: int = 1
    coordinator: str = ''
    limit: float = bundle.LIMIT_MB

    @property
    def base(self) -> str:
        """The folder `code` relative to the home folder, in which commands start; or absolute."""
        return self.code.removeprefix('~/').rstrip('/')

    @property
    def variables(self) -> list[tuple[str, str]]:
        """(name, value as shell text) of the environment of setup and of every process."""
        return [('PATH', f'{shell_path(self.path)}:"$PATH"')] if self.path else []


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of one job on its machines.

    Attributes:
      place: (hash of the code, folder within it in which the command runs).
      placed: {rank of a process: number of its machine}.
    """

    job: Job
    settings: Settings
    hosts: Hosts
    place: tuple[str, str]
    placed: Mapping[int, int]

    @property
    def folder(self) -> str:
        """The job's remote folder."""
        return f'{self.settings.base}/jobs/{self.job.name}'

    @property
    def script(self) -> Script:
        """The job's `remote.sh`."""
        return Script(self.hosts, self.folder)

    @property
    def grace(self) -> str:
        """The grace in whole seconds."""
        return str(math.ceil(self.job.grace))

    def on(self, host: int) -> list[int]:
        """The ranks of the processes on a machine."""
        return [process for process, at in self.placed.items() if at == host]

    def id(self) -> str:
        """A hash that distinguishes this job from another of the same name."""
        return jobs.digest(self.job.name, self.job.created, jobs.line(self.job.command))

    def files(self) -> list[Write]:
        """The files for the job's remote folder, beside `remote.sh`."""
        own = self.job.folder / 'sent'
        return [Write(f'{own}/job.json', self.job.text()), Write(f'{own}/code', f"{' '.join(self.place)}\n")]

    def prepare(self, host: int) -> Run:
        """Makes the folders; prints 'new' if the job was not there; exits with IN_USE or STOPPED if it must not start."""
        text = PREPARE.format(base=self.settings.base, name=self.job.name, id=self.id(), in_use=IN_USE, stopped=STOPPED)
        return Run(self.hosts.ssh(host, 'sh -s'), text, why='refuses where another job of this name runs')

    def send(self, host: int, code: str) -> list[Run]:
        """Copies the job's folder; also the code, if `code` describes it."""
        own, to = self.job.folder, f'{self.settings.base}/code/{self.place[0]}/'
        return [*([Run(self.hosts.rsync(host, to, f'{own}/code/{self.place[0]}/'), why=code)] if code else []),
                Run(self.hosts.rsync(host, f'{self.folder}/', str(REMOTE), f'{own}/sent/'))]

    def clear(self, host: int) -> Run:
        """Ends the processes that are left of an earlier start."""
        return self.script.step(host, 'clear', self.grace, why='ends the processes left of an earlier start')

    def setup(self, host: int) -> Run:
        """Runs the user's line in the folder of the code."""
        code = f'{self.settings.base}/code/{self.place[0]}/{self.place[1]}'
        text = ''.join(f'export {name}={value}\n' for name, value in self.settings.variables)
        text += f'cd {shlex.quote(code)} || exit 1\n( {self.settings.setup}\n) </dev/null >&2 || exit 1\n'
        return Run(self.hosts.ssh(host, 'sh -s'), text, self.job.env, 'setup')

    def start(self, process: int, number: int, variables: Mapping[str, str]) -> Run:
        """Starts one process, detached, for the start of that number, with `variables` in its environment."""
        env = [*self.settings.variables, *((name, shlex.quote(value)) for name, value in variables.items())]
        folder = f"../../code/{self.place[0]}{'' if self.place[1] == '.' else '/' + self.place[1]}"
        return self.script.step(self.placed[process], 'start', str(process), str(number), self.grace, folder,
                                *self.job.command, env=env, secret=self.job.env)

    def follow(self, host: int) -> Run:
        """Follows the processes from their first byte."""
        return self.script.step(host, 'follow', *(f'{process}:0' for process in self.on(host)))
