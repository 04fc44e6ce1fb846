"""One run in a workdir at a time, and a sign of life of it.

Process 0 holds a lock on WORKDIR/.lock for as long as it lives; the system gives it back however the process ends, also from
another host on a network file system. A thread touches the file, so that the next start knows until when this one was alive.
Object stores have no locks, and some network file systems refuse them: there nobody watches.
"""
import contextlib
import os
import pathlib
import socket
import threading
import time

from bigjax.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

NAME = '.lock'
PATIENCE = 10.0  # seconds for the one before, which may be about to end
BEAT = 1.0  # seconds between two signs of life


class Lock:
    """Holds a workdir until `release`, or the end of the process.

    Attributes:
      before: the last sign of life of whoever held it before, in seconds since 1970; 0.0 for nobody.

    Raises:
      UserError: another process holds it, and goes on doing so.
    """

    def __init__(self, workdir: pathlib.Path, patience: float = PATIENCE):
        path = workdir / NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        until = time.monotonic() + patience
        # Of the process, and not of the open file: workers that it forks do not hold it on.
        while fcntl is not None:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    holder = os.pread(self._file, 200, 0).decode(errors='replace').strip() or 'another process'
                    os.close(self._file)
                    raise UserError(f'{workdir}: {holder} is writing a run there; wait for its end, stop it, or choose another '
                                    '--workdir') from None
                time.sleep(0.1)
            except OSError:  # this file system has no locks
                break
        known = os.fstat(self._file)
        self.before = known.st_mtime if known.st_size else 0.0
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)
        self._released = threading.Event()
        threading.Thread(target=self._beat, name='sign of life', daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that is full or gone is found by those who write to it
                os.utime(self._file)
        os.close(self._file)

    def release(self) -> None:
        """Lets the next one in."""
        if self._released.is_set():
            return
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._released.set()
