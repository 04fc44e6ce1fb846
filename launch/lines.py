"""The output of many processes as one: whole lines, each with the number of its process in front."""
import collections
import contextlib
import os
import sys

LONGEST = 2**20  # bytes of an unfinished line that are kept; a longer one is cut
TAIL = 10  # lines that are remembered
COLOURS = (36, 33, 32, 35, 34, 31)


class Sink:
    """A file descriptor where lines go. One that fails (the reader is gone, the disk is full) gets no more, and stops nobody.

    Unbuffered, so that nothing of it is left to fail at exit.
    """

    def __init__(self, fd: int, name: str):
        self.fd, self._name, self._works = fd, name, True

    def write(self, data: bytes) -> None:
        """All of it."""
        rest = memoryview(data)
        while self._works and rest:
            try:
                rest = rest[os.write(self.fd, rest):]
            except OSError as error:
                self._works = False
                say(f'nothing more is written to {self._name}: {error.strerror}')


class Lines:
    """One stream of one process. `tail` has its last lines."""

    def __init__(self, prefix: bytes, sinks: dict[Sink, bool]):
        """`sinks` says of each whether it gets the prefix."""
        self._prefix, self._sinks, self._rest = prefix, sinks, b''
        self.tail = collections.deque(maxlen=TAIL)

    def feed(self, data: bytes) -> None:
        """Passes on the lines that are whole by now."""
        whole, newline, self._rest = (self._rest + data).rpartition(b'\n')
        if newline:
            self._pass_on(whole)
        if len(self._rest) > LONGEST:
            self.end()

    def end(self) -> None:
        """Passes on what has no newline as a line."""
        if self._rest:
            self._pass_on(self._rest)
        self._rest = b''

    def _pass_on(self, text: bytes) -> None:
        self.tail.extend(text.split(b'\n')[-TAIL:])
        marked = self._prefix + text.replace(b'\n', b'\n' + self._prefix) + b'\n'
        for sink, prefixed in self._sinks.items():
            sink.write(marked if prefixed else text + b'\n')


def prefix(process: int, processes: int, colour: bool) -> bytes:
    """'[1] ', coloured where asked; nothing for one process."""
    if processes == 1:
        return b''
    code = COLOURS[process % len(COLOURS)]
    return (f'\x1b[{code}m[{process}]\x1b[0m ' if colour else f'[{process}] ').encode()


def say(text: str) -> None:
    """A line of the launcher's own, beside those of the processes."""
    with contextlib.suppress(OSError):  # nobody listens any more, which stops nobody
        print(f'launch: {text}', file=sys.stderr, flush=True)
