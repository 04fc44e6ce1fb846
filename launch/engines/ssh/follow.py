"""A group of processes on machines that ssh reaches, followed by `remote.sh follow`, one connection a machine.

What a process writes is kept here byte for byte as it is kept there, so that after a cut, and for the next launcher, it goes on
at the size of the file here. A connection that ends is made again after 1, 2, 4, 8 … seconds; a machine that says nothing for
`lost` seconds is lost, and its processes with it, as of the moment when it was last heard.
"""
import concurrent.futures
import json
import os
import pathlib
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

from bigjax.errors import UserError
from launch.engines.ssh.transport import Script, Unreachable
from launch.job import Job
from launch.lines import COLOURS, Lines, Sink, say
from launch.outcome import LOST, End

CHUNK = 2**16
LONGEST_PAUSE = 8.0  # seconds between two attempts to connect
STALL = 30.0  # seconds without a word on a connection that seems to live
ASK = 15.0  # seconds between two questions whether a silent machine still exists
GREETING = b'bigjax-follow'


class Logs:
    """The folder where the output of a job's processes is kept here.

    A file may have had content before, of another job or machine: where the part that mirrors a log there begins is kept in
    the job's folder.
    """

    def __init__(self, job: Job):
        self._folder = pathlib.Path(job.logs).expanduser() if job.logs else job.folder / 'logs'
        self._record, self._job = job.folder / 'offsets.json', f'{job.name} {job.created}'
        self._files: dict[int, int] = {}
        try:
            kept = json.loads(self._record.read_text())
        except (OSError, ValueError):
            kept = {}
        self._begins = kept['begins'] if kept.get('job') == self._job else {}

    def path(self, process: int) -> pathlib.Path:
        """Of the file."""
        return self._folder / f'{process}.log'

    def first(self, process: int) -> int:
        """Where the first byte of this job is."""
        return self._begins.get(str(process), [0, 0])[0]

    def offset(self, process: int) -> int:
        """How much of the log there is kept here."""
        return os.fstat(self._file(process)).st_size - self._begins[str(process)][1]

    def write(self, process: int, data: bytes, at: int) -> None:
        """What stands at `at` in the log there: at its own place, so that two launchers that follow it may both write it."""
        fd, rest = self._file(process), memoryview(data)
        place = self._begins[str(process)][1] + at
        while rest:
            done = os.pwrite(fd, rest, place)
            rest, place = rest[done:], place + done

    def renew(self, process: int) -> None:
        """The log there begins anew: its next byte is its first."""
        size = os.fstat(self._file(process)).st_size  # which first makes the record, where there is none
        self._begins[str(process)][1] = size
        self._save()

    def close(self) -> None:
        """All files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _file(self, process: int) -> int:
        if process not in self._files:
            path = self.path(process)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[process] = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f'{path}: cannot be written ({error.strerror}); name another folder with --logs',
                                code='launch/not-writable') from None
            size = os.fstat(self._files[process]).st_size
            if self._begins.get(str(process), [0, size + 1])[1] > size:  # new, or somebody has deleted it here
                self._begins[str(process)] = [size, size]
                self._save()
        return self._files[process]

    def _save(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        draft = self._record.with_name(f'{self._record.name}.{os.getpid()}')
        draft.write_text(json.dumps({'job': self._job, 'begins': self._begins}))
        draft.replace(self._record)


class Gate(Sink):
    """The terminal, which sees nothing while the gate is shut."""

    shut = False

    def write(self, data: bytes) -> None:
        """All of it, or nothing."""
        if not self.shut:
            super().write(data)


class Worker:
    """One process: `state` is running, ended (what it started may still go on), or gone; `behind`, nothing is shown until all
    that was written before has come."""

    def __init__(self, process: int, where: str, alone: bool, behind: bool):
        name, colour = f'[{process} {where}]', COLOURS[process % len(COLOURS)]
        self.prefix = b'' if alone else (f'\x1b[{colour}m{name}\x1b[0m ' if os.isatty(1) else f'{name} ').encode()
        self.process, self.state, self.behind, self.gate = process, 'running', behind, Gate(1, 'stdout')
        self.lines = Lines(self.prefix, {self.gate: True})


class Link:
    """The connection to one machine.

    Attributes:
      heard: when it last said something; before: the same, as it was when this connection was made.
      wanted, told: the signal that its processes are to get, and the one that they have got.
    """

    def __init__(self, host: int, workers: list[Worker]):
        now = time.monotonic()
        self.host, self.workers = host, {worker.process: worker for worker in workers}
        self.ssh: subprocess.Popen | None = None
        self.heard, self.before, self.made, self.asked = now, now, now, now
        self.again, self.pause, self.idle, self.greeted = now, 1.0, False, False
        self.buffer, self.left, self.at, self.writer = b'', 0, 0, workers[0]
        self.wanted, self.told, self.sending, self.tell_again = 0, 0, 0, now
        self.teller: subprocess.Popen | None = None
        self.question: concurrent.futures.Future | None = None

    @property
    def over(self) -> bool:
        """Nothing is left there."""
        return all(worker.state == 'gone' for worker in self.workers.values())


class Group:
    """Processes that run on machines.

    Args:
      script: the job's on all machines.
      placed: the number of each process -> that of its machine.
      logs: where their output is kept.
      show: 'new' passes on what they write from now on; 'last' their last lines, then that; 'whole' all that they ever wrote.
      lost: seconds of silence after which a machine is lost.
      gone: asked now and then whether a silent machine is known to be gone.
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
        """Whether something may be left, or is not yet passed on."""
        return not all(link.over for link in self._links)

    @property
    def idle(self) -> bool:
        """All that was written until now has been passed on, where it can be reached."""
        return not self._whole and all(link.idle or link.over for link in self._links)

    def wait(self, seconds: float) -> list[End]:
        """Passes output on for at most so long; the ends since the last call."""
        for worker in self._workers.values():
            worker.gate.shut = worker.behind or self.only not in (None, worker.process)
        if self._whole:
            self._print_kept()
        for link in self._links:
            self._keep_up(link)
        for key, _ in self._selector.select(seconds):
            self._read(key.data)
        ends, self._ends = self._ends, []
        return ends

    def signal(self, number: int) -> None:
        """To all groups; where the machine does not answer, as soon as it does."""
        for link in self._links:
            if number == signal.SIGKILL or not link.wanted:
                link.wanted = number
            self._tell(link)

    def stop(self) -> None:
        """Leaves the marker on all machines that answer.

        Raises:
          UserError: none does.
        """
        self.stopped = True
        missed = [error for error in self._script.hosts.each(self._mark, [link.host for link in self._links]) if error]
        if len(missed) == len(self._links):
            raise missed[0]
        for error in missed:
            say(str(error))

    def tail(self, process: int) -> list[str]:
        """Its last lines."""
        return [line.decode(errors='replace') for line in self._workers[process].lines.tail]

    def close(self) -> None:
        """The connections; the processes go on."""
        for link in self._links:
            if link.teller is not None:
                try:
                    link.teller.wait(10)
                except subprocess.TimeoutExpired:
                    link.teller.kill()
                    link.teller.wait()
            self._hang_up(link)
        for worker in self._workers.values():
            worker.lines.end()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._selector.close()
        self._logs.close()

    def _mark(self, host: int) -> UserError | None:
        try:
            self._script.ask(host, 'stop')
        except Unreachable as error:
            return error
        return None

    def _print_kept(self) -> None:
        """What is kept here already, of all that are to be seen."""
        self._whole = False
        for process, worker in self._workers.items():
            with open(self._logs.path(process), 'rb') as file:
                file.seek(self._logs.first(process))
                while data := file.read(CHUNK):
                    worker.lines.feed(data)

    def _keep_up(self, link: Link) -> None:
        """Connects where that is due; gives up where it is too late."""
        now = time.monotonic()
        self._tell(link)
        if link.over:
            self._hang_up(link)
            return
        if link.ssh is None and now >= link.again:
            self._dial(link)
        elif link.ssh is not None and now > max(link.heard, link.made) + STALL:
            self._retry(link)
        if now > link.heard + self._lost or self._known_gone(link, now):
            say(f'{self._script.hosts.name(link.host)} is lost: silent for {now - link.heard:.0f} s')
            self._lose(link, link.heard)

    def _known_gone(self, link: Link, now: float) -> bool:
        """Whether somebody else knows that a silent machine is gone; asked in the background."""
        if link.question is not None and link.question.done():
            question, link.question = link.question, None
            return question.exception() is None and question.result() and now > link.heard + ASK
        if link.question is None and now > max(link.heard, link.asked) + ASK:
            link.asked, link.question = now, self._pool.submit(self._gone, link.host)
        return False

    def _dial(self, link: Link) -> None:
        link.buffer, link.left, link.greeted, link.idle = b'', 0, False, False
        link.before, link.made = link.heard, time.monotonic()
        places = [f'{p}:{max(0, self._logs.offset(p))}' for p, worker in link.workers.items() if worker.state != 'gone']
        step = self._script.step(link.host, 'follow', *places)
        link.ssh = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    bufsize=0, start_new_session=True)
        os.set_blocking(link.ssh.stdout.fileno(), False)
        self._selector.register(link.ssh.stdout, selectors.EVENT_READ, link)

    def _hang_up(self, link: Link) -> int | None:
        """The exit code of ssh."""
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
        """After a pause. Where ssh got through and there is no script any more, nothing of the job is left."""
        code = self._hang_up(link)
        if not link.greeted and code in (2, 126, 127):
            self._lose(link, time.monotonic())
        link.idle, link.again = False, time.monotonic() + link.pause
        link.pause = min(LONGEST_PAUSE, 2 * link.pause)

    def _lose(self, link: Link, when: float) -> None:
        for worker in link.workers.values():
            if worker.state == 'running':
                self._end(link, worker, LOST, when)
            worker.state = 'gone'
        self._hang_up(link)

    def _end(self, link: Link, worker: Worker, code: int, when: float) -> None:
        worker.state = 'ended'
        worker.lines.end()
        self._ends.append(End(worker.process, code, when, self._script.hosts.name(link.host)))

    def _read(self, link: Link) -> None:
        if link.ssh is None:
            return
        try:
            data = os.read(link.ssh.stdout.fileno(), CHUNK)
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
                link.heard = time.monotonic()
                self._logs.write(link.writer.process, part, link.at)
                link.at += len(part)
                link.writer.lines.feed(part)
            else:
                line, newline, rest = link.buffer.partition(b'\n')
                if not newline:
                    break
                link.buffer = rest
                if line.strip() == GREETING:
                    link.greeted, link.pause, link.heard = True, 1.0, time.monotonic()
                elif link.greeted:  # what a profile there prints comes before
                    self._hear(link, line.split())

    def _hear(self, link: Link, words: list[bytes]) -> None:
        """One announcement of `remote.sh follow`."""
        what, now = words[0], time.monotonic()
        worker = link.workers.get(int(words[1])) if len(words) > 1 else None
        fresh, link.heard = now < link.made + 5.0, now
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
            self._end(link, worker, 128 - code if 128 < code <= 192 else code, now - max(0.0, its_now - then))
        elif what == b'L':
            self._catch_up([worker])
            self._end(link, worker, LOST, link.before if fresh else now)
        elif what == b'G':
            worker.state = 'gone'
        elif what == b'I':
            self._catch_up(link.workers.values())

    def _catch_up(self, workers) -> None:
        """Those that were behind are seen from now on, with their last lines."""
        for worker in workers:
            if worker.behind:
                worker.behind = False
                worker.gate.shut = self.only not in (None, worker.process)
                worker.gate.write(b''.join(worker.prefix + line + b'\n' for line in worker.lines.tail))

    def _tell(self, link: Link) -> None:
        """Sends the signal that is wanted, until it has arrived; waits for nothing."""
        if link.teller is not None and link.teller.poll() is not None:
            link.told = link.sending if link.teller.returncode == 0 else link.told
            link.tell_again = time.monotonic() + (0.0 if link.teller.returncode == 0 else 2.0)
            link.teller = None
        if link.wanted == link.told or link.teller is not None or link.over or time.monotonic() < link.tell_again:
            return
        numbers = [str(process) for process, worker in link.workers.items() if worker.state != 'gone']
        link.sending = link.wanted
        step = self._script.step(link.host, 'tell', signal.Signals(link.wanted).name.removeprefix('SIG'), *numbers)
        link.teller = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
