"""The engine `ssh`: machines of one's own, reached by ssh; the processes keep running without the launcher.

    python -m launch run --on=ssh:node1,node2,path=~/venv/bin -- python -m experiments.mnist1d --workdir=/nfs/m1d
"""
import dataclasses
import pathlib

from bigjax.errors import UserError
from launch import target as target_
from launch.engines.base import Check
from launch.engines.ssh import remote, remote_checks
from launch.engines.ssh.bundle import LIMIT_MB
from launch.engines.ssh.machines import Machines
from launch.engines.ssh.remote import RemoteEngine
from launch.engines.ssh.remote_steps import Settings
from launch.engines.ssh.transport import Hosts
from launch.job import Job
from launch.target import text


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=ssh:…"""

    hosts: tuple[str, ...] = text('node1,me@node2 as for ssh, or @FILE with one per line; the first is process 0')
    user: str = text('login name', '')
    port: int = text("ssh's port", 0)
    identity: str = text('a private key', '')
    config: str = text('a file for ssh -F', '')
    path: str = text('prepended to PATH there: ~/venv/bin', '')
    setup: str = text("a line of shell, run in the code's folder before each start: setup='pip install -q -e .'", '')
    code: str = text('the folder for code and jobs there', '~/.bigjax')
    coordinator: str = text('the address of the first host as the others reach it; by default the one that ssh connects to', '')
    per_host: int = text('processes on each host', 1)
    wait: float = text('seconds to wait, at a restart, for a host that does not answer', 1800.0)
    lost: float = text('seconds of silence after which a host is lost, and its processes with it', 90.0)
    limit: float = text('MB of code that may be copied', LIMIT_MB)


KEPT = ('path', 'setup', 'coordinator', 'per_host', 'wait', 'lost', 'limit')
"""The keys that another machine takes over from the job's record."""


class Listed(Machines):
    """The machines that --on lists; `addresses` with those of its files."""

    def __init__(self, job: Job, target: Target, addresses: tuple[str, ...]):
        super().__init__(job, Settings(code=target.code, **{key: getattr(target, key) for key in KEPT}))
        names = tuple(address.rpartition('@')[2] for address in addresses)
        self._hosts = Hosts(addresses, target.user, target.port, target.identity, target.config, names=names)

    def hosts(self) -> Hosts:
        return self._hosts


class Engine(RemoteEngine):
    """`per_host` processes on each host."""

    kind, Target = 'ssh', Target
    cost = "disk space on the hosts, until 'launch down'"

    def __init__(self, job: Job):
        super().__init__(job)
        self._addresses = tuple(address for item in self.target.hosts for address in _addresses(item, job.on))
        if len(set(self._addresses)) < len(self._addresses):
            twice = next(host for host in self._addresses if self._addresses.count(host) > 1)
            raise UserError(f'--on={job.on}: {twice} is listed twice; fix: for several processes per host write per_host=2',
                            code='launch/duplicate-host')
        if not self._addresses:
            raise UserError(f'--on={job.on}: no hosts; fix: write for example --on=ssh:node1,node2', code='launch/missing-key')
        for key in ('per_host', 'wait', 'lost', 'limit'):
            if getattr(self.target, key) < (1 if key == 'per_host' else 0):
                raise UserError(f'--on={job.on}: got {key}={getattr(self.target, key)}, expected at least '
                                f'{1 if key == "per_host" else 0}', code='launch/bad-value')
        for key in ('identity', 'config'):
            if (path := getattr(self.target, key)) and not pathlib.Path(path).expanduser().is_file():
                raise UserError(f'--on={job.on}: {key}={path}: no such file', code='launch/no-file')
        self.machines = Listed(job, self.target, self._addresses)

    @property
    def name(self) -> str:
        shown = self._addresses if len(self._addresses) <= 4 else (*self._addresses[:2], '…', self._addresses[-1])
        return f"ssh:{','.join(shown)}"


def doctor(engine: Engine) -> list[Check]:
    """The checks of each machine."""
    settings = engine.machines.settings
    return remote_checks.checks(engine.machines.hosts(), settings.base, settings.path, engine.job.command)


def find(name: str, on: str) -> Job:
    """The job of that name that another machine started on these hosts, with the addresses that `on` gives.

    Raises:
      UserError: there is none, or it has another number of hosts.
    """
    engine = Engine(Job(name, on, ('python',)))
    found = remote.find(engine)
    before = target_.parse('ssh', found.target, Target)
    if len(before.hosts) != len(engine.target.hosts):
        raise UserError(f'--on={on}: {name} was started on {found.on}; fix: name the same hosts in the same order',
                        code='launch/other-hosts')
    merged = dataclasses.replace(engine.target, **{key: getattr(before, key) for key in KEPT})
    return dataclasses.replace(found, on=f'ssh:{target_.write(merged)}')


def _addresses(item: str, on: str) -> list[str]:
    """The addresses of one item: itself, or the lines of @FILE without comments."""
    found = [item]
    if item.startswith('@'):
        try:
            lines = pathlib.Path(item[1:]).expanduser().read_text().splitlines()
        except OSError as error:
            raise UserError(f'--on={on}: {item[1:]}: cannot be read ({error.strerror})', code='launch/no-file') from None
        found = [host for line in lines if (host := line.partition('#')[0].strip())]
    for host in found:
        if host.startswith('-') or any(letter.isspace() for letter in host):
            raise UserError(f"--on={on}: '{host}' is not a host; fix: write node1, me@node1, or an address",
                            code='launch/bad-host')
    return found
