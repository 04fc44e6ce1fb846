"""A group of processes on machines that ssh reaches, followed by `remote.sh follow` over one connection per machine.

The local log of a process is a byte-for-byte copy of the remote one, so that after a cut, and for the next launcher, the
transfer resumes at the size of the local file. A connection that ends is retried after 1, 2, 4, 8 … seconds. A machine that is
silent for `lost` seconds is lost with its processes, as of the time of its last message.
"""
import concurrent.futures
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

from bigjax.errors import UserError
from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.transport import Script, Unreachable
from launch.lines import COLOURS, Lines, Sink, log
from launch.outcome import LOST, End, from_shell

READ_BYTES = 2**16
MAX_PAUSE_S = 8.0  # between two attempts to connect
STALL_S = 30.0  # without data on an open connection, after which it is made again
GONE_CHECK_S = 15.0  # between two queries of the cloud whether a silent machine still exists
GREETING = b'bigjax-follow'


class Gate(Sink):
    """The terminal; writes are dropped while `shut`."""

    shut = False

    def write(self, data: bytes) -> None:
        """Writes all of the data, or drops it."""
        if not self.shut:
            super().write(data)


class Worker:
    """One process.

    Attributes:
      state: 'running', 'ended' (its children may still run), or 'gone'.
      behind: its earlier output is still being transferred; nothing is printed until that is complete.
    """

    def __init__(self, process: int, where: str, alone: bool, behind: bool):
        name, colour = f'[{process} {where}]', COLOURS[process % len(COLOURS)]
        self.prefix = b'' if alone else (f'\x1b[{colour}m{name}\x1b[0m ' if os.isatty(1) else f'{name} ').encode()
        self.process, self.state, self.behind, self.gate = process, 'running', behind, Gate(1, 'stdout')
        self.lines = Lines(self.prefix, {self.gate: True})


class Link:
    """The connection to one machine.

    Attributes:
      last_seen: the time of its last message; before: its value when this connection was made.
      wanted, sent: the signal to send to its processes, and the one that they have received.
    """

    def __init__(self, host: int, workers: list[Worker]):
        now = time.monotonic()
        self.host, self.workers = host, {worker.process: worker for worker in workers}
        self.ssh: subprocess.Popen | None = None
        self.last_seen, self.before, self.made, self.gone_checked = now, now, now, now
        self.retry_at, self.pause, self.idle, self.greeted = now, 1.0, False, False
        self.buffer, self.left, self.at, self.writer = b'', 0, 0, workers[0]
        self.wanted, self.sent, self.sending, self.resend_at = 0, 0, 0, now
        self.sender: subprocess.Popen | None = None
        self.gone_check: concurrent.futures.Future | None = None

    @property
    def over(self) -> bool:
        """Whether no process is left on the machine."""
        return all(worker.state == 'gone' for worker in self.workers.values())


class Group:
    """Running processes on remote machines.

    Args:
      script: the job's script on all machines.
      placed: {rank of a process: number of its machine}.
      logs: the local copies of their logs.
      show: 'new' prints the output from now on; 'last' begins with the last lines; 'whole' with the first byte.
      lost: seconds of silence after which a machine is lost.
      gone: returns whether a silent machine is known to be gone; called now and then, in a thread.
    """

    def __init__(self, script: Script, placed: Mapping[int, int], logs: Logs, *, show: str = 'new', lost: float = 90.0,
                 gone: Callable[[int], bool] = lambda host: False):
        self.stopped, self.only = False, None
        self._script, self._logs, self._lost, self._gone = script, logs, lost, gone
        self._whole, self._selector, self._ends = show == 'whole', selectors.DefaultSelector(), []
        hosts = script.hosts
        self._workers = {process: Worker(process, hosts.name(host), len(placed) == 1, show == 'last')
                         for process, host in sorted(placed.items())}
        self._links = [Link(host, [self._workers[p] for p in sorted(placed) if placed[p] == host])
                       for host in sorted(set(placed.values()))]
        for process in placed:
            logs.offset(process)
        self._pool = concurrent.futures.ThreadPoolExecutor(4)

    @property
    def running(self) -> bool:
        """Whether a process may be left, or output is not printed yet."""
        return not all(link.over for link in self._links)

    @property
    def idle(self) -> bool:
        """Whether all output so far has been printed, from the machines that answer."""
        return not self._whole and all(link.idle or link.over for link in self._links)

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns the ends since the last call."""
        for worker in self._workers.values():
            worker.gate.shut = worker.behind or self.only not in (None, worker.process)
        if self._whole:
            self._print_kept()
        for link in self._links:
            self._maintain(link)
        for key, _ in self._selector.select(seconds):
            self._read(key.data)
        ends, self._ends = self._ends, []
        return ends

    def signal(self, number: int) -> None:
        """Sends a signal to all groups; a machine that does not answer gets it as soon as it does."""
        for link in self._links:
            if number == signal.SIGKILL or not link.wanted:
                link.wanted = number
            self._send_signal(link)

    def stop(self) -> None:
        """Leaves the mark on all machines that answer.

        Raises:
          UserError: no machine answers.
        """
        self.stopped = True
        missed = [error for error in self._script.hosts.each(self._mark, [link.host for link in self._links]) if error]
        if len(missed) == len(self._links):
            raise missed[0]
        for error in missed:
            log(str(error))

    def tail(self, process: int) -> list[str]:
        """The last lines of one process."""
        return self._workers[process].lines.last()

    def close(self) -> None:
        """Closes the connections; the processes keep running."""
        for link in self._links:
            if link.sender is not None:
                try:
                    link.sender.wait(10)
                except subprocess.TimeoutExpired:
                    link.sender.kill()
                    link.sender.wait()
            self._disconnect(link)
        for worker in self._workers.values():
            worker.lines.end()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._selector.close()
        self._logs.close()

    def _mark(self, host: int) -> UserError | None:
        try:
            self._script.query(host, 'stop')
        except Unreachable as error:
            return error
        return None

    def _print_kept(self) -> None:
        """Prints the local copies of the logs of all processes that are shown."""
        self._whole = False
        for process, worker in self._workers.items():
            with open(self._logs.path(process), 'rb') as file:
                file.seek(self._logs.first(process))
                while data := file.read(READ_BYTES):
                    worker.lines.feed(data)

    def _maintain(self, link: Link) -> None:
        """Connects if that is due; declares the machine lost if it has been silent for too long."""
        now = time.monotonic()
        self._send_signal(link)
        if link.over:
            self._disconnect(link)
            return
        if link.ssh is None and now >= link.retry_at:
            self._connect(link)
        elif link.ssh is not None and now > max(link.last_seen, link.made) + STALL_S:
            self._retry(link)
        if now > link.last_seen + self._lost or self._known_gone(link, now):
            log(f'{self._script.hosts.name(link.host)} is lost: silent for {now - link.last_seen:.0f} s')
            self._lose(link, link.last_seen)

    def _known_gone(self, link: Link, now: float) -> bool:
        """Whether the cloud reports a silent machine as gone; queried in the background."""
        if link.gone_check is not None and link.gone_check.done():
            check, link.gone_check = link.gone_check, None
            return check.exception() is None and check.result() and now > link.last_seen + GONE_CHECK_S
        if link.gone_check is None and now > max(link.last_seen, link.gone_checked) + GONE_CHECK_S:
            link.gone_checked, link.gone_check = now, self._pool.submit(self._gone, link.host)
        return False

    def _connect(self, link: Link) -> None:
        link.buffer, link.left, link.greeted, link.idle = b'', 0, False, False
        link.before, link.made = link.last_seen, time.monotonic()
        places = [f'{p}:{max(0, self._logs.offset(p))}' for p, worker in link.workers.items() if worker.state != 'gone']
        step = self._script.step(link.host, 'follow', *places)
        link.ssh = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    bufsize=0, start_new_session=True)
        os.set_blocking(link.ssh.stdout.fileno(), False)
        self._selector.register(link.ssh.stdout, selectors.EVENT_READ, link)

    def _disconnect(self, link: Link) -> int | None:
        """Ends ssh; returns its exit code."""
        if link.ssh is None:
            return None
        self._selector.unregister(link.ssh.stdout)
        link.ssh.stdout.close()
        try:
            code = link.ssh.wait(0.2)
        except subprocess.TimeoutExpired:
            link.ssh.kill()
            code = link.ssh.wait()
        link.ssh = None
        return code

    def _retry(self, link: Link) -> None:
        """Schedules another attempt. If ssh connected and the script is not there any more, nothing of the job is left."""
        code = self._disconnect(link)
        if not link.greeted and code in (2, 126, 127):
            self._lose(link, time.monotonic())
        link.idle, link.retry_at = False, time.monotonic() + link.pause
        link.pause = min(MAX_PAUSE_S, 2 * link.pause)

    def _lose(self, link: Link, when: float) -> None:
        for worker in link.workers.values():
            if worker.state == 'running':
                self._end(link, worker, LOST, when)
            worker.state = 'gone'
        self._disconnect(link)

    def _end(self, link: Link, worker: Worker, code: int, when: float) -> None:
        worker.state = 'ended'
        worker.lines.end()
        self._ends.append(End(worker.process, code, when, self._script.hosts.name(link.host)))

    def _read(self, link: Link) -> None:
        if link.ssh is None:
            return
        try:
            data = os.read(link.ssh.stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._retry(link)
            return
        link.buffer += data
        while link.buffer and link.ssh is not None:
            if link.left:
                part, link.buffer = link.buffer[:link.left], link.buffer[link.left:]
                link.left -= len(part)
                link.last_seen = time.monotonic()
                self._logs.write(link.writer.process, part, link.at)
                link.at += len(part)
                link.writer.lines.feed(part)
            else:
                line, newline, rest = link.buffer.partition(b'\n')
                if not newline:
                    break
                link.buffer = rest
                if line.strip() == GREETING:
                    link.greeted, link.pause, link.last_seen = True, 1.0, time.monotonic()
                elif link.greeted:  # a shell profile may print lines before the greeting
                    self._handle(link, line.split())

    def _handle(self, link: Link, words: list[bytes]) -> None:
        """Handles one message of `remote.sh follow`."""
        what, now = words[0], time.monotonic()
        worker = link.workers.get(int(words[1])) if len(words) > 1 else None
        fresh, link.last_seen = now < link.made + 5.0, now
        link.idle = what == b'I'
        if what == b'D':
            link.writer, link.left, link.at = worker, int(words[3]), int(words[2])
            if int(words[2]) != self._logs.offset(worker.process):
                self._retry(link)
        elif what == b'T':
            self._logs.renew(worker.process)
        elif what == b'S':
            self.stopped = True
        elif what == b'E':
            self._catch_up([worker])
            code, then, its_now = int(words[2]), float(words[3]), float(words[4])
            self._end(link, worker, from_shell(code), now - max(0.0, its_now - then))
        elif what == b'L':
            self._catch_up([worker])
            self._end(link, worker, LOST, link.before if fresh else now)
        elif what == b'G':
            worker.state = 'gone'
        elif what == b'I':
            self._catch_up(link.workers.values())

    def _catch_up(self, workers) -> None:
        """Prints the last lines of the processes that were behind; from now on their output is printed as it comes."""
        for worker in workers:
            if worker.behind:
                worker.behind = False
                worker.gate.shut = self.only not in (None, worker.process)
                worker.gate.write(b''.join(worker.prefix + line + b'\n' for line in worker.lines.tail))

    def _send_signal(self, link: Link) -> None:
        """Sends the wanted signal, again until it has arrived; does not block."""
        if link.sender is not None and link.sender.poll() is not None:
            link.sent = link.sending if link.sender.returncode == 0 else link.sent
            link.resend_at = time.monotonic() + (0.0 if link.sender.returncode == 0 else 2.0)
            link.sender = None
        if link.wanted == link.sent or link.sender is not None or link.over or time.monotonic() < link.resend_at:
            return
        numbers = [str(process) for process, worker in link.workers.items() if worker.state != 'gone']
        link.sending = link.wanted
        step = self._script.step(link.host, 'send', signal.Signals(link.wanted).name.removeprefix('SIG'), *numbers)
        link.sender = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
