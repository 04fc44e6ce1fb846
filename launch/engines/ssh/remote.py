"""Engines whose processes run detached on machines that ssh reaches (`ssh`, `tpu_vm`).

The code is copied (`launch.engines.ssh.bundle`), a script there starts each process in a session of its own and keeps its log
and exit code (`remote.sh`), a group follows them (`launch.engines.ssh.follow`). Each machine has one folder:

    ~/.bigjax/code/HASH/        the copied code
    ~/.bigjax/jobs/NAME/        job.json  remote.sh  id  code  stop  claims/  0.log  0.pid  0.rc
"""
import contextlib
import json
import pathlib
import re
from collections.abc import Sequence

from bigjax.errors import UserError
from launch import job as jobs
from launch.engines import base
from launch.engines.ssh import bundle, deploy
from launch.engines.ssh.deploy import Found
from launch.engines.ssh.follow import Group
from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.machines import Machines
from launch.engines.ssh.remote_steps import Steps
from launch.engines.ssh.transport import Hosts, Unreachable
from launch.job import Job
from launch.lines import log
from launch.steps import Failed, Run, Step

ALIVE = ('running', 'ended')


class RemoteEngine(base.Engine):
    """The base of engines over ssh.

    A subclass sets `machines`, and may extend `check`, `start` (allocate, then super().start()), `plan` (its own steps, then
    super().plan()), `down` and `exists`.
    """

    machines: Machines

    def __init__(self, job: Job):
        super().__init__(job)
        self._begun, self._starts = False, 0  # whether started or attached before; number of the last start
        self._bundle: bundle.Bundle | None = None
        self._place = '', '.'

    @property
    def code(self) -> str:
        return f'a copy of {self._collected()}'

    @property
    def workers(self) -> int:
        return self.machines.workers

    def shares(self, runs: int) -> int:
        return self.machines.shares

    def check(self) -> None:
        for program, package in (('ssh', 'openssh-client'), ('rsync', 'rsync')):
            base.require(program, f'install it (apt install {package})')
        if not re.fullmatch(r'(~/|/)?[\w.+-]+(/[\w.+-]+)*/?', self.machines.settings.code):
            raise UserError(f'--on={self.job.on}: code={self.machines.settings.code}: expected a folder without spaces; fix: '
                            'write one in the home folder (~/.bigjax), or an absolute one', code='launch/bad-folder')
        self.job.values()
        self._collected()

    def plan(self) -> Sequence[Step]:
        machines, hosts, sent = self.machines, self.machines.planned(), self._collected()
        steps, numbers = self._steps(hosts), range(len(hosts))
        port = 'PORT' if machines.meets else ''
        copied = f'the code: {sent}, as it is now, in a copy at {self.job.folder}/code/{sent.hash}'
        return [*steps.files(),
                *(steps.prepare(host) for host in numbers), *(step for host in numbers for step in steps.send(host, copied)),
                steps.script.step(0, 'claim', '1', why='of several launchers that follow this job, one starts it again'),
                *(steps.clear(host) for host in numbers),
                *(steps.setup(host) for host in numbers if machines.settings.setup),
                *([steps.script.step(0, 'port', why='prints a free PORT')] if port else []),
                *(steps.start(p, 1, machines.variables(p, machines.coordinator(hosts, port))) for p in steps.placed),
                *(steps.follow(host) for host in numbers if steps.on(host))]

    def start(self) -> base.Group:
        machines, values = self.machines, self.job.values()
        again, hosts = self._begun, machines.hosts()
        if not again:
            bundle.keep(self._collected(), self.job.folder)
        steps = self._steps(hosts)
        on_all = lambda do: deploy.on_all(hosts, do, machines.settings.wait if again else 0.0, machines.gone)
        fresh = on_all(lambda host: deploy.prepare(steps, host))
        for file in steps.files():
            pathlib.Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(file.path).write_text(file.text)
        whole = (self.job.folder / 'code' / steps.place[0]).exists()  # else another machine's launcher has copied it
        on_all(lambda host: deploy.send(steps, host, whole))
        self._starts += 1
        if 'granted' not in steps.script.query(0, 'claim', str(self._starts)).split():
            deploy.started_by_another(steps, self._starts)
            return self._group(steps, Logs(self.job))
        logs = Logs(self.job)
        for process, host in steps.placed.items():
            if fresh[host]:
                logs.renew(process)
        try:
            on_all(lambda host: deploy.clear(steps, host))
            if machines.settings.setup:
                hosts.each(lambda host: deploy.set_up(steps, host, values))
            place = machines.coordinator(hosts, steps.script.query(0, 'port').split()[-1] if machines.meets else '')
            hosts.each(lambda host: [hosts.execute(host, steps.start(p, self._starts, machines.variables(p, place)),
                                                   values=values) for p in steps.on(host)])
        except BaseException as error:
            with contextlib.suppress(UserError, Failed):
                hosts.answers(lambda host: deploy.clear(steps, host))
            if isinstance(error, Failed):
                raise UserError(f"{self.name}: {' '.join(error.stderr.split()) or error}", code='launch/start-failed') from None
            raise
        self._begun = True
        log(f'{self.name} runs {self.job.name} in {steps.folder}' + (f'; its processes meet at {place}' if place else ''))
        return self._group(steps, logs)

    def attach(self, *, whole: bool = False) -> base.Group:
        hosts, found = self._look()
        silent = [answer for answer in found if isinstance(answer, Unreachable)]
        if len(silent) == len(found):
            raise silent[0]
        if not any(isinstance(answer, Found) for answer in found):
            raise UserError(f'{self.job.name}: nothing of it is on {self.name}; fix: remove its record with '
                            f"'python -m launch down {self.job.name}'", code='launch/no-job')
        for error in silent:
            log(f'{error}; continues without it for now')
        steps = self._steps(hosts)
        with contextlib.suppress(Unreachable, ValueError):
            self._starts = int(steps.script.query(0, 'claimed') or 0)
        self._begun = True
        return self._group(steps, Logs(self.job), show='whole' if whole else 'last')

    def status(self) -> list[str]:
        hosts, found = self._look()
        lines = [f'{self.job.name}: {jobs.line(self.job.command)} on {self.name}, since {self.job.created}']
        for process, host in self.machines.placed(hosts).items():
            answer, words = found[host], 'not started'
            if isinstance(answer, Unreachable):
                words = f'? ({answer})'
            elif answer is not None:
                words = next((str(row) for row in answer.rows if row.process == process), words)
            lines.append(f'process {process} on {hosts.name(host)}: {words}')
        return lines

    def down(self) -> list[str]:
        hosts, found = self._look()
        steps, done = self._steps(hosts), []
        for host, answer in enumerate(found):
            for row in answer.rows if isinstance(answer, Found) else ():
                if row.state in ALIVE:
                    raise UserError(f'{hosts.name(host)}: process {row.process} still runs; fix: stop it first with '
                                    f"'python -m launch kill {self.job.name}'", code='launch/still-running')
        holders = [host for host, answer in enumerate(found) if isinstance(answer, Found)]
        removed = hosts.answers(lambda host: steps.script.query(host, 'down'), holders)
        for host, output in zip(holders, removed, strict=True):
            found[host] = output if isinstance(output, Unreachable) else None
            done += [] if isinstance(output, Unreachable) else [f'{hosts.name(host)}: {line}' for line in output.splitlines()]
        done += [f'{answer}; its files are left there' for answer in found if isinstance(answer, Unreachable)]
        return done or [f'nothing of it is on {self.name}']

    def _steps(self, hosts: Hosts) -> Steps:
        return Steps(self.job, self.machines.settings, hosts, self._place, self.machines.placed(hosts))

    def _group(self, steps: Steps, logs: Logs, show: str = 'new') -> Group:
        return Group(steps.script, steps.placed, logs, show=show, lost=steps.settings.lost, gone=self.machines.gone)

    def _collected(self) -> bundle.Bundle:
        """The code to copy, collected once, so that the plan and the start agree."""
        if self._bundle is None:
            self._bundle = bundle.collect(pathlib.Path.cwd(), self.machines.settings.limit)
            self._place = self._bundle.hash, self._bundle.within
        return self._bundle

    def _look(self) -> tuple[Hosts, list[Found | Unreachable | None]]:
        """The machines, and the job on each of them."""
        hosts = self.machines.hosts()
        steps = self._steps(hosts)
        found = hosts.answers(lambda host: deploy.look(steps, host))
        if not self._place[0]:  # another launcher has copied the code
            self._place = next((answer.place for answer in found if isinstance(answer, Found)), self._place)
        return hosts, found


def find(engine: RemoteEngine) -> Job:
    """The job of that name, from its record on the first machine that answers.

    Raises:
      UserError: no machine answers, or there is no job of that name.
    """
    hosts, silent = engine.machines.hosts(), None
    path = f'{engine.machines.settings.base}/jobs/{engine.job.name}/job.json'
    for host in range(len(hosts)):
        try:
            output = hosts.execute(host, Run(hosts.ssh(host, f'cat {path} 2>/dev/null || true')), seconds=30.0)
        except Unreachable as error:
            silent = error
            continue
        if '{' in output:
            return jobs.parse(json.loads(output[output.index('{'):]))
    raise silent or UserError(f"{engine.name}: no job '{engine.job.name}' there ({path})", code='launch/no-job')
