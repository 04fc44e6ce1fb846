"""Machines reached by ssh and rsync, with the user's own configuration and without interactive prompts.

    hosts = Hosts(('10.0.0.1', '10.0.0.2'), user='me', identity='~/.ssh/google_compute_engine')
    hosts.execute(0, Run(hosts.ssh(0, 'sh -s'), 'uptime\n'))
    hosts.execute(0, Run(hosts.rsync(0, '.bigjax/code/1/', 'folder/')))

A cut connection is noticed within ServerAliveInterval times ServerAliveCountMax. ssh reports it by exit code 255, so no script
that runs there may exit with 255.
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
AT_ONCE = 32  # concurrent connections
GONE = re.compile(r'timed out|timeout|refused|no route|unreachable|connection (closed|reset|unexpectedly)|broken pipe|is down|'
                  r'not responding|lost conn|kex_exchange', re.IGNORECASE)


class Unreachable(UserError):
    """A machine does not answer; a retry may succeed."""

    def __init__(self, message: str):
        super().__init__(message, code='launch/unreachable')


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Machines, numbered from 0.

    Attributes:
      addresses: ssh destinations: a name, an alias of its configuration, or an IP address, optionally after 'user@'.
      user, port, identity (a private key's file), config (a file for ssh -F): '' or 0 for ssh's own default.
      options: more values for ssh -o, 'StrictHostKeyChecking=no'.
      names: names for messages, if they differ from the addresses.
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
        """The machine's name in messages."""
        return self.names[host] if self.names else self.addresses[host]

    def flags(self) -> tuple[str, ...]:
        """The options of ssh common to all machines."""
        more = [word for option in (*ALWAYS, *self.options) for word in ('-o', option)]
        more += ['-F', os.path.expanduser(self.config)] if self.config else []
        more += ['-i', os.path.expanduser(self.identity), '-o', 'IdentitiesOnly=yes'] if self.identity else []
        more += ['-p', str(self.port)] if self.port else []
        more += ['-l', self.user] if self.user else []
        return tuple(more)

    def ssh(self, host: int, command: str) -> tuple[str, ...]:
        """The arguments that run a command there, in the home folder and without a terminal."""
        return ('ssh', '-T', *self.flags(), self.addresses[host], command)

    def rsync(self, host: int, to: str, *sources: str) -> tuple[str, ...]:
        """The arguments that copy local files, and the contents of folders ('folder/'), there, relative to the home folder."""
        address = self.addresses[host]
        place = f'[{address}]' if address.count(':') > 1 else address
        return 'rsync', '-az', '--timeout=60', '-e', shlex.join(('ssh', '-T', *self.flags())), *sources, f'{place}:{to}'

    def execute(self, host: int, step: Run, *, values: dict[str, str] | None = None, seconds: float = 60.0) -> str:
        """Runs a step that `ssh` or `rsync` made; returns its stdout.

        Raises:
          Unreachable: the machine does not answer.
          UserError: it denies access, is unknown, or lacks a program.
          Failed: the command ran there and exited with a code other than 0.
        """
        try:
            return steps.execute(step, values=values, seconds=seconds)
        except Failed as error:
            raise self.explain(host, error) from None

    def explain(self, host: int, error: Failed) -> Exception:
        """The error behind a failed step of ssh or rsync, with its fix."""
        name, output, tool = self.name(host), error.stderr.strip(), error.step.argv[0]
        last = output.splitlines()[-1].strip() if output else ''
        if re.search(r'rsync: (command )?not found|not found.*rsync', output):
            return UserError(f'{name}: rsync is missing there; fix: install it (apt install rsync)', code='launch/no-program')
        if error.code is None:
            return Unreachable(f'{name}: no answer ({error}); fix: check that it is up, and the network')
        if error.code != 255 and not (tool == 'rsync' and error.code in (10, 12, 30, 35)):
            return error
        return self._refused(name, host, output) or (
            Unreachable(f'{name}: cannot be reached ({last}); fix: check that it is up, its address and its port')
            if GONE.search(output) or not output else Failed(error.step, error.code, error.stdout, f'{name}: {output}'))

    def _refused(self, name: str, host: int, output: str) -> UserError | None:
        """The error that only the user can fix, None for another one."""
        own = [('-F', self.config), ('-l', self.user), ('-p', str(self.port or ''))]
        by_hand = shlex.join(['ssh', *(word for flag in own if flag[1] for word in flag), self.addresses[host]])
        if re.search(r'could not resolve|name or service not known', output, re.IGNORECASE):
            return UserError(f'{name}: no such host; fix: write its address, or add it to ~/.ssh/config',
                             code='launch/unknown-host')
        if re.search(r'host key|identification has changed', output, re.IGNORECASE):
            return UserError(f'{name}: its host key is unknown here or has changed; fix: connect once by hand with '
                             f"'{by_hand}', or correct ~/.ssh/known_hosts", code='launch/host-key')
        if 'Permission denied' in output or 'Too many authentication' in output:
            return UserError(f'{name}: access denied ({output.splitlines()[-1].strip()}); fix: set the right user=… and '
                             f"identity=…, load the key with ssh-add, or copy it there with 'ssh-copy-id {name}'",
                             code='launch/access-denied')
        if re.search(r'config(uration)? (file|option)|user config|Bad owner|no such identity|unprotected', output,
                     re.IGNORECASE):
            return UserError(f'{name}: ssh: {output.splitlines()[0].strip()}', code='launch/ssh-config')
        return None

    def each(self, do: Callable[[int], T], hosts: Sequence[int] | None = None) -> list[T]:
        """Calls `do` for all hosts concurrently; returns the results, or raises the first error, Unreachable ones last."""
        numbers = list(range(len(self))) if hosts is None else list(hosts)
        pool = concurrent.futures.ThreadPoolExecutor(min(AT_ONCE, len(numbers)) or 1)
        try:
            futures = [pool.submit(do, number) for number in numbers]
            errors = [error for error in (future.exception() for future in futures) if error is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, Unreachable)):
                raise error
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)  # waits for calls that have started, so that the caller can undo them

    def answers(self, do: Callable[[int], T], hosts: Sequence[int] | None = None) -> list[T | Unreachable]:
        """The results of `each`, with an `Unreachable` in the place of those of machines that do not answer."""
        def attempt(host: int) -> T | Unreachable:
            try:
                return do(host)
            except Unreachable as error:
                return error
        return self.each(attempt, hosts)

    def hostname(self, host: int) -> str:
        """The address that ssh connects to according to its configuration."""
        address = self.addresses[host].rpartition('@')[2]
        try:
            done = subprocess.run(['ssh', '-G', *self.flags(), address], capture_output=True, text=True, timeout=10,
                                  check=False)
        except (OSError, subprocess.TimeoutExpired):
            return address
        found = re.search(r'^hostname (.+)$', done.stdout, re.MULTILINE)
        return found[1] if found else address


@dataclasses.dataclass(frozen=True)
class Script:
    """`remote.sh` of a job on its machines; `folder` is the job's remote folder, relative to the home folder or absolute."""

    hosts: Hosts
    folder: str

    def step(self, host: int, *words: str, env: Sequence[tuple[str, str]] = (), secret: Sequence[str] = (),
             why: str = '') -> Run:
        """The step that runs one of its verbs; `env` (values as shell text) and the variables in `secret` go by stdin."""
        command = shlex.join(('sh', f'{self.folder}/remote.sh', *words))
        if not env and not secret:
            return Run(self.hosts.ssh(host, command), why=why)
        exports = ''.join(f'export {name}={value}\n' for name, value in env)
        return Run(self.hosts.ssh(host, 'sh -s'), f'{exports}exec {command} </dev/null\n', tuple(secret), why)

    def query(self, host: int, *words: str, seconds: float = 30.0) -> str:
        """Runs a verb and returns its output; raises as `Hosts.execute`."""
        return self.hosts.execute(host, self.step(host, *words), seconds=seconds)


def shell_path(path: str) -> str:
    """A remote folder as shell text; '~/' is the home folder there."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith('~/') else shlex.quote(path)
