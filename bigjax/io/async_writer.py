"""Background writes of small files to an object store, which replaces whole objects and cannot append."""
import threading
import time

from bigjax.io import storage


class Outbox:
    """Writes the newest contents of each file in a thread of its own; the run does not wait for it.

    Args:
      every: seconds between two writes, or ten times the duration of one where that is longer.
    """

    def __init__(self, every: float = 10.0):
        self._every, self._wake = every, threading.Condition()
        self._contents, self._changed = {}, set()
        self._put, self._sent, self._urgent, self._error, self._open = 0, 0, False, None, True
        self._thread = threading.Thread(target=self._send, name='outbox', daemon=True)
        self._thread.start()

    def put(self, path, contents: str) -> None:
        """Sets the contents of a file."""
        with self._wake:
            self._contents[path] = bytearray(contents.encode())
            self._note(path)

    def append(self, path, line: str) -> None:
        """Appends a line; earlier contents of the file must have been `put` here."""
        with self._wake:
            self._contents.setdefault(path, bytearray()).extend(line.encode() + b'\n')
            self._note(path)

    def _note(self, path) -> None:
        self._changed.add(path)
        self._put += 1

    def look(self) -> None:
        """Raises the error of a failed write."""
        if self._error is not None:
            raise self._error

    def flush(self, seconds: float | None = None) -> None:
        """Returns when everything that was put is in the store.

        Args:
          seconds: the longest wait; None waits until the store is given up.

        Raises:
          StorageUnavailable, UserError: a write failed.
        """
        with self._wake:
            until = self._put
            self._urgent = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._sent >= until or self._error or not self._open, seconds)
        self.look()

    def close(self, seconds: float | None = None) -> None:
        """Flushes, and ends the thread."""
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
                pending = {path: bytes(self._contents[path]) for path in self._changed}
                self._changed.clear()
            began = time.monotonic()
            try:
                for path, contents in pending.items():
                    storage.write(path, contents)
            except Exception as error:
                self._error = error
            with self._wake:
                self._sent = until
                self._wake.notify_all()
            if self._error:
                return
            pause = max(self._every, 10 * (time.monotonic() - began))
