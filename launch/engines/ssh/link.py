"""The connection to one machine: `remote.sh follow` over ssh, its messages, and the signals to the processes there."""
import concurrent.futures
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.processes import Worker
from launch.engines.ssh.transport import Script
from launch.lines import log
from launch.outcome import LOST, End, from_shell

READ_BYTES = 2**16
MAX_PAUSE_S = 8.0  # between two attempts to connect
STALL_S = 30.0  # without data on an open connection, after which it is made again
GONE_CHECK_S = 15.0  # between two queries of the cloud whether a silent machine still exists
FRESH_S = 5.0  # after a connection is made: what it reports may have happened before
GREETING = b'bigjax-follow'


class Data(NamedTuple):
    """Bytes of the log of a process, from position `at` on."""

    process: int
    at: int
    data: bytes


class Messages:
    """The messages of one connection: lines of words, and after a line `D PROCESS AT LENGTH` so many bytes of a log."""

    def __init__(self):
        self.greeted, self._rest, self._left, self._at, self._process = False, b'', 0, 0, 0

    def feed(self, data: bytes) -> Iterator[Data | list[bytes]]:
        """The messages that are complete by now; `Data` also in parts. Lines before the greeting are a shell profile's own."""
        self._rest += data
        while self._rest:
            if self._left:
                part, self._rest = self._rest[:self._left], self._rest[self._left:]
                yield Data(self._process, self._at, part)
                self._left, self._at = self._left - len(part), self._at + len(part)
                continue
            line, newline, rest = self._rest.partition(b'\n')
            if not newline:
                return
            self._rest, words = rest, line.split()
            if words[:1] == [GREETING]:
                self.greeted = True
            elif self.greeted and words[:1] == [b'D']:
                self._process, self._at, self._left = map(int, words[1:4])
            if self.greeted:
                yield words


class Signals:
    """The signal for the processes of one machine: sent without blocking, and again until it has arrived."""

    def __init__(self, script: Script, host: int):
        self._script, self._host, self._sender = script, host, None
        self._wanted, self._sent, self._sending, self._resend_at = 0, 0, 0, 0.0

    def want(self, number: int) -> None:
        """The signal to send; only SIGKILL replaces an earlier one."""
        if number == signal.SIGKILL or not self._wanted:
            self._wanted = number

    def send(self, processes: Sequence[int]) -> None:
        """Sends the wanted signal to these processes, unless it has arrived or is on its way."""
        if self._sender is not None and self._sender.poll() is not None:
            arrived, self._sender = self._sender.returncode == 0, None
            self._sent = self._sending if arrived else self._sent
            self._resend_at = time.monotonic() + (0.0 if arrived else 2.0)
        if self._wanted == self._sent or self._sender is not None or not processes or time.monotonic() < self._resend_at:
            return
        self._sending = self._wanted
        name = signal.Signals(self._wanted).name.removeprefix('SIG')
        step = self._script.step(self._host, 'send', name, *map(str, processes))
        self._sender = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)

    def close(self) -> None:
        """Waits until a signal on its way has been sent."""
        if self._sender is not None:
            try:
                self._sender.wait(10)
            except subprocess.TimeoutExpired:
                self._sender.kill()
                self._sender.wait()


class GoneCheck:
    """Whether the cloud reports a silent machine as gone; queried in the background, now and then."""

    def __init__(self, pool: concurrent.futures.Executor, gone: Callable[[], bool]):
        self._pool, self._gone, self._query, self._queried = pool, gone, None, time.monotonic()

    def __call__(self, last_seen: float) -> bool:
        """Whether it is known to be gone; `last_seen` is the time of its last message."""
        now = time.monotonic()
        if self._query is not None and self._query.done():
            query, self._query = self._query, None
            return query.exception() is None and query.result() and now > last_seen + GONE_CHECK_S
        if self._query is None and now > max(last_seen, self._queried) + GONE_CHECK_S:
            self._queried, self._query = now, self._pool.submit(self._gone)
        return False


class Link:
    """The connection to one machine, made again after it has ended.

    Args:
      workers: the processes there.
      lost: seconds of silence after which the machine is lost.
      gone: the check of a silent machine, called with the time of its last message.

    Attributes:
      idle: whether all output of the machine so far has been received.
      stopped: whether the job has been marked as stopped there.
      ends: the ends of processes since this was last emptied.
    """

    def __init__(self, host: int, workers: Sequence[Worker], script: Script, logs: Logs, selector: selectors.BaseSelector,
                 lost: float, gone: Callable[[float], bool]):
        now = time.monotonic()
        self.host, self.workers = host, {worker.process: worker for worker in workers}
        self._script, self._logs, self._selector, self._lost, self._gone = script, logs, selector, lost, gone
        self.ssh: subprocess.Popen | None = None
        self.idle, self.stopped, self.ends = False, False, []
        self._messages, self._signals = Messages(), Signals(script, host)
        self._last_seen, self._made, self._retry_at, self._pause_s = now, now, now, 1.0
        self._before = now  # the time of the last message when this connection was made

    @property
    def over(self) -> bool:
        """Whether no process is left on the machine."""
        return not self._left

    @property
    def _left(self) -> list[int]:
        return [process for process, worker in self.workers.items() if worker.state != 'gone']

    def signal(self, number: int) -> None:
        """Sends a signal to all processes; a machine that does not answer gets it as soon as it does."""
        self._signals.want(number)
        self._signals.send(self._left)

    def maintain(self) -> None:
        """Connects if that is due; declares the machine lost if it has been silent for too long."""
        now = time.monotonic()
        self._signals.send(self._left)
        if self.over:
            self._disconnect()
            return
        if self.ssh is None and now >= self._retry_at:
            self._connect()
        elif self.ssh is not None and now > max(self._last_seen, self._made) + STALL_S:
            self._retry()
        if now > self._last_seen + self._lost or self._gone(self._last_seen):
            log(f'{self._script.hosts.name(self.host)} is lost: silent for {now - self._last_seen:.0f} s')
            self._lose(self._last_seen)

    def read(self) -> None:
        """Handles what has arrived; the connection is retried if it has ended."""
        if self.ssh is None:
            return
        try:
            data = os.read(self.ssh.stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._retry()
            return
        for message in self._messages.feed(data):
            if isinstance(message, Data):
                self._last_seen = time.monotonic()
                self._logs.write(message.process, message.data, message.at)
                self.workers[message.process].lines.feed(message.data)
            elif message:
                self._handle(message)
            if self.ssh is None:
                return

    def close(self) -> None:
        """Closes the connection; the processes keep running."""
        self._signals.close()
        self._disconnect()

    def _connect(self) -> None:
        self._messages, self.idle = Messages(), False
        self._before, self._made = self._last_seen, time.monotonic()
        step = self._script.step(self.host, 'follow', *(f'{p}:{max(0, self._logs.offset(p))}' for p in self._left))
        self.ssh = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    bufsize=0, start_new_session=True)
        os.set_blocking(self.ssh.stdout.fileno(), False)
        self._selector.register(self.ssh.stdout, selectors.EVENT_READ, self)

    def _disconnect(self) -> int | None:
        """Ends ssh; returns its exit code."""
        if self.ssh is None:
            return None
        self._selector.unregister(self.ssh.stdout)
        self.ssh.stdout.close()
        try:
            code = self.ssh.wait(0.2)
        except subprocess.TimeoutExpired:
            self.ssh.kill()
            code = self.ssh.wait()
        self.ssh = None
        return code

    def _retry(self) -> None:
        """Schedules another attempt. If ssh connected and the script is not there any more, nothing of the job is left."""
        code = self._disconnect()
        if not self._messages.greeted and code in (2, 126, 127):
            self._lose(time.monotonic())
        self.idle, self._retry_at = False, time.monotonic() + self._pause_s
        self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s)

    def _lose(self, when: float) -> None:
        for worker in self.workers.values():
            self._end(worker, LOST, when)
            worker.state = 'gone'
        self._disconnect()

    def _end(self, worker: Worker, code: int, when: float) -> None:
        if worker.state != 'running':  # a new connection reports an end again
            return
        worker.catch_up()
        worker.state = 'ended'
        worker.lines.end()
        self.ends.append(End(worker.process, code, when, self._script.hosts.name(self.host)))

    def _handle(self, words: Sequence[bytes]) -> None:
        """Handles one message of `remote.sh follow`."""
        what, now = words[0], time.monotonic()
        if what == GREETING:
            self._pause_s, self._last_seen = 1.0, now
            return
        worker = self.workers.get(int(words[1])) if len(words) > 1 else None
        fresh, self._last_seen = now < self._made + FRESH_S, now
        self.idle = what == b'I'
        if what == b'D':
            if int(words[2]) != self._logs.offset(worker.process):
                self._retry()
        elif what == b'T':
            self._logs.renew(worker.process)
        elif what == b'S':
            self.stopped = True
        elif what == b'E':
            code, then, its_now = int(words[2]), float(words[3]), float(words[4])
            self._end(worker, from_shell(code), now - max(0.0, its_now - then))
        elif what == b'L':
            self._end(worker, LOST, self._before if fresh else now)
        elif what == b'G':
            worker.state = 'gone'
        elif what == b'I':
            for behind in self.workers.values():
                behind.catch_up()
