"""Small files on their way to an object store, which keeps whole objects and knows no appending."""
import threading
import time

from bigjax.io import storage


class Outbox:
    """Sends the newest contents of each file, in a thread of its own, which the run does not wait for.

    Args:
      every: seconds between two sendings; ten times as long as one takes, where that is more.
    """

    def __init__(self, every: float = 10.0):
        self._every, self._wake = every, threading.Condition()
        self._contents, self._changed = {}, set()
        self._put, self._sent, self._urgent, self._error, self._open = 0, 0, False, None, True
        self._thread = threading.Thread(target=self._send, name='outbox', daemon=True)
        self._thread.start()

    def put(self, path, contents: str) -> None:
        """The file is to hold this, soon."""
        with self._wake:
            self._contents[path] = bytearray(contents.encode())
            self._note(path)

    def append(self, path, line: str) -> None:
        """A line more; what the file held before it must have been `put` here."""
        with self._wake:
            self._contents.setdefault(path, bytearray()).extend(line.encode() + b'\n')
            self._note(path)

    def _note(self, path) -> None:
        self._changed.add(path)
        self._put += 1

    def look(self) -> None:
        """Raises what sending has failed with."""
        if self._error is not None:
            raise self._error

    def flush(self, seconds: float | None = None) -> None:
        """Returns when all that was put is in the store.

        Args:
          seconds: how long to wait at most; None for as long as the store is not given up.

        Raises:
          Broken, UserError: it cannot be sent.
        """
        with self._wake:
            until = self._put
            self._urgent = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._sent >= until or self._error or not self._open, seconds)
        self.look()

    def close(self, seconds: float | None = None) -> None:
        """As `flush`; the thread ends."""
        try:
            self.flush(seconds)
        finally:
            with self._wake:
                self._open = False
                self._wake.notify_all()

    def _send(self) -> None:
        pause = self._every
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._urgent or not self._open, pause)
                if not self._open:
                    return
                self._urgent, until = False, self._put
                going = {path: bytes(self._contents[path]) for path in self._changed}
                self._changed.clear()
            began = time.monotonic()
            try:
                for path, contents in going.items():
                    storage.write(path, contents)
            except Exception as error:
                self._error = error
            with self._wake:
                self._sent = until
                self._wake.notify_all()
            if self._error:
                return
            pause = max(self._every, 10 * (time.monotonic() - began))
