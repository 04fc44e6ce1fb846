"""How machines are reached: ssh and rsync, with the user's own configuration, and never a question.

    hosts = Hosts(('10.0.0.1', '10.0.0.2'), user='me', identity='~/.ssh/google_compute_engine')
    hosts.execute(0, Run(hosts.ssh(0, 'sh -s'), 'uptime\n'))
    hosts.execute(0, Run(hosts.rsync(0, '.bigjax/code/1/', 'folder/')))

A connection that is cut is noticed within ServerAliveInterval times ServerAliveCountMax. A command's own exit code is no
sign of that only where it is not 255, so no script that is sent ends with 255.
"""
import concurrent.futures
import dataclasses
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from typing import TypeVar

from bigjax.errors import UserError
from launch import steps
from launch.steps import Failed, Run

T = TypeVar('T')
ALWAYS = ('BatchMode=yes', 'ConnectTimeout=10', 'ServerAliveInterval=5', 'ServerAliveCountMax=3', 'LogLevel=ERROR')
AT_ONCE = 32  # machines that are talked to at the same time
GONE = re.compile(r'timed out|timeout|refused|no route|unreachable|connection (closed|reset|unexpectedly)|broken pipe|is down|'
                  r'not responding|lost conn|kex_exchange', re.IGNORECASE)


class Unreachable(UserError):
    """A machine does not answer, and may later."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Machines, each known by its number, 0 …

    Attributes:
      addresses: as ssh takes them: a name, an alias of its configuration, an IP address; 'user@' may stand before it.
      user, port, identity (a private key's file), config (a file for ssh -F): '' or 0 for what ssh itself would take.
      options: more for ssh -o, 'StrictHostKeyChecking=no'.
      names: what people call them, where that is not the address.
    """

    addresses: tuple[str, ...]
    user: str = ''
    port: int = 0
    identity: str = ''
    config: str = ''
    options: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.addresses)

    def name(self, host: int) -> str:
        """What people call it."""
        return self.names[host] if self.names else self.addresses[host]

    def flags(self) -> tuple[str, ...]:
        """Of ssh, the same for all."""
        more = [word for option in (*ALWAYS, *self.options) for word in ('-o', option)]
        more += ['-F', os.path.expanduser(self.config)] if self.config else []
        more += ['-i', os.path.expanduser(self.identity), '-o', 'IdentitiesOnly=yes'] if self.identity else []
        more += ['-p', str(self.port)] if self.port else []
        more += ['-l', self.user] if self.user else []
        return tuple(more)

    def ssh(self, host: int, command: str) -> tuple[str, ...]:
        """The arguments that run a command there; it begins in the home folder, and has no terminal."""
        return ('ssh', '-T', *self.flags(), self.addresses[host], command)

    def rsync(self, host: int, to: str, *sources: str) -> tuple[str, ...]:
        """The arguments that copy local files, and the content of folders ('folder/'), there, relative to the home folder."""
        address = self.addresses[host]
        place = f'[{address}]' if address.count(':') > 1 else address
        return 'rsync', '-az', '--timeout=60', '-e', shlex.join(('ssh', '-T', *self.flags())), *sources, f'{place}:{to}'

    def execute(self, host: int, step: Run, *, values: dict[str, str] | None = None, seconds: float = 60.0) -> str:
        """Runs a step that `ssh` or `rsync` made; its stdout.

        Raises:
          Unreachable: the machine does not answer.
          UserError: it does not let us in, is not known, or lacks a program.
          Failed: the command ran there and ended with another code than 0.
        """
        try:
            return steps.execute(step, values=values, seconds=seconds)
        except Failed as error:
            raise self.explain(host, error) from None

    def explain(self, host: int, error: Failed) -> Exception:
        """What a failed step means, and how that is mended."""
        name, said, tool = self.name(host), error.stderr.strip(), error.step.argv[0]
        last = said.splitlines()[-1].strip() if said else ''
        if re.search(r'rsync: (command )?not found|not found.*rsync', said):
            return UserError(f'{name}: rsync is missing there; install it (apt install rsync)', code='launch/no-program')
        if error.code is None:
            return Unreachable(f'{name}: no answer ({error}); is it up, and the network?')
        if error.code != 255 and not (tool == 'rsync' and error.code in (10, 12, 30, 35)):
            return error
        return self._refused(name, host, said) or (
            Unreachable(f'{name}: cannot be reached ({last}); is it up, and the address and port right?') if GONE.search(said)
            or not said else Failed(error.step, error.code, error.stdout, f'{name}: {said}'))

    def _refused(self, name: str, host: int, said: str) -> UserError | None:
        """What the user has to mend first."""
        own = [('-F', self.config), ('-l', self.user), ('-p', str(self.port or ''))]
        by_hand = shlex.join(['ssh', *(word for flag in own if flag[1] for word in flag), self.addresses[host]])
        if re.search(r'could not resolve|name or service not known', said, re.IGNORECASE):
            return UserError(f'{name}: no such host; write its address, or give it one in ~/.ssh/config',
                             code='launch/unknown-host')
        if re.search(r'host key|identification has changed', said, re.IGNORECASE):
            return UserError(f'{name}: its host key is not known here, or has changed; connect once by hand with '
                             f"'{by_hand}', or mend ~/.ssh/known_hosts", code='launch/host-key')
        if 'Permission denied' in said or 'Too many authentication' in said:
            return UserError(f'{name}: refuses our key ({said.splitlines()[-1].strip()}); name the right user=… and '
                             f"identity=…, load the key with ssh-add, or put it there with 'ssh-copy-id {name}'",
                             code='launch/access-denied')
        if re.search(r'config(uration)? (file|option)|user config|Bad owner|no such identity|unprotected', said, re.IGNORECASE):
            return UserError(f'{name}: ssh says: {said.splitlines()[0].strip()}', code='launch/ssh-config')
        return None

    def each(self, do: Callable[[int], T], hosts: Sequence[int] | None = None) -> list[T]:
        """What `do` returns for each host, all at the same time; of several errors, the first that is not Unreachable."""
        numbers = list(range(len(self))) if hosts is None else list(hosts)
        pool = concurrent.futures.ThreadPoolExecutor(min(AT_ONCE, len(numbers)) or 1)
        try:
            futures = [pool.submit(do, number) for number in numbers]
            errors = [error for error in (future.exception() for future in futures) if error is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, Unreachable)):
                raise error
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)  # nothing goes on behind our back: what is started can be undone

    def hostname(self, host: int) -> str:
        """The address that ssh would connect to, where its configuration gives another one than what we call it."""
        address = self.addresses[host].rpartition('@')[2]
        try:
            said = subprocess.run(['ssh', '-G', *self.flags(), address], capture_output=True, text=True, timeout=10,
                                  check=False)
        except (OSError, subprocess.TimeoutExpired):
            return address
        found = re.search(r'^hostname (.+)$', said.stdout, re.MULTILINE)
        return found[1] if found else address


@dataclasses.dataclass(frozen=True)
class Script:
    """`remote.sh` of a job on its machines: `folder` is the job's there, relative to the home folder or absolute."""

    hosts: Hosts
    folder: str

    def step(self, host: int, *words: str, env: Sequence[tuple[str, str]] = (), secret: Sequence[str] = (),
             why: str = '') -> Run:
        """One of its verbs; `env` (as a shell takes the values) and the variables named `secret` travel on stdin."""
        command = shlex.join(('sh', f'{self.folder}/remote.sh', *words))
        if not env and not secret:
            return Run(self.hosts.ssh(host, command), why=why)
        exports = ''.join(f'export {name}={value}\n' for name, value in env)
        return Run(self.hosts.ssh(host, 'sh -s'), f'{exports}exec {command} </dev/null\n', tuple(secret), why)

    def ask(self, host: int, *words: str, seconds: float = 30.0) -> str:
        """What a verb says; raises as `Hosts.execute`."""
        return self.hosts.execute(host, self.step(host, *words), seconds=seconds)


def shell_path(path: str) -> str:
    """A folder as a shell there takes it; '~/' is its home folder."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith('~/') else shlex.quote(path)
