"""The output of one remote process on this machine's terminal."""
import os

from launch.lines import COLOURS, Lines, Sink


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
        self.process, self.state, self.behind, self._hidden, self._gate = process, 'running', behind, False, Gate(1, 'stdout')
        self.lines = Lines(self.prefix, {self._gate: True})

    def show(self, shown: bool) -> None:
        """Whether its output is printed, once it is not behind."""
        self._hidden = not shown
        self._gate.shut = self.behind or self._hidden

    def catch_up(self) -> None:
        """Prints its last lines if it was behind; from now on its output is printed as it comes."""
        if self.behind:
            self.behind = False
            self._gate.shut = self._hidden
            self._gate.write(b''.join(self.prefix + line + b'\n' for line in self.lines.tail))
