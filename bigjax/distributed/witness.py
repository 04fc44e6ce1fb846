"""A child process that reports the death of rank 0 where JAX ends this process before Python can.

JAX's client ends a process, in a thread of C++, as soon as its connection to rank 0 breaks, at times before the watchdog's
thread has run. The child holds the link to rank 0, too, and a pipe from its parent. Where the parent has ended without
`dismiss`, and rank 0 has left the link without `bye`, the child prints which process died.
"""
import contextlib
import os
import select
import socket
import subprocess
import sys

BYE = b'"kind": "bye"'
LINK_WAIT_MS = 200  # the link may break a moment later than JAX's connection


class Witness:
    """The child, from its start until `dismiss` or the end of this process.

    Args:
      link: the connection to rank 0.
      leader: the name of rank 0 in messages.
    """

    def __init__(self, link: socket.socket, leader: str):
        number = link.fileno()
        self._child = subprocess.Popen(  # a session of its own: Ctrl-C in a terminal is for the process alone
            [sys.executable, '-I', '-S', __file__, str(number), leader], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            pass_fds=[number], start_new_session=True, bufsize=0)

    def dismiss(self) -> None:
        """Ends the child: this process has reported why it ends, or ends well."""
        with contextlib.suppress(OSError):
            self._child.stdin.write(b'.')


def main(number: str, leader: str) -> None:
    """The child. It must not hold the link for long after its parent's end, which rank 0 notices by it."""
    link, received, readable = socket.socket(fileno=int(number)), b'', select.poll()
    readable.register(link, select.POLLIN)
    if os.read(0, 1):
        return
    while readable.poll(LINK_WAIT_MS):
        try:
            part = link.recv(1 << 16)
        except OSError:
            part = b''
        received += part
        if not part:
            if BYE not in received:
                print(f'{leader} is gone; JAX has ended this process with it', file=sys.stderr, flush=True)
            return


if __name__ == '__main__':
    main(*sys.argv[1:])
