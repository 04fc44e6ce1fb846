"""The end of a process from another thread than its main one, which may be blocked for good."""
import contextlib
import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable

from bigjax.distributed.peers import PeerLinks

LAST_WORDS_S = 12.0  # time for the record of why the process ends; a disk that hangs may be the very reason
PEER_EXIT_S = 5.0  # rank 0 waits so long for the others' end
POLL_S = 0.05


def silence(error: BaseException) -> None:
    """No last words: nothing is under way that a record could mention."""


class Exit:
    """Ends the process within its deadline.

    Args:
      peers: the links to the other processes, where there are any.
      poll: called while `leave` waits, for signals that arrive meanwhile.
      last_words: called with the exception that describes why the process ends.

    Attributes:
      deadline: when the grace is over (`time.monotonic`).
      leaving: `leave` has been called.
      cancelled: the process ends by itself; `leave` does nothing.
    """

    def __init__(self, peers: PeerLinks | None, poll: Callable[[], None], last_words: Callable[[BaseException], None]):
        self._peers, self._poll, self._last_words = peers, poll, last_words
        self.deadline, self.leaving, self.cancelled = math.inf, False, False

    def leave(self, code: int, text: str, error: BaseException, seconds: float = math.inf) -> None:
        """Ends the process with an exit code, within `seconds` and the deadline, whatever the main thread does."""
        if self.cancelled:
            return
        self.leaving = True
        if text:
            log(text)
        until = min(time.monotonic() + seconds, self.deadline)
        self._run(min(LAST_WORDS_S, 0.6 * (until - time.monotonic())), self._speak, error)
        if self._peers:
            left = min(PEER_EXIT_S, max(0.0, until - time.monotonic()))
            self._run(left, self._peers.end, left)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    def _run(self, seconds: float, function: Callable, *args) -> None:
        """Waits until a function has returned in a thread of its own, at most so long."""
        thread, until = threading.Thread(target=function, args=args, daemon=True), time.monotonic() + seconds
        thread.start()
        while thread.is_alive() and time.monotonic() < until:
            thread.join(min(POLL_S, max(0.0, until - time.monotonic())))
            self._poll()

    def _speak(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self._last_words(error)


def log(text: str) -> None:
    """Prints a line to stderr, also where that is closed."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def log_stacks() -> None:
    """Prints the stacks of all threads."""
    log('the stacks of all threads:')
    with contextlib.suppress(OSError, ValueError):
        faulthandler.dump_traceback(sys.__stderr__)
