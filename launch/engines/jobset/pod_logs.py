"""The logs of the pods of a JobSet, followed by `kubectl logs -f` and copied to local files."""
import os
import pathlib
import selectors
import time
from collections.abc import Callable, Sequence

from launch.engines.jobset.jobset_manifest import CONTAINER
from launch.engines.jobset.pods import Pod
from launch.lines import Lines, Sink, log_file, prefix
from launch.piped import Piped

IDLE_S = 1.5  # without a new line for so long, the output so far is complete


class Follower:
    """The log of one pod, from `kubectl logs -f`; after a cut it resumes at the last line.

    Attributes:
      open: whether the connection exists.
      whole: whether it was made after the process had ended, so that it delivers the last line.
    """

    def __init__(self, kubectl: Callable[..., tuple[str, ...]], name: str, since: Sequence[str]):
        self._argv = kubectl('logs', '--follow', '--timestamps', f'--container={CONTAINER}', name)
        self._since, self._last, self._rest = tuple(since), b'', b''
        self.piped = Piped((*self._argv, *self._since))
        self.open, self.whole = True, False

    def resume(self) -> None:
        """Connects again from the last line on."""
        since = (f'--since-time={self._last.decode()}',) if self._last else self._since
        self.piped, self._rest, self.open = Piped((*self._argv, *since)), b'', True

    def feed(self, data: bytes, lines: Lines) -> bool:
        """Prints the new lines; returns whether there were any. Each line begins with its time, in increasing order."""
        new = False
        whole, newline, self._rest = (self._rest + data).rpartition(b'\n')
        for line in whole.split(b'\n') if newline else ():
            when, _, text = line.partition(b' ')
            if when[:4].isdigit() and when.endswith(b'Z'):
                if self._last and _later(self._last) >= _later(when):
                    continue
                self._last = when
            else:
                text = line
            lines.feed(text + b'\n')
            new = True
        return new

    def end(self, lines: Lines) -> None:
        """Handles the end of the connection."""
        if self._rest:
            self.feed(b'\n', lines)
        self.open = False


def _later(when: bytes) -> tuple[bytes, bytes]:
    """A sort key of times such as '2026-01-01T00:00:00Z' and '2026-01-01T00:00:00.5Z', which omit trailing zeros."""
    second, _, fraction = when.rstrip(b'Z').partition(b'.')
    return second, fraction.ljust(9, b'0')


class PodLogs:
    """The output of all processes, printed with their ranks.

    Args:
      kubectl: makes the argument vector of a kubectl command.
      workers: the number of processes.
      folder: the local folder that keeps the output of each.
      whole: print the logs from the beginning, else from their last lines on.

    Attributes:
      only: the one process whose output is printed; None for all.
    """

    def __init__(self, kubectl: Callable[..., tuple[str, ...]], workers: int, folder: pathlib.Path, whole: bool):
        self.only, self._kubectl, self._whole = None, kubectl, whole
        self._files = [log_file(folder / f'{process}.log', fresh=whole) for process in range(workers)]
        out = Sink(1, 'stdout')
        self._lines = [Lines(prefix(process, workers, os.isatty(1)), {out: True, **({file: False} if file else {})})
                       for process, file in enumerate(self._files)]
        self._selector = selectors.DefaultSelector()
        self._followers: dict[str, Follower] = {}  # by the uid of the pod
        self._latest: dict[int, Pod] = {}
        self._last_output = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether all output so far has been printed."""
        return time.monotonic() - self._last_output > IDLE_S

    @property
    def open(self) -> bool:
        """Whether a pod is being followed."""
        return any(follower.open for follower in self._followers.values())

    def read(self, seconds: float) -> None:
        """Prints output for at most that many seconds."""
        if not self._selector.get_map():
            time.sleep(min(seconds, 0.2))
            return
        for key, _ in self._selector.select(seconds):
            self._read(*key.data)

    def follow(self, seen: Pod, leaving: bool) -> None:
        """Follows the log of a pod; of one that is leaving only if it is the first of its process."""
        known = self._latest.get(seen.process)
        if known is None or known.uid == seen.uid or not leaving:
            self._latest[seen.process] = seen
        if seen.uid not in self._followers:
            if seen.started and seen.process < len(self._lines):
                since = () if self._whole or known is not None else ('--tail=10',)
                self._last_output = time.monotonic()
                self._attach(seen, Follower(self._kubectl, seen.name, since))
            return
        follower = self._followers[seen.uid]
        if not follower.open and not follower.whole and not leaving:  # cut, or read to its end before the pod's end was seen
            follower.resume()
            self._attach(seen, follower)

    def latest(self) -> list[Pod]:
        """The last pod of each process, by rank."""
        return [seen for _, seen in sorted(self._latest.items())]

    def tail(self, process: int) -> list[str]:
        """The last lines of one process."""
        return self._lines[process].last() if process < len(self._lines) else []

    def close(self) -> None:
        """Stops following."""
        for follower in self._followers.values():
            if follower.open:
                self._drop(follower)
        self._selector.close()
        for file in filter(None, self._files):
            file.close()

    def _read(self, process: int, follower: Follower) -> None:
        data = follower.piped.read()
        lines = self._lines[process] if self.only in (None, process) else Lines(b'', {})
        if data:
            if follower.feed(data, lines):
                self._last_output = time.monotonic()
        elif data == b'':
            follower.end(lines)
            self._drop(follower)
            seen = self._latest.get(process)
            if seen and seen.code is not None and not follower.whole and self._followers.get(seen.uid) is follower:
                follower.resume()
                self._attach(seen, follower)

    def _drop(self, follower: Follower) -> None:
        self._selector.unregister(follower.piped)
        follower.piped.close()
        follower.open = False

    def _attach(self, seen: Pod, follower: Follower) -> None:
        self._followers[seen.uid] = follower
        follower.whole = seen.code is not None
        self._selector.register(follower.piped, selectors.EVENT_READ, (seen.process, follower))
