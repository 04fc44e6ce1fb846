"""The connections over which the processes of a job met, kept open: whoever ends without a word is missed at once.

JAX notices a dead process by its heartbeat, and the others see no more of it than a broken collective. Here the system itself
closes the connection of a process that dies, so that the first thing printed is who died and where. Process 0 has a connection
to every other one, which has one to it; what it hears from one it passes on to the rest. Nothing of a run's data goes this way.
(JAX itself aborts at once when process 0 dies, and may be faster where Python is busy: `bigjax.distributed.aftermath`.)

A message is a line of JSON, {"kind": …, "text": …}:
    notice   somebody was asked to stop; the text is the signal's name
    failed   somebody ends with an exception; the text is its traceback
    refused  somebody ends because its input is wrong; the text says what
    stuck    somebody has been in one phase for longer than it may
    where    somebody waits for longer than it may, and asks for whom
    at       somebody does not wait and has time left; the text is JSON: its phase, step, and the seconds in it
    stop     somebody stops at once, saved or not
    dead     process 0 tells that a connection has broken
    bye      somebody leaves with the others' knowledge
"""
import contextlib
import json
import select
import socket
import time
from typing import NamedTuple

PATIENCE = 2.0  # seconds in which a message must be taken
LONGEST = 1 << 20


class Message(NamedTuple):
    """What was heard: of which kind, in which words, from whom ('process 1 on node2 (pid 77)')."""

    kind: str
    text: str
    sender: str


class Lifeline:
    """One process's end.

    Args:
      peers: who -> its connection; for process 0 all others, else process 0 alone.
      relays: pass on what is heard (process 0).
      heartbeat: seconds of silence of a peer's machine after which it counts as gone.
    """

    def __init__(self, peers: dict[str, socket.socket], *, relays: bool, heartbeat: float = 30.0):
        self._peers, self._relays = {s: who for who, s in peers.items()}, relays
        self._heard = {s: b'' for s in self._peers}
        self._left = set()
        for connection in self._peers:
            connection.setblocking(False)
            keep_alive(connection, heartbeat)

    @property
    def leader(self) -> str:
        """Process 0, as messages name it; asked for by another one."""
        return next(iter(self._peers.values()))

    def sockets(self) -> list[socket.socket]:
        """What may be read."""
        return list(self._peers)

    def read(self, connection: socket.socket) -> list[Message]:
        """What a peer has said since, passed on to the rest; its end without a word is a message, too."""
        who, found = self._peers[connection], []
        try:
            part = connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError as error:
            part, why = b'', error.strerror or str(error)
        else:
            why = 'it ended without a word: killed, or out of memory'
        *lines, self._heard[connection] = (self._heard[connection] + part).split(b'\n')
        for line in lines:
            message = _parse(line, who)
            if message and message.kind == 'bye':
                self._left.add(connection)
            elif message:
                found.append(message)
        if not part or len(self._heard[connection]) > LONGEST:
            del self._peers[connection]
            if connection not in self._left:
                found.append(Message('dead', f'{who} is gone ({why})', who))
            connection.close()
        if self._relays:
            for message in found:
                self.tell(message.kind, message.text, sender=message.sender)
        return found

    def tell(self, kind: str, text: str = '', sender: str = '') -> None:
        """Says something to every peer but the one that it is from; one that does not listen is passed over."""
        line = json.dumps({'kind': kind, 'text': text[-LONGEST // 4:], 'sender': sender}).encode() + b'\n'
        for connection, who in list(self._peers.items()):
            if who != sender:
                with contextlib.suppress(OSError):
                    _send(connection, line)

    def close(self) -> None:
        """Leaves with a word."""
        self.tell('bye')
        for connection in self.sockets():
            with contextlib.suppress(OSError):
                connection.close()
        self._peers = {}

    def end(self, seconds: float) -> None:
        """The last call in a process that is about to end because something is wrong.

        Process 0 stays until the others are gone, at most for `seconds`: JAX aborts all that outlive it, whatever they were
        about to say. The others leave with a word, and the system closes their connections when they have ended.
        """
        self.tell('bye')
        until = time.monotonic() + seconds
        while self._relays and self._peers and (left := until - time.monotonic()) > 0:
            for connection in select.select(self.sockets(), [], [], left)[0]:
                self.read(connection)
        for connection in self.sockets():
            connection.detach()
        self._peers = {}


def keep_alive(connection: socket.socket, heartbeat: float) -> None:
    """The system asks a silent peer's machine whether it is there, and gives up within `heartbeat` seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    asks = max(1, round(heartbeat / 6))
    options = {'TCP_KEEPIDLE': max(1, round(heartbeat / 2)), 'TCP_KEEPINTVL': asks, 'TCP_KEEPCNT': 3,
               'TCP_USER_TIMEOUT': round(1000 * heartbeat)}
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _parse(line: bytes, who: str) -> Message | None:
    try:
        found = json.loads(line)
        return Message(str(found['kind']), str(found['text']), str(found['sender']) or who)
    except (ValueError, KeyError, TypeError):
        return None


def _send(connection: socket.socket, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        if not select.select([], [connection], [], PATIENCE)[1]:
            return
        rest = rest[connection.send(rest):]
