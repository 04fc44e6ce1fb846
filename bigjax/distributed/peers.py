"""The connections of a job's processes to rank 0, kept open during the run: a process that ends silently is missed at once.

JAX notices a dead process by its heartbeat, and the others see only a broken collective. Here the system itself closes the
connection of a process that dies, so the first line printed is who died and where. Rank 0 has a connection to every other
process, which has one to it; it relays the messages of one to the rest. No data of a run is sent here.

A message is a line of JSON, {"kind": …, "text": …}:
    notice       a process received a signal; the text is its name
    failed       a process ends with an exception; the text is its traceback
    refused      a process ends because its input is wrong; the text is the message
    stuck        a process is in one phase for longer than its timeout
    where        a process waits for longer than its timeout; those that work answer
    at           a process works and has time left; the text is JSON: its phase, step, and the seconds in it
    stop         a process stops at once, saved or not
    propose, polls, stop_at      the decision where all stop (`bigjax.watchdog.agreement`)
    arrived, all_arrived         the end of the job
    dead         a connection has broken without `bye`
    bye          a process leaves with the others' knowledge
"""
import contextlib
import json
import select
import socket
import threading
import time
from multiprocessing.connection import wait
from typing import NamedTuple

SEND_S = 2.0  # time in which a peer must take a message
LONGEST = 1 << 20  # bytes of a message
TO_LEADER = ('polls', 'arrived')  # kinds that are not relayed


class Message(NamedTuple):
    """A message and its sender ('process 1 on node2 (pid 77)')."""

    kind: str
    text: str
    sender: str


class PeerLinks:
    """One process's connections.

    Args:
      peers: name -> connection; on rank 0 all others, elsewhere only rank 0.
      relays: pass on received messages to the rest (rank 0).
      heartbeat: a peer's machine that is silent for so many seconds counts as gone.

    Attributes:
      ranks: the number of processes on rank 0, 0 elsewhere.
    """

    def __init__(self, peers: dict[str, socket.socket], *, relays: bool, heartbeat: float = 30.0):
        self._peers, self._relays = {s: who for who, s in peers.items()}, relays
        self.ranks = len(peers) + 1 if relays else 0
        self._received = {s: b'' for s in self._peers}
        self._left, self._sending = set(), threading.Lock()
        for connection in self._peers:
            connection.setblocking(False)
            keep_alive(connection, heartbeat)

    def sockets(self) -> list[socket.socket]:
        """The open connections."""
        return list(self._peers)

    def read(self, connection: socket.socket) -> list[Message]:
        """The new messages of a peer, relayed to the rest; its end without `bye` is a message, too."""
        who, found = self._peers.get(connection), []
        if who is None:  # another thread has just ended the links
            return []
        try:
            part = connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError as error:
            part, why = b'', error.strerror or str(error)
        else:
            why = 'it ended without a message: killed, or out of memory'
        *lines, self._received[connection] = (self._received[connection] + part).split(b'\n')
        for line in lines:
            message = _parse(line, who)
            if message and message.kind == 'bye':
                self._left.add(connection)
            elif message:
                found.append(message)
        if not part or len(self._received[connection]) > LONGEST:
            self._peers.pop(connection, None)
            if connection not in self._left:
                found.append(Message('dead', f'{who} is gone ({why})', who))
            connection.close()
        if self._relays:
            for message in found:
                if message.kind not in TO_LEADER:
                    self.send(message.kind, message.text, sender=message.sender)
        return found

    def send(self, kind: str, text: str = '', sender: str = '') -> None:
        """Sends a message to every peer but its sender; a peer that does not take it is skipped."""
        line = json.dumps({'kind': kind, 'text': text[-LONGEST // 4:], 'sender': sender}).encode() + b'\n'
        with self._sending:  # messages of two threads must not mix
            for connection, who in list(self._peers.items()):
                if who != sender:
                    with contextlib.suppress(OSError):
                        _send(connection, line)

    def close(self) -> None:
        """Leaves with the others' knowledge."""
        self.send('bye')
        for connection in self.sockets():
            with contextlib.suppress(OSError):
                connection.close()
        self._peers = {}

    def end(self, seconds: float) -> None:
        """The last call in a process that ends because something is wrong.

        Rank 0 stays until the others are gone, at most for `seconds`: JAX aborts all that outlive it, before they can print why
        they end. The system closes the connections of the others when they have ended.
        """
        self.send('bye')
        until = time.monotonic() + seconds
        while self._relays and self._peers and (left := until - time.monotonic()) > 0:
            for connection in wait(self.sockets(), left):
                self.read(connection)
        for connection in self.sockets():
            connection.detach()
        self._peers = {}


def keep_alive(connection: socket.socket, heartbeat: float) -> None:
    """Sets TCP keep-alive so that a silent machine counts as gone within `heartbeat` seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    interval = max(1, round(heartbeat / 6))
    options = {'TCP_KEEPIDLE': max(1, round(heartbeat / 2)), 'TCP_KEEPINTVL': interval, 'TCP_KEEPCNT': 3,
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
    rest, writable = memoryview(line), select.poll()
    writable.register(connection, select.POLLOUT)
    while rest and writable.poll(1000 * SEND_S):
        rest = rest[connection.send(rest):]
