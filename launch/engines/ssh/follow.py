"""A group of processes on machines that ssh reaches, followed by `remote.sh follow` over one connection per machine.

The local log of a process is a byte-for-byte copy of the remote one, so that after a cut, and for the next launcher, the
transfer resumes at the size of the local file. A connection that ends is retried after 1, 2, 4, 8 … seconds. A machine that is
silent for `lost` seconds is lost with its processes, as of the time of its last message.
"""
import concurrent.futures
import functools
import selectors
from collections.abc import Callable, Mapping

from bigjax.errors import UserError
from launch.engines.ssh.link import READ_BYTES, GoneCheck, Link
from launch.engines.ssh.log_copies import Logs
from launch.engines.ssh.processes import Worker
from launch.engines.ssh.transport import Script, Unreachable
from launch.lines import log
from launch.outcome import End


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
        self.only, self._marked, self._whole = None, False, show == 'whole'
        self._script, self._logs, self._selector = script, logs, selectors.DefaultSelector()
        self._pool = concurrent.futures.ThreadPoolExecutor(4)
        self._workers = {process: Worker(process, script.hosts.name(host), len(placed) == 1, show == 'last')
                         for process, host in sorted(placed.items())}
        self._links = [Link(host, [self._workers[p] for p in sorted(placed) if placed[p] == host], script, logs,
                            self._selector, lost, GoneCheck(self._pool, functools.partial(gone, host)))
                       for host in sorted(set(placed.values()))]
        for process in placed:
            logs.offset(process)

    @property
    def running(self) -> bool:
        """Whether a process may be left, or output is not printed yet."""
        return not all(link.over for link in self._links)

    @property
    def idle(self) -> bool:
        """Whether all output so far has been printed, from the machines that answer."""
        return not self._whole and all(link.idle or link.over for link in self._links)

    @property
    def stopped(self) -> bool:
        """Whether a launcher has marked the job as stopped."""
        return self._marked or any(link.stopped for link in self._links)

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns the ends since the last call."""
        for worker in self._workers.values():
            worker.show(self.only in (None, worker.process))
        if self._whole:
            self._print_kept()
        for link in self._links:
            link.maintain()
        for key, _ in self._selector.select(seconds):
            key.data.read()
        ends = [end for link in self._links for end in link.ends]
        for link in self._links:
            link.ends.clear()
        return ends

    def signal(self, number: int) -> None:
        """Sends a signal to all groups; a machine that does not answer gets it as soon as it does."""
        for link in self._links:
            link.signal(number)

    def stop(self) -> None:
        """Leaves the mark on all machines that answer.

        Raises:
          UserError: no machine answers.
        """
        self._marked = True
        answers = self._script.hosts.answers(lambda host: self._script.query(host, 'stop'), [link.host for link in self._links])
        silent: list[UserError] = [answer for answer in answers if isinstance(answer, Unreachable)]
        if len(silent) == len(self._links):
            raise silent[0]
        for error in silent:
            log(str(error))

    def tail(self, process: int) -> list[str]:
        """The last lines of one process."""
        return self._workers[process].lines.last()

    def close(self) -> None:
        """Closes the connections; the processes keep running."""
        for link in self._links:
            link.close()
        for worker in self._workers.values():
            worker.lines.end()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._selector.close()
        self._logs.close()

    def _print_kept(self) -> None:
        """Prints the local copies of the logs of all processes that are shown."""
        self._whole = False
        for process, worker in self._workers.items():
            with open(self._logs.path(process), 'rb') as file:
                file.seek(self._logs.first(process))
                while data := file.read(READ_BYTES):
                    worker.lines.feed(data)
