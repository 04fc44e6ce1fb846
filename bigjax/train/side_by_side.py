"""Rows of a table as processes side by side: rows that do not fill the machine take the time of the longest ones.

Each row is the command that trains it alone, and everything that it prints appears in the order of the table. A row may use all
cores: with fewer threads XLA adds up in another order, and the table would have other numbers than rows one after the other.
The rows stop as one: a signal to this process reaches them all, and where one fails the others are asked to save. However this
process ends, a row does not outlive it: it ends when the pipe that it holds is closed.
"""
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

from bigjax.distributed import accelerators
from bigjax.errors import DONE, NO, PREEMPTED, Preempted
from bigjax.train.job import Job, without

POLL_S = 0.05
LIFE = 'BIGJAX_LIFE'  # the file descriptor, in a row, of the pipe whose end is the end of this process
FROM_ABOVE = ('--workdir', '--variant', '--jobs')


class Ended(Exception):
    """A row ended without having been trained: (exit code, what it wrote to stderr)."""


class Row(NamedTuple):
    """A row that was started."""

    name: str
    process: subprocess.Popen
    out: IO[bytes]
    err: IO[bytes]
    began: float


def wanted(job: Job, jobs: int) -> int:
    """How many rows to train at once: as many as there are cores, on a CPU; one where rows would share an accelerator."""
    if len(job.rows) < 2 or job.joined.processes > 1 or not getattr(job.module, '__file__', ''):
        return 1
    if jobs:
        return min(jobs, len(job.rows))
    on_cpu = (job.platform or os.environ.get('JAX_PLATFORMS', '')) == 'cpu' or not accelerators.accelerators()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(cores, len(job.rows)) if on_cpu else 1


def train(job: Job, jobs: int) -> None:
    """Trains every row, `jobs` at a time; returns when all are done.

    Raises:
      Preempted: this process or a row was asked to stop; every row has saved its state.
      Ended: a row failed; the others have saved their state.
    """
    waiting = list(reversed(job.rows))  # tables go from small to large, and the longest row should not begin last
    running: dict[int, Row] = {}
    output = {row: (tempfile.TemporaryFile(), tempfile.TemporaryFile()) for row in job.rows}  # noqa: SIM115
    head = f'{len(job.rows)} rows, {jobs} at a time; they are printed in this order: {" ".join(job.rows)}\n'
    printed = _Printed(head, [output[row][0] for row in job.rows])
    done: set[str] = set()
    read_end, write_end = os.pipe()
    try:
        with job.guard.interruptible():
            while waiting or running:
                for slot in range(jobs):
                    if waiting and slot not in running:
                        row = waiting.pop(0)
                        running[slot] = _start(job, row, output[row], read_end)
                time.sleep(POLL_S)
                for slot, row in list(running.items()):
                    if (code := row.process.poll()) is None:
                        continue
                    del running[slot]
                    if code not in (DONE, NO):
                        raise Ended(code, _text(row.err))
                    done.add(row.name)
                printed.up_to([row in done for row in job.rows])
    except BaseException as error:
        _stop(running.values(), job.grace)
        printed.up_to([True] * len(job.rows))
        if isinstance(error, Ended) and error.args[0] != PREEMPTED:
            raise
        if isinstance(error, Exception) and not isinstance(error, Ended):
            raise
        raise Preempted('asked to stop; every row has saved its state, and the same command resumes them') from None
    finally:
        os.close(read_end)
        os.close(write_end)
        for files in output.values():
            for file in files:
                file.close()


class _Printed:
    """Prints the output of rows in their order: that of the first row that is not done live, the next ones when it is done.

    Args:
      head: printed before the first output; a row that is refused has none.
    """

    def __init__(self, head: str, files: Sequence[IO[bytes]]):
        self._head, self._files, self._at, self._row = head, files, 0, 0

    def up_to(self, done: Sequence[bool]) -> None:
        """Prints what is new."""
        while self._row < len(self._files):
            data = os.pread(self._files[self._row].fileno(), 1 << 24, self._at)
            self._at += len(data)
            sys.stdout.write((self._head if data else '') + data.decode(errors='replace'))
            self._head = '' if data else self._head
            sys.stdout.flush()
            if data or not done[self._row]:
                return
            self._row, self._at = self._row + 1, 0


def _start(job: Job, row: str, files, life: int) -> Row:
    """Starts one row."""
    rest = [arg for arg in without(job.argv, *FROM_ABOVE) if arg != 'train']
    command = [sys.executable, *job.program, 'train', f'--variant={row}', f'--workdir={job.workdir(row)}', *rest]
    process = subprocess.Popen(command, stdout=files[0], stderr=files[1], stdin=subprocess.DEVNULL, pass_fds=(life,),
                               env={**os.environ, LIFE: str(life)}, start_new_session=True)
    return Row(row, process, *files, time.monotonic())


def _stop(rows, grace: float) -> None:
    """Sends SIGTERM, on which rows save and end; after `grace` seconds they are killed."""
    for row in rows:
        with contextlib.suppress(OSError):
            row.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + grace
    for row in rows:
        try:
            row.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            row.process.kill()
            row.process.wait()


def _text(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), 1 << 20, 0).decode(errors='replace').strip()


def end_with_parent() -> None:
    """In a row: a thread that stops this process (SIGTERM, so that it saves) when the process that started it has ended."""
    if not (life := os.environ.pop(LIFE, '')):
        return

    def wait():
        with contextlib.suppress(OSError):
            os.read(int(life), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name='life', daemon=True).start()
