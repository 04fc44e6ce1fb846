"""The engine `local`: N processes of a command on this machine, which meet on a free port of the loopback address.

Each runs under `launch/child.py` in a session and process group of its own: Ctrl-C in a terminal reaches the launcher alone, a
signal reaches everything that a process has started, and the processes of a killed launcher are killed.
"""
import contextlib
import dataclasses
import datetime
import os
import pathlib
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError
from launch.engines import base
from launch.job import Job
from launch.lines import Lines, Sink, log, prefix
from launch.outcome import End
from launch.steps import Run
from launch.target import text

CHILD = pathlib.Path(__file__).parents[1] / 'child.py'
READ_BYTES, PIPE_BYTES = 2**16, 2**20  # read at once; the most that a pipe holds after its last writer is gone
VARIABLES = ('BIGJAX_COORDINATOR', 'BIGJAX_PROCESSES', 'BIGJAX_PROCESS')
SHARE = 'BIGJAX_SHARE'


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=local:…"""

    processes: int = text('processes on this machine; of a sweep, runs side by side', 1)


class Engine(base.Engine):
    """`processes` copies of a command, which end with the launcher."""

    kind, detached, Target = 'local', False, Target
    cost = 'nothing; all processes end with this launcher'

    def __init__(self, job: Job):
        super().__init__(job)
        if self.target.processes < 1:
            raise UserError(f'--on={job.on}: got {self.target.processes} processes, expected 1 or more; fix: write for example '
                            '--on=local:2', code='launch/bad-value')
        self._logs = pathlib.Path(job.logs).expanduser() if job.logs else None

    @property
    def name(self) -> str:
        return f'local:{self.workers}'

    @property
    def workers(self) -> int:
        return self.job.array or self.target.processes

    def shares(self, runs: int) -> int:
        return self.target.processes

    def check(self) -> None:
        base.require(self.job.command[0], 'check its name and PATH, or write its full path')
        self.job.values()

    def variables(self) -> list[dict[str, str]]:
        """The extra environment of each process, with a port that is free now; empty for a single process."""
        if self.job.array:
            return [{SHARE: f'{process}/{self.workers}'} for process in range(self.workers)]
        if self.workers == 1:
            return [{}]
        values = f'127.0.0.1:{free_port()}', str(self.workers)
        return [dict(zip(VARIABLES, (*values, str(process)), strict=True)) for process in range(self.workers)]

    def plan(self) -> list[Run]:
        """The command of each process."""
        return [Run((*(('env', *(f'{key}={value}' for key, value in more.items())) if more else ()), *self.job.command))
                for more in self.variables()]

    def start(self) -> 'Group':
        """Starts all processes, or none.

        Raises:
          UserError: a log cannot be written.
        """
        own = (*VARIABLES, SHARE)
        group, inherited = Group(self.job.grace), {k: v for k, v in os.environ.items() if k not in own}
        outs = [Sink(1, 'stdout'), Sink(2, 'stderr')]
        try:
            for process, more in enumerate(self.variables()):
                kept = {self._open_log(process): False} if self._logs else {}
                lines = [Lines(prefix(process, self.workers, os.isatty(fd)), {out: True, **kept})
                         for fd, out in enumerate(outs, 1)]
                group.add(process, self.job.command, {**inherited, **more}, lines, [sink.fd for sink in kept])
        except BaseException:
            group.close()
            raise
        log(f"{self.name} runs in process group{'s' * (self.workers > 1)} {' '.join(map(str, group.numbers))}")
        return group

    def _open_log(self, process: int) -> Sink:
        """Opens a log to append to it, after a line for this start."""
        path = self._logs / f'{process}.log'
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            sink = Sink(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), str(path))
        except OSError as error:
            raise UserError(f'--logs={self._logs}: cannot be written ({error.strerror}); fix: name another folder',
                            code='launch/not-writable') from None
        now = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
        sink.write(f'--- {now} process {process} of {self.workers}: {shlex.join(self.job.command)}\n'.encode())
        return sink


def free_port() -> int:
    """A free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@dataclasses.dataclass
class Worker:
    """One process under its `child.py`.

    Attributes:
      life: this side of the socket pair; closing it kills the group.
      streams: {file descriptor: its lines} of stdout and stderr, until every writer has closed them.
      lines: those of stdout and of stderr.
      files: file descriptors to close at the end.
      end: set when the command has ended; its children may still run.
      gone: no process of the group is left, and the system may reuse its number.
    """

    number: int
    process: subprocess.Popen
    life: socket.socket
    streams: dict[int, Lines]
    lines: Sequence[Lines]
    files: Sequence[int]
    end: End | None = None
    gone: bool = False

    def signal(self, number: int) -> None:
        """Sends a signal to the whole group, unless its number may belong to another one by now."""
        if not self.gone and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def closed(self, grace: float) -> bool:
        """Whether its output is closed after its end, or the grace for closing it is over."""
        return self.end is not None and (not self.streams or time.monotonic() > self.end.when + grace)


class Group:
    """The running processes of a job."""

    idle, stopped = False, False

    def __init__(self, grace: float):
        self._workers, self._selector, self._grace = [], selectors.DefaultSelector(), grace
        self._sent: set[int] = set()

    def add(self, number: int, command: Sequence[str], env: Mapping[str, str], lines: Sequence[Lines],
            files: Sequence[int] = ()) -> None:
        """Starts a process; `lines` are those of stdout and stderr, `files` are closed when it has ended."""
        own_end, child_end = socket.socketpair()
        with child_end:
            wrapped = [sys.executable, '-I', '-S', str(CHILD), str(child_end.fileno()), *command]
            process = subprocess.Popen(wrapped, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0,
                                       stderr=subprocess.PIPE, pass_fds=[child_end.fileno()], start_new_session=True)
        pipes = [process.stdout, process.stderr]
        worker = Worker(number, process, own_end, {p.fileno(): l for p, l in zip(pipes, lines, strict=True)}, lines, files)
        self._workers.append(worker)
        for fd in (own_end.fileno(), *worker.streams):
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, worker)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the process groups."""
        return [worker.process.pid for worker in self._workers]

    @property
    def running(self) -> bool:
        """Whether any process is left."""
        return not all(worker.gone for worker in self._workers)

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns the ends since the last call."""
        ends = []
        for key, _ in self._selector.select(seconds):
            worker: Any = key.data
            if key.fd in worker.streams:
                self._read(worker, key.fd)
            elif worker.end is None:
                worker.end = self._ended(worker)
                ends.append(worker.end)
        for worker in self._workers:
            if not worker.gone and worker.closed(0.0 if signal.SIGKILL in self._sent else self._grace):
                self._reap(worker)
        return ends

    def signal(self, number: int) -> None:
        """Sends a signal to all groups."""
        self._sent.add(number)
        for worker in self._workers:
            worker.signal(number)

    def tail(self, process: int) -> list[str]:
        """The last lines of one process: of stderr, or of stdout if it wrote nothing there."""
        out, err = next(worker.lines for worker in self._workers if worker.number == process)
        return err.last() or out.last()

    def close(self) -> None:
        """Kills what is left; prints every line that was written before."""
        self.signal(signal.SIGKILL)
        for worker in self._workers:
            if not worker.gone:
                self._reap(worker)
        self._selector.close()

    def _read(self, worker: Worker, fd: int) -> int:
        """The number of bytes read; drops a stream at its end."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            worker.streams[fd].feed(data)
        else:
            self._drop(worker, fd)
        return len(data)

    def _drop(self, worker: Worker, fd: int) -> None:
        self._selector.unregister(fd)
        worker.streams.pop(fd).end()

    def _ended(self, worker: Worker) -> End:
        """The end that `child.py` reports, or its own death; sends SIGTERM to what the command left running."""
        self._selector.unregister(worker.life)
        report = worker.life.recv(100)
        if report:
            code, when = report.split()
            end = End(worker.number, int(code), float(when))
            if signal.SIGTERM not in self._sent:
                worker.signal(signal.SIGTERM)
            return end
        when = time.monotonic()
        worker.signal(signal.SIGKILL)
        return End(worker.number, worker.process.wait(), when)

    def _reap(self, worker: Worker) -> None:
        worker.signal(signal.SIGKILL)
        worker.gone = True
        worker.process.wait()
        for fd in list(worker.streams):
            left = PIPE_BYTES
            while left > 0 and (count := self._read(worker, fd)):
                left -= count
            if fd in worker.streams:  # a process that left the group still holds it
                self._drop(worker, fd)
        for file in (worker.process.stdout, worker.process.stderr, worker.life):
            file.close()
        for fd in worker.files:
            os.close(fd)
