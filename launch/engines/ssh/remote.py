"""Engines whose processes run detached on machines that ssh reaches (`ssh`, `tpu_vm`).

A subclass defines the machines (`hosts`) and, if it can do better, the environment of each process (`variables`). The rest is
here: the code is copied (`launch.engines.ssh.bundle`), a script there starts each process in a session of its own and keeps its
log and exit code (`remote.sh`), a group follows them (`launch.engines.ssh.follow`). Each machine has one folder:

    ~/.bigjax/code/HASH/        the copied code
    ~/.bigjax/jobs/NAME/        job.json  remote.sh  id  code  stop  claims/  0.log  0.pid  0.rc
"""
import abc
import contextlib
import json
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from bigjax.errors import UserError
from launch import job as jobs
from launch.engines import base
from launch.engines.base import Check
from launch.engines.local import SHARE, VARIABLES
from launch.engines.ssh import bundle, remote_checks
from launch.engines.ssh.follow import Group
from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.remote_steps import IN_USE, STOPPED, Settings, Steps
from launch.engines.ssh.transport import Hosts, Unreachable
from launch.job import Job
from launch.lines import log
from launch.steps import Failed, Run, Step

T = TypeVar('T')
RETRY_S = 5.0  # between two attempts to reach a machine
SEND_TIMEOUT_S = 3600.0  # for copying the code, and for the user's setup
ALIVE = ('running', 'ended')


class RemoteEngine(base.Engine):
    """The base of engines over ssh.

    A subclass overrides `hosts` and `settings`; `variables` if the cloud sets the meeting point; `gone` if a cloud can be
    queried about a silent machine; and may extend `check`, `start` (allocate, then super().start()), `plan` (its own steps,
    then super().plan()), `down`, `exists` and `doctor`.
    """

    def __init__(self, job: Job):
        super().__init__(job)
        self._begun, self._starts = False, 0  # whether started or attached before; number of the last start
        self._bundle: bundle.Bundle | None = None
        self._place = '', '.'

    @abc.abstractmethod
    def hosts(self) -> Hosts:
        """The machines as they are now; may query a cloud. Called again at each start and attach."""

    @abc.abstractmethod
    def settings(self) -> Settings:
        """The settings, from the target."""

    def planned(self) -> Hosts:
        """The machines as a plan shows them; makes no query."""
        return self.hosts()

    def gone(self, host: int) -> bool:
        """Whether a machine that does not answer is known to be gone, so that waiting for it is useless."""
        return False

    @property
    def code(self) -> str:
        return f'a copy of {self._collected()}'

    @property
    def workers(self) -> int:
        return self.job.array or len(self.planned()) * self.settings().per_host

    def shares(self, runs: int) -> int:
        return len(self.planned()) * self.settings().per_host

    def placed(self, hosts: Hosts) -> dict[int, int]:
        """{rank of a process: number of its machine}."""
        if self.job.array:
            return {process: process % len(hosts) for process in range(self.job.array)}
        each = self.settings().per_host
        return {process: process // each for process in range(len(hosts) * each)}

    def variables(self, process: int, coordinator: str) -> dict[str, str]:
        """The extra environment of a process, without secrets. `coordinator` is '' for independent processes."""
        if self.job.array:
            return {SHARE: f'{process}/{self.workers}'}
        return dict(zip(VARIABLES, (coordinator, str(self.workers), str(process)), strict=True)) if coordinator else {}

    def check(self) -> None:
        for program, package in (('ssh', 'openssh-client'), ('rsync', 'rsync')):
            base.require(program, f'install it (apt install {package})')
        if not re.fullmatch(r'(~/|/)?[\w.+-]+(/[\w.+-]+)*/?', self.settings().code):
            raise UserError(f'--on={self.job.on}: code={self.settings().code}: expected a folder without spaces; fix: '
                            'write one in the home folder (~/.bigjax), or an absolute one', code='launch/bad-folder')
        self.job.values()
        self._collected()

    def plan(self) -> Sequence[Step]:
        hosts, sent = self.planned(), self._collected()
        steps, numbers = self._steps(hosts), range(len(hosts))
        port = 'PORT' if self._meets else ''
        copied = f'the code: {sent}, as it is now, in a copy at {self.job.folder}/code/{sent.hash}'
        return [*steps.files(),
                *(steps.prepare(host) for host in numbers), *(step for host in numbers for step in steps.send(host, copied)),
                steps.script.step(0, 'claim', '1', why='of several launchers that follow this job, one starts it again'),
                *(steps.clear(host) for host in numbers),
                *(steps.setup(host) for host in numbers if self.settings().setup),
                *([steps.script.step(0, 'port', why='prints a free PORT')] if port else []),
                *(steps.start(p, 1, self.variables(p, self._coordinator(hosts, port))) for p in steps.placed),
                *(steps.follow(host) for host in numbers if steps.on(host))]

    def start(self) -> base.Group:
        values, again, hosts = self.job.values(), self._begun, self.hosts()
        if not again:
            bundle.keep(self._collected(), self.job.folder)
        steps = self._steps(hosts)
        fresh = self._reached(hosts, again, lambda host: self._prepared(steps, host))
        for file in steps.files():
            pathlib.Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(file.path).write_text(file.text)
        whole = (self.job.folder / 'code' / steps.place[0]).exists()  # else another machine's launcher has copied it
        self._reached(hosts, again, lambda host: self._send(steps, host, whole))
        self._starts += 1
        if 'granted' not in steps.script.query(0, 'claim', str(self._starts)).split():
            return self._others(steps)
        logs = Logs(self.job)
        for process, host in steps.placed.items():
            if fresh[host]:
                logs.renew(process)
        try:
            self._reached(hosts, again, lambda host: self._clear(steps, host))
            if self.settings().setup:
                hosts.each(lambda host: self._set_up(steps, host, values))
            port = steps.script.query(0, 'port').split()[-1] if self._meets else ''
            place = self._coordinator(hosts, port)
            hosts.each(lambda host: [hosts.execute(host, steps.start(p, self._starts, self.variables(p, place)), values=values)
                                     for p in steps.on(host)])
        except BaseException as error:
            with contextlib.suppress(UserError, Failed):
                self._query_all(hosts, lambda host: self._clear(steps, host))
            if isinstance(error, Failed):
                raise UserError(f"{self.name}: {' '.join(error.stderr.split()) or error}", code='launch/start-failed') from None
            raise
        self._begun = True
        log(f'{self.name} runs {self.job.name} in {steps.folder}' + (f'; its processes meet at {place}' if place else ''))
        return self._group(steps, logs)

    def attach(self, *, whole: bool = False) -> base.Group:
        hosts = self.hosts()
        steps = self._steps(hosts)
        found = self._query_all(hosts, lambda host: self._look(steps, host))
        silent = [answer for answer in found if isinstance(answer, Unreachable)]
        if len(silent) == len(found):
            raise silent[0]
        if not any(isinstance(answer, list) for answer in found):
            raise UserError(f'{self.job.name}: nothing of it is on {self.name}; fix: remove its record with '
                            f"'python -m launch down {self.job.name}'", code='launch/no-job')
        for error in silent:
            log(f'{error}; continues without it for now')
        with contextlib.suppress(Unreachable, ValueError):
            self._starts = int(steps.script.query(0, 'claimed') or 0)
        self._begun = True
        return self._group(steps, Logs(self.job), show='whole' if whole else 'last')

    def status(self) -> list[str]:
        hosts = self.hosts()
        steps = self._steps(hosts)
        lines = [f'{self.job.name}: {jobs.line(self.job.command)} on {self.name}, since {self.job.created}']
        found = self._query_all(hosts, lambda host: self._look(steps, host))
        for process, host in steps.placed.items():
            answer, words = found[host], 'not started'
            if isinstance(answer, Unreachable):
                words = f'? ({answer})'
            for number, state, group, code, size, _ in answer if isinstance(answer, list) else ():
                if number == str(process):
                    words = {'running': f'running (process group {group})', 'none': words,
                             'ended': f'ended with exit code {code}; its children still run',
                             'elsewhere': 'on another machine that shares this folder',
                             'gone': f'ended with exit code {code}' if code != '-' else 'lost'}[state]
                    words += f', {int(size):,} bytes of log'
            lines.append(f'process {process} on {hosts.name(host)}: {words}')
        return lines

    def down(self) -> list[str]:
        hosts = self.hosts()
        steps, done = self._steps(hosts), []
        found = self._query_all(hosts, lambda host: self._look(steps, host))
        for host, answer in enumerate(found):
            for row in answer if isinstance(answer, list) else ():
                if row[1] in ALIVE:
                    raise UserError(f'{hosts.name(host)}: process {row[0]} still runs; fix: stop it first with '
                                    f"'python -m launch kill {self.job.name}'", code='launch/still-running')
        holders = [host for host, answer in enumerate(found) if isinstance(answer, list)]
        removed = self._query_all(hosts, lambda host: steps.script.query(host, 'down'), holders)
        for host, output in zip(holders, removed, strict=True):
            found[host] = output if isinstance(output, Unreachable) else []
            done += [] if isinstance(output, Unreachable) else [f'{hosts.name(host)}: {line}' for line in output.splitlines()]
        done += [f'{answer}; its files are left there' for answer in found if isinstance(answer, Unreachable)]
        return done or [f'nothing of it is on {self.name}']

    def doctor(self) -> list[Check]:
        return remote_checks.checks(self.hosts(), self.settings().base, self.settings().path, self.job.command)

    @property
    def _meets(self) -> bool:
        """Whether the processes need a coordinator whose port is found at each start."""
        return self.workers > 1 and not self.job.array and type(self).variables is RemoteEngine.variables

    def _steps(self, hosts: Hosts) -> Steps:
        return Steps(self.job, self.settings(), hosts, self._place, self.placed(hosts))

    def _group(self, steps: Steps, logs: Logs, show: str = 'new') -> Group:
        return Group(steps.script, steps.placed, logs, show=show, lost=self.settings().lost, gone=self.gone)

    def _coordinator(self, hosts: Hosts, port: str) -> str:
        if not port:
            return ''
        address = self.settings().coordinator or ('127.0.0.1' if len(hosts) == 1 else hosts.hostname(0))
        return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'

    def _collected(self) -> bundle.Bundle:
        """The code to copy, collected once, so that the plan and the start agree."""
        if self._bundle is None:
            self._bundle = bundle.collect(pathlib.Path.cwd(), self.settings().limit)
            self._place = self._bundle.hash, self._bundle.within
        return self._bundle

    def _prepared(self, steps: Steps, host: int) -> bool:
        """Makes the folders; returns whether the job is new there."""
        name, where = self.job.name, steps.hosts.name(host)
        try:
            return 'new' in steps.hosts.execute(host, steps.prepare(host)).split()
        except Failed as error:
            if error.code == IN_USE:
                raise UserError(f'--name={name}: in use on {where} by a running job; fix: see '
                                f"'python -m launch status {name} --on={self.job.on}', or choose another name",
                                code='launch/name-in-use') from None
            if error.code == STOPPED:
                raise UserError(f'{name}: stopped by another command, and not restarted', code='launch/stopped') from None
            raise UserError(f'{where}: {self.settings().code} cannot be used ({error}); fix: name another folder with '
                            'code=…', code='launch/bad-folder') from None

    def _send(self, steps: Steps, host: int, whole: bool) -> None:
        try:
            for step in steps.send(host, 'code' if whole else ''):
                steps.hosts.execute(host, step, seconds=SEND_TIMEOUT_S)
        except Failed as error:
            raise UserError(f'{steps.hosts.name(host)}: the code cannot be copied ({error}); fix: check that the disk is not '
                            'full', code='launch/code-not-sent') from None

    def _clear(self, steps: Steps, host: int) -> None:
        steps.hosts.execute(host, steps.clear(host), seconds=self.job.grace + 60.0)

    def _set_up(self, steps: Steps, host: int, values: dict[str, str]) -> None:
        try:
            steps.hosts.execute(host, steps.setup(host), values=values, seconds=SEND_TIMEOUT_S)
        except Failed as error:
            last = ' · '.join(error.stderr.strip().splitlines()[-3:]) or 'no output'
            raise UserError(f'{steps.hosts.name(host)}: setup={self.settings().setup}: failed ({last})',
                            code='launch/setup-failed') from None

    def _reached(self, hosts: Hosts, again: bool, do: Callable[[int], T]) -> list[T]:
        """The results of `do` for all hosts; at a restart, waits for machines that do not answer."""
        until, reported = time.monotonic() + (self.settings().wait if again else 0.0), []
        found: dict[int, T] = {}
        while True:
            left = [host for host in range(len(hosts)) if host not in found]
            missing, error = [], None
            for host, answer in zip(left, self._query_all(hosts, do, left), strict=True):
                if isinstance(answer, Unreachable):
                    missing, error = [*missing, host], error or answer
                else:
                    found[host] = answer
            if error is None:
                return [found[host] for host in range(len(hosts))]
            if time.monotonic() >= until or any(self.gone(host) for host in missing):
                raise error
            if missing != reported:
                log(f"waits for {', '.join(map(hosts.name, missing))}, for at most {until - time.monotonic():.0f} s")
                reported = missing
            time.sleep(RETRY_S)

    def _query_all(self, hosts: Hosts, do: Callable[[int], T], numbers: Sequence[int] | None = None) -> list[T | Unreachable]:
        """The result of `do` for each host, or its Unreachable."""
        def attempt(host: int) -> T | Unreachable:
            try:
                return do(host)
            except Unreachable as error:
                return error
        return hosts.each(attempt, numbers)

    def _look(self, steps: Steps, host: int) -> list[list[str]] | None:
        """The rows of `remote.sh show`, one per process; None if the job is not there."""
        lines = steps.hosts.execute(host, steps.look(host), seconds=30.0).splitlines()
        if steps.id() not in lines:
            return None
        code, *rows = lines[lines.index(steps.id()) + 1:]
        if not self._place[0]:  # another launcher has copied the code
            hash_, _, within = code.partition(' ')
            self._place = hash_, within
        return [row.split() for row in rows if int(row.split()[0]) in steps.on(host)]

    def _others(self, steps: Steps) -> base.Group:
        """The group that another launcher is starting, as soon as it exists."""
        log('another launcher restarts it; follows that start')
        until = time.monotonic() + self.settings().wait
        while time.monotonic() < until:
            answers = self._query_all(steps.hosts, lambda host: self._look(steps, host))
            begun = [int(row[5]) for rows in answers if isinstance(rows, list) for row in rows if row[1] != 'none']
            if len(begun) == len(steps.placed) and min(begun) >= self._starts:
                return self._group(steps, Logs(self.job))
            time.sleep(RETRY_S)
        raise UserError(f'{self.job.name}: another launcher claimed the restart and did not make it; fix: attach to it again',
                        code='launch/not-restarted')


def find(engine: RemoteEngine) -> Job:
    """The job of that name, from its record on the first machine that answers.

    Raises:
      UserError: no machine answers, or there is no job of that name.
    """
    hosts, silent = engine.hosts(), None
    path = f'{engine.settings().base}/jobs/{engine.job.name}/job.json'
    for host in range(len(hosts)):
        try:
            output = hosts.execute(host, Run(hosts.ssh(host, f'cat {path} 2>/dev/null || true')), seconds=30.0)
        except Unreachable as error:
            silent = error
            continue
        if '{' in output:
            return jobs.parse(json.loads(output[output.index('{'):]))
    raise silent or UserError(f"{engine.name}: no job '{engine.job.name}' there ({path})", code='launch/no-job')
