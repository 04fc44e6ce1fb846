"""The parts of a start on machines that ssh reaches: each executes steps on one machine and explains a failure."""
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from bigjax.errors import UserError
from launch.engines.ssh.remote_steps import IN_USE, STOPPED, Steps
from launch.engines.ssh.transport import Hosts, Unreachable
from launch.lines import log
from launch.steps import Failed, Run

T = TypeVar('T')
RETRY_S = 5.0  # between two attempts to reach a machine
SEND_TIMEOUT_S = 3600.0  # for copying the code, and for the user's setup
LOOK = """\
cat {folder}/id 2>/dev/null && cat {folder}/code && sh {folder}/remote.sh show </dev/null
exit 0
"""


class Row(NamedTuple):
    """One process as `remote.sh show` prints it.

    Attributes:
      state: 'none' (never started), 'running', 'ended' (its children may still run), 'gone', or 'elsewhere'.
      group: the number of its process group.
      code: its exit code, '-' if there is none.
      size: bytes of its log.
      start: the number of the start that made it.
    """

    process: int
    state: str
    group: str
    code: str
    size: int
    start: int

    def __str__(self) -> str:
        """The state in words."""
        words = {'running': f'running (process group {self.group})', 'none': 'not started',
                 'ended': f'ended with exit code {self.code}; its children still run',
                 'elsewhere': 'on another machine that shares this folder',
                 'gone': f'ended with exit code {self.code}' if self.code != '-' else 'lost'}[self.state]
        return f'{words}, {self.size:,} bytes of log'


class Found(NamedTuple):
    """The job on one machine: (hash of its code, folder within it), and its processes."""

    place: tuple[str, str]
    rows: list[Row]


def look(steps: Steps, host: int) -> Found | None:
    """The job on a machine; None if it is not there."""
    text = LOOK.format(folder=steps.folder)
    lines = steps.hosts.execute(host, Run(steps.hosts.ssh(host, 'sh -s'), text), seconds=30.0).splitlines()
    if steps.id() not in lines:
        return None
    code, *shown = lines[lines.index(steps.id()) + 1:]
    hash_, _, within = code.partition(' ')
    rows = [Row(int(process), state, group, code, int(size), int(start))
            for process, state, group, code, size, start in map(str.split, shown)]
    return Found((hash_, within), [row for row in rows if row.process in steps.on(host)])


def prepare(steps: Steps, host: int) -> bool:
    """Makes the folders; returns whether the job is new there."""
    name, where = steps.job.name, steps.hosts.name(host)
    try:
        return 'new' in steps.hosts.execute(host, steps.prepare(host)).split()
    except Failed as error:
        if error.code == IN_USE:
            raise UserError(f'--name={name}: in use on {where} by a running job; fix: see '
                            f"'python -m launch status {name} --on={steps.job.on}', or choose another name",
                            code='launch/name-in-use') from None
        if error.code == STOPPED:
            raise UserError(f'{name}: stopped by another command, and not restarted', code='launch/stopped') from None
        raise UserError(f'{where}: {steps.settings.code} cannot be used ({error}); fix: name another folder with '
                        'code=…', code='launch/bad-folder') from None


def send(steps: Steps, host: int, whole: bool) -> None:
    """Copies the job's folder; with `whole` also the code."""
    try:
        for step in steps.send(host, 'code' if whole else ''):
            steps.hosts.execute(host, step, seconds=SEND_TIMEOUT_S)
    except Failed as error:
        raise UserError(f'{steps.hosts.name(host)}: the code cannot be copied ({error}); fix: check that the disk is not '
                        'full', code='launch/code-not-sent') from None


def clear(steps: Steps, host: int) -> None:
    """Ends the processes that are left of an earlier start."""
    steps.hosts.execute(host, steps.clear(host), seconds=steps.job.grace + 60.0)


def set_up(steps: Steps, host: int, values: dict[str, str]) -> None:
    """Runs the user's line of shell, with the values of --env."""
    try:
        steps.hosts.execute(host, steps.setup(host), values=values, seconds=SEND_TIMEOUT_S)
    except Failed as error:
        last = ' · '.join(error.stderr.strip().splitlines()[-3:]) or 'no output'
        raise UserError(f'{steps.hosts.name(host)}: setup={steps.settings.setup}: failed ({last})',
                        code='launch/setup-failed') from None


def on_all(hosts: Hosts, do: Callable[[int], T], wait: float, gone: Callable[[int], bool]) -> list[T]:
    """The results of `do` for all hosts; waits for those that do not answer, for `wait` seconds in all.

    Raises:
      Unreachable: one does not answer after that time, or is known to be gone.
    """
    until, reported = time.monotonic() + wait, []
    found: dict[int, T] = {}
    while True:
        left = [host for host in range(len(hosts)) if host not in found]
        missing, error = [], None
        for host, answer in zip(left, hosts.answers(do, left), strict=True):
            if isinstance(answer, Unreachable):
                missing, error = [*missing, host], error or answer
            else:
                found[host] = answer
        if error is None:
            return [found[host] for host in range(len(hosts))]
        if time.monotonic() >= until or any(gone(host) for host in missing):
            raise error
        if missing != reported:
            log(f"waits for {', '.join(map(hosts.name, missing))}, for at most {until - time.monotonic():.0f} s")
            reported = missing
        time.sleep(RETRY_S)


def started_by_another(steps: Steps, number: int) -> None:
    """Returns once another launcher has made the start of that number.

    Raises:
      UserError: it does not, within the time for which a machine is waited for.
    """
    log('another launcher restarts it; follows that start')
    until = time.monotonic() + steps.settings.wait
    while time.monotonic() < until:
        answers: Sequence = steps.hosts.answers(lambda host: look(steps, host))
        begun = [row.start for answer in answers if isinstance(answer, Found) for row in answer.rows if row.state != 'none']
        if len(begun) == len(steps.placed) and min(begun) >= number:
            return
        time.sleep(RETRY_S)
    raise UserError(f'{steps.job.name}: another launcher claimed the restart and did not make it; fix: attach to it again',
                    code='launch/not-restarted')
