"""The output of many processes merged: whole lines, each with the rank of its process in front."""
import collections
import contextlib
import os
import pathlib
import sys

MAX_LINE_BYTES = 2**20  # a longer line is cut
TAIL_LINES = 10  # kept for the message about a failure
COLOURS = (36, 33, 32, 35, 34, 31)


class Sink:
    """A file descriptor for lines. After an error (the reader is gone, the disk is full) it drops the rest; the job continues.

    Unbuffered, so that no write is left to fail at exit.
    """

    def __init__(self, fd: int, name: str):
        self.fd, self._name, self._works = fd, name, True

    def write(self, data: bytes) -> None:
        """Writes all of the data."""
        rest = memoryview(data)
        while self._works and rest:
            try:
                rest = rest[os.write(self.fd, rest):]
            except OSError as error:
                self._works = False
                log(f'{self._name}: not written any more: {error.strerror}')


    def close(self) -> None:
        """Closes the descriptor."""
        if self._works:
            self._works = False
            os.close(self.fd)


class Lines:
    """One stream of one process; `tail` holds its last lines.

    Args:
      sinks: {sink: whether its lines get the prefix}.
    """

    def __init__(self, prefix: bytes, sinks: dict[Sink, bool]):
        self._prefix, self._sinks, self._rest = prefix, sinks, b''
        self.tail = collections.deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Writes the lines that are complete by now."""
        whole, newline, self._rest = (self._rest + data).rpartition(b'\n')
        if newline:
            self._write(whole)
        if len(self._rest) > MAX_LINE_BYTES:
            self.end()

    def end(self) -> None:
        """Writes the last line, which has no newline."""
        if self._rest:
            self._write(self._rest)
        self._rest = b''

    def last(self) -> list[str]:
        """The last lines as text."""
        return [line.decode(errors='replace') for line in self.tail]

    def _write(self, text: bytes) -> None:
        self.tail.extend(text.split(b'\n')[-TAIL_LINES:])
        marked = self._prefix + text.replace(b'\n', b'\n' + self._prefix) + b'\n'
        for sink, prefixed in self._sinks.items():
            sink.write(marked if prefixed else text + b'\n')


def log_file(path: pathlib.Path, *, fresh: bool) -> Sink | None:
    """The sink that keeps a log; None, after a notice, if the file cannot be written: the job runs without it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Sink(os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND), 0o666), str(path))
    except OSError as error:
        log(f'{path}: no log is kept ({error.strerror})')
        return None


def prefix(process: int, processes: int, colour: bool) -> bytes:
    """The prefix '[1] ', coloured if requested; empty for a single process."""
    if processes == 1:
        return b''
    code = COLOURS[process % len(COLOURS)]
    return (f'\x1b[{code}m[{process}]\x1b[0m ' if colour else f'[{process}] ').encode()


def log(text: str) -> None:
    """Prints a line of the launcher's own on stderr."""
    with contextlib.suppress(OSError):  # the reader of stderr is gone: the job continues
        print(f'launch: {text}', file=sys.stderr, flush=True)
