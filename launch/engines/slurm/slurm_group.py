"""A job of SLURM, followed from any machine that shares its folder: its logs, its state, its end."""
import contextlib
import os
import pathlib
import signal
import subprocess
import time

from launch import outcome
from launch.engines.slurm import slurm_state
from launch.engines.slurm.slurm_script import Attempt, read_ends
from launch.job import Job
from launch.lines import Lines, Sink, log, prefix
from launch.outcome import End

MIN_POLL_S, MAX_POLL_S = 1.0, 15.0  # between two queries of SLURM: just after a change, and long after the last one
READ_BYTES = 2**16  # of a log, read at once
TAIL_BYTES = 4096  # of a log's earlier output that `attach` prints
KILL_REASONS = {'TIMEOUT': 'it did not end within the notice before its time limit', 'DEADLINE': 'it is past its deadline',
                'OUT_OF_MEMORY': 'it used more memory than it requested'}
REQUEUED = ('preempted', 'lost', 'failed')
LOST_STATES = ('NODE_FAIL', 'BOOT_FAIL', 'PREEMPTED', 'REVOKED')


class Log:
    """A growing file, whose new bytes go to `lines`."""

    def __init__(self, path: pathlib.Path, lines: Lines, whole: bool):
        self._path, self._lines, self._at = path, lines, 0
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            if not whole and size > TAIL_BYTES:
                with open(path, 'rb') as file:
                    file.seek(size - TAIL_BYTES)
                    file.readline()
                    self._at = file.tell()

    def read(self, shown: bool) -> bool:
        """Prints at most READ_BYTES bytes; returns whether there were any."""
        try:
            with open(self._path, 'rb') as file:
                file.seek(self._at)
                data = file.read(READ_BYTES)
        except OSError:
            return False
        self._at += len(data)
        if data and shown:
            self._lines.feed(data)
        return bool(data)

    def end(self) -> None:
        """Prints the last line, which has no newline."""
        self._lines.end()

    def tail(self) -> list[str]:
        """The last lines."""
        return self._lines.last()


class Group:
    """See `launch.engines.base.Group`.

    Args:
      number: SLURM's number of the job.
      folder, logs: the job's folders.
      processes: the number of processes.
      whole: print the logs from their beginning, else their last lines.

    Attributes:
      again: SLURM's restarts so far (after failures, after preemptions).
    """

    def __init__(self, job: Job, number: str, folder: pathlib.Path, logs: pathlib.Path, processes: int, *, whole: bool):
        self.only, self.idle, self.stopped, self.again = None, False, False, (0, 0)
        self._job, self._number, self._folder, self._processes = job, number, folder, processes
        out, err = Sink(1, 'stdout'), Sink(2, 'stderr')
        self._logs = {i: Log(logs / f'{i}.log', Lines(prefix(i, processes, os.isatty(1)), {out: True}), whole)
                      for i in range(processes)}
        self._own = [Log(logs / f'batch{dot}.log', Lines(b'[slurm] ', {err: True}), whole)
                     for dot in ([f'.{i}' for i in range(job.array)] if job.array else [''])]
        self._left = set(range(job.array or 1))  # tasks of the array (0: the job) that are not over
        self._restarts = dict.fromkeys(self._left, 0)
        self._seen = {task: len(_attempts(job, folder, task)) for task in self._left}
        self._state, self._pause, self._next_query, self._silent = '', MIN_POLL_S, 0.0, False

    @property
    def running(self) -> bool:
        """Whether the job is not over, or its output not printed to the end."""
        return bool(self._left) or not self.idle

    def wait(self, seconds: float) -> list[End]:
        until = time.monotonic() + seconds
        ends = []
        if self._left and time.monotonic() >= self._next_query:
            ends = self._query()
        read = [log.read(self.only in (None, i)) for i, log in self._logs.items()]
        read += [log.read(self.only is None) for log in self._own]
        self.idle = not any(read)
        if self.idle and self._left:
            for task in self._left:
                self._show_restarts(task)
            time.sleep(max(0.0, until - time.monotonic()))
        elif self.idle:
            for log in (*self._logs.values(), *self._own):
                log.end()
        return ends

    def signal(self, number: int) -> None:
        """At SIGTERM cancels pending jobs and sends it to the tasks of running ones; at SIGKILL kills srun's step and
        cancels the job, which kills the rest after SLURM's own KillWait."""
        commands = {signal.SIGTERM: [('--state=PENDING', self._number), ('--signal=TERM', self._number)],
                    signal.SIGKILL: [('--signal=KILL', f'{self._number}.0'), (self._number,)]}
        for words in commands[number]:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # scancel fails for a job that is over
                subprocess.run(['scancel', '--quiet', *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, timeout=slurm_state.TIMEOUT_S, check=False)
        self._soon()

    def stop(self) -> None:
        """Creates the file whose presence keeps the script from requeueing the job."""
        (self._folder / 'stop').touch()

    def tail(self, process: int) -> list[str]:
        return self._logs[process].tail() or [line for log in self._own for line in log.tail()]

    def close(self) -> None:
        """Does nothing: the job keeps running."""

    def _soon(self) -> None:
        self._pause, self._next_query = MIN_POLL_S, 0.0

    def _show_restarts(self, task: int) -> None:
        """Prints the restarts since the last call, from the script's record."""
        attempts = _attempts(self._job, self._folder, task)
        for count, attempt in enumerate(attempts[self._seen[task]:], self._seen[task] + 1):
            if attempt.then in REQUEUED:
                failed = attempt.then == 'failed'
                done = sum(other.then in REQUEUED and (other.then == 'failed') == failed for other in attempts[:count])
                limit = self._job.restarts if failed else self._job.preemptions
                cause = 'a node does not answer' if attempt.then == 'lost' else self._ended(attempt, task)
                log(f"{cause}; SLURM restarts it in about two minutes: {'restart' if failed else 'preemption'} {done} of "
                    f'{limit}')
            self._soon()
        self._seen[task] = len(attempts)

    def _query(self) -> list[End]:
        """Queries the state; returns the ends of the tasks that are over."""
        self._next_query = time.monotonic() + self._pause
        self._pause = min(MAX_POLL_S, 1.3 * self._pause)
        states = slurm_state.queued(self._number)
        if (states is None) != self._silent:
            self._silent = states is None
            log('no answer from SLURM (squeue), retrying' if self._silent else 'SLURM answers again')
        if states is None:
            return []
        words = [str(states[task]) for task in sorted(self._left & states.keys())]
        text = ', '.join(f'{words.count(word)} × {word}' if self._job.array else word for word in dict.fromkeys(words))
        if text and text != self._state:
            self._state, self._pause = text, MIN_POLL_S
            log(f'SLURM job {self._number}: {text}')
        if not self._left - states.keys():
            return []
        found = slurm_state.over(self._number)
        ends = [end for task in sorted(self._left - states.keys()) for end in self._over(task, found.get(task))]
        self._left &= states.keys()
        return ends

    def _over(self, task: int, last: slurm_state.Over | None) -> list[End]:
        """The end of a task, from the script's record, or without one from SLURM's."""
        self._show_restarts(task)
        attempts = _attempts(self._job, self._folder, task)
        failed = sum(attempt.then == 'failed' for attempt in attempts)
        again = sum(attempt.then in REQUEUED for attempt in attempts)
        restarts = last.restarts if last and last.restarts is not None else again
        self.again = self.again[0] + failed, self.again[1] + max(0, restarts - failed)
        name = last.name if last else ''
        self.stopped = self.stopped or name == 'CANCELLED' or (self._folder / 'stop').exists()
        now = time.monotonic()
        if attempts and attempts[-1].then in ('over', 'left') and name not in LOST_STATES:
            end = self._ended(attempts[-1], task)
        elif name in KILL_REASONS:
            log(f'SLURM job {self._number}: {name}: {KILL_REASONS[name]}')
            end = End(task, -signal.SIGKILL, now)
        elif name == 'CANCELLED':
            end = End(task, -signal.SIGTERM, now)
        elif last is None or name in LOST_STATES:
            if last is None and not attempts:
                log(f'{self._folder}: the job wrote nothing there; fix: if the nodes do not share this folder, set BIGJAX_JOBS '
                    'to one that they do')
            end = End(task, outcome.LOST, now)
        else:
            end = End(task, -last.signal if last.signal else last.code, now)
        if end.code == outcome.DONE and not self._job.array:
            return [End(process, outcome.DONE, now) for process in range(self._processes)]
        return [end]

    def _ended(self, attempt: Attempt, task: int) -> End:
        """The end of an attempt, with the exit code as Python writes it."""
        process = task if self._job.array else min(attempt.task, self._processes - 1)
        return End(process, outcome.from_shell(attempt.code), time.monotonic(), attempt.where)


def _attempts(job: Job, folder: pathlib.Path, task: int) -> list[Attempt]:
    """The attempts of a task that the script has recorded."""
    try:
        return read_ends((folder / (f'ends.{task}' if job.array else 'ends')).read_text())
    except OSError:
        return []
