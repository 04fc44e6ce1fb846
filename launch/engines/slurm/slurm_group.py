"""A job of SLURM, followed from anywhere that sees its folder: the logs from where they were, its state, its end."""
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
from launch.lines import Lines, Sink, prefix, say
from launch.outcome import End

SOON, LATE = 1.0, 15.0  # seconds between two questions to SLURM: after something has happened, and when nothing has for long
CHUNK = 2**16  # bytes of a log that are read at once
LAST = 4096  # bytes of a log that are shown of what was written before
KILLED = {'TIMEOUT': 'it did not end within the notice before its time limit', 'DEADLINE': 'it is past its deadline',
          'OUT_OF_MEMORY': 'it used more memory than it asked for'}
AGAIN = ('preempted', 'lost', 'failed')
GONE = ('NODE_FAIL', 'BOOT_FAIL', 'PREEMPTED', 'REVOKED')


class Log:
    """A file that grows: its new bytes go to `lines`."""

    def __init__(self, path: pathlib.Path, lines: Lines, whole: bool):
        self._path, self._lines, self._at = path, lines, 0
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            if not whole and size > LAST:
                with open(path, 'rb') as file:
                    file.seek(size - LAST)
                    file.readline()
                    self._at = file.tell()

    def read(self, shown: bool) -> bool:
        """Passes on at most CHUNK bytes; whether there were any."""
        try:
            with open(self._path, 'rb') as file:
                file.seek(self._at)
                data = file.read(CHUNK)
        except OSError:
            return False
        self._at += len(data)
        if data and shown:
            self._lines.feed(data)
        return bool(data)

    def end(self) -> None:
        """What has no newline is a line."""
        self._lines.end()

    def tail(self) -> list[str]:
        """The last lines."""
        return [line.decode(errors='replace') for line in self._lines.tail]


class Group:
    """See `launch.engines.base.Group`.

    Args:
      number: SLURM's, of the job.
      folder, logs: of the job.
      processes: how many there are.
      whole: the logs from their beginning, else their last lines.

    Attributes:
      again: (after failures, after preemptions): how often SLURM has started it again.
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
        self._seen = {task: len(self._attempts(task)) for task in self._left}
        self._state, self._pause, self._due, self._silent = '', SOON, 0.0, False

    @property
    def running(self) -> bool:
        """Whether it is not over, or not all of its output has been passed on."""
        return bool(self._left) or not self.idle

    def wait(self, seconds: float) -> list[End]:
        until = time.monotonic() + seconds
        ends = []
        if self._left and time.monotonic() >= self._due:
            ends = self._ask()
        read = [log.read(self.only in (None, i)) for i, log in self._logs.items()]
        read += [log.read(self.only is None) for log in self._own]
        self.idle = not any(read)
        if self.idle and self._left:
            for task in self._left:
                self._tell(task)
            time.sleep(max(0.0, until - time.monotonic()))
        elif self.idle:
            for log in (*self._logs.values(), *self._own):
                log.end()
        return ends

    def signal(self, number: int) -> None:
        """SIGTERM: to the tasks of what runs, and what waits never runs. SIGKILL: srun's step is killed, and
        the job is cancelled, which kills what else there is after SLURM's own KillWait."""
        commands = {signal.SIGTERM: [('--state=PENDING', self._number), ('--signal=TERM', self._number)],
                    signal.SIGKILL: [('--signal=KILL', f'{self._number}.0'), (self._number,)]}
        for words in commands[number]:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # what is over cannot be cancelled
                subprocess.run(['scancel', '--quiet', *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, timeout=slurm_state.SECONDS, check=False)
        self._soon()

    def stop(self) -> None:
        """The script looks for this file before it has a job started again."""
        (self._folder / 'stop').touch()

    def tail(self, process: int) -> list[str]:
        return self._logs[process].tail() or [line for log in self._own for line in log.tail()]

    def close(self) -> None:
        """The job goes on."""

    def _soon(self) -> None:
        self._pause, self._due = SOON, 0.0

    def _attempts(self, task: int) -> list[Attempt]:
        try:
            return read_ends((self._folder / (f'ends.{task}' if self._job.array else 'ends')).read_text())
        except OSError:
            return []

    def _tell(self, task: int) -> None:
        """What has happened to it meanwhile, from its file."""
        attempts = self._attempts(task)
        for count, attempt in enumerate(attempts[self._seen[task]:], self._seen[task] + 1):
            if attempt.then in AGAIN:
                failed = attempt.then == 'failed'
                done = sum(other.then in AGAIN and (other.then == 'failed') == failed for other in attempts[:count])
                limit = self._job.restarts if failed else self._job.preemptions
                cause = 'a node does not answer' if attempt.then == 'lost' else self._end(attempt, task)
                say(f"{cause}; SLURM starts it again, in about two minutes: {'restart' if failed else 'preemption'} {done} of "
                    f'{limit}')
            self._soon()
        self._seen[task] = len(attempts)

    def _ask(self) -> list[End]:
        """Its state; the ends of what is over."""
        self._due = time.monotonic() + self._pause
        self._pause = min(LATE, 1.3 * self._pause)
        states = slurm_state.queued(self._number)
        if (states is None) != self._silent:
            self._silent = states is None
            say('SLURM does not answer (squeue); it is asked again' if self._silent else 'SLURM answers again')
        if states is None:
            return []
        words = [str(states[task]) for task in sorted(self._left & states.keys())]
        text = ', '.join(f'{words.count(word)} × {word}' if self._job.array else word for word in dict.fromkeys(words))
        if text and text != self._state:
            self._state, self._pause = text, SOON
            say(f'SLURM job {self._number}: {text}')
        if not self._left - states.keys():
            return []
        found = slurm_state.over(self._number)
        ends = [end for task in sorted(self._left - states.keys()) for end in self._over(task, found.get(task))]
        self._left &= states.keys()
        return ends

    def _over(self, task: int, last: slurm_state.Over | None) -> list[End]:
        """How it has ended, from the script's record, and where there is none, from SLURM's."""
        self._tell(task)
        attempts = self._attempts(task)
        failed = sum(attempt.then == 'failed' for attempt in attempts)
        again = sum(attempt.then in AGAIN for attempt in attempts)
        restarts = last.restarts if last and last.restarts is not None else again
        self.again = self.again[0] + failed, self.again[1] + max(0, restarts - failed)
        name = last.name if last else ''
        self.stopped = self.stopped or name == 'CANCELLED' or (self._folder / 'stop').exists()
        now = time.monotonic()
        if attempts and attempts[-1].then in ('over', 'left') and name not in GONE:
            end = self._end(attempts[-1], task)
        elif name in KILLED:
            say(f'SLURM job {self._number}: {name}: {KILLED[name]}')
            end = End(task, -signal.SIGKILL, now)
        elif name == 'CANCELLED':
            end = End(task, -signal.SIGTERM, now)
        elif last is None or name in GONE:
            if last is None and not attempts:
                say(f'{self._folder}: the job has left nothing there; do all nodes see this folder? if not, set BIGJAX_JOBS to '
                    'one that they see')
            end = End(task, outcome.LOST, now)
        else:
            end = End(task, -last.signal if last.signal else last.code, now)
        if end.code == outcome.DONE and not self._job.array:
            return [End(process, outcome.DONE, now) for process in range(self._processes)]
        return [end]

    def _end(self, attempt: Attempt, task: int) -> End:
        """As the launcher counts exit codes."""
        code = 128 - attempt.code if 128 < attempt.code <= 192 else attempt.code
        return End(task if self._job.array else min(attempt.task, self._processes - 1), code, time.monotonic(), attempt.where)
