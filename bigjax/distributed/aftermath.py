"""What JAX itself says of a death comes after who died.

When process 0 dies, JAX's own threads print what they think of it ("Polled an error …", without a host) and abort the
process, faster than Python can speak. So what a process but the first one writes to its stderr goes through a child, which
passes all on at once but JAX's lines about it: they wait until the cause has been said. If the process was aborted before it
could, the child says it. (It cannot be a thread: that would end with the process.)
"""
import os
import re
import select
import signal
import sys
import time

HOLD = 1.0  # seconds that JAX's lines wait
OF_JAX = re.compile(rb'[WEF]\d{4} \d\d:\d\d:\S+ +\d+ (coordination_service\w*|preemption_sync_manager|client)\.(cc|h):\d+\]')
PERHAPS = re.compile(rb'[WEF](\d|$)')  # may become one when the line goes on
MORE = (b'Additional GRPC error', b':')  # how its next lines begin
FATAL, CLOSED = b' client.h:', (b'Socket closed', b'UNAVAILABLE', b'Connection reset')


class Aftermath:
    """What comes in, and what goes out of it when.

    Args:
      leader: process 0, as messages name it ('process 0 on node1 (pid 77)').
    """

    def __init__(self, leader: str):
        self._leader, self._open, self._held, self._due = leader, b'', b'', None
        self._inside, self._named = False, False  # in a line whose beginning has gone out; the leader's end was told

    def feed(self, data: bytes, now: float) -> bytes:
        """What goes out at once."""
        out, self._open = b'', self._open + data
        while b'\n' in self._open:
            line, _, self._open = self._open.partition(b'\n')
            line += b'\n'
            if not self._inside and (OF_JAX.match(line) or (self._held and line.startswith(MORE))):
                self._held += line
                self._due = self._due or now + HOLD
            else:
                self._named |= f'{self._leader} is gone'.encode() in line
                out += line
            self._inside = False
        if self._open and (self._inside or not (PERHAPS.match(self._open) or self._held)):
            out, self._open, self._inside = out + self._open, b'', True
        return out

    def wait(self, now: float) -> float | None:
        """Seconds until something is due; None for never."""
        return None if self._due is None else max(0.0, self._due - now)

    def due(self, now: float) -> bytes:
        """What has waited long enough."""
        if self._due is None or now < self._due:
            return b''
        out, self._held, self._due = self._held, b'', None
        return out

    def end(self) -> bytes:
        """What is left when the process is gone."""
        cause = b''
        if FATAL in self._held and not self._named and any(word in self._held for word in CLOSED):
            cause = f'{self._leader} is gone; JAX has ended this process with it\n'.encode()
        return cause + self._held + self._open


def divert(leader: str) -> None:
    """From now on the stderr of this process goes through a child of it, for good."""
    read, write = os.pipe()
    os.posix_spawn(sys.executable, [sys.executable, '-I', '-S', __file__, leader], os.environ,
                   file_actions=[(os.POSIX_SPAWN_DUP2, read, 0), (os.POSIX_SPAWN_DUP2, 2, 1)])
    os.dup2(write, 2)
    os.close(read)
    os.close(write)


def main(leader: str) -> None:
    """The child: it ends when nobody can write any more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # are for the process
        signal.signal(number, signal.SIG_IGN)
    passing = Aftermath(leader)
    while True:
        if select.select([0], [], [], passing.wait(time.monotonic()))[0]:
            data = os.read(0, 1 << 16)
            if not data:
                break
            _write(passing.feed(data, time.monotonic()))
        _write(passing.due(time.monotonic()))
    _write(passing.end())


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data):]


if __name__ == '__main__':
    main(sys.argv[1])
