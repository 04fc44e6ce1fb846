"""One run in a workdir at a time, and its heartbeat.

Process 0 holds a lock on WORKDIR/.lock until it ends; the system releases it however the process ends, also from another host
on a network file system. A thread touches the file, so the next start can read until when this one was alive. Object stores
have no locks, and some network file systems refuse them: there, two runs are not kept apart.
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
LOCK_TIMEOUT_S = 10.0  # the run that holds the lock may be about to end
HEARTBEAT_S = 1.0


class Lock:
    """Holds a workdir until `release`, or the end of the process.

    Attributes:
      before: the last heartbeat of the process that held it before, in seconds since 1970; 0.0 for none.

    Raises:
      UserError: another process still holds it after `timeout_s`.
    """

    def __init__(self, workdir: pathlib.Path, timeout_s: float = LOCK_TIMEOUT_S):
        path = workdir / NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        until = time.monotonic() + timeout_s
        # A lock of the process, not of the open file: forked workers that outlive it would keep the latter.
        while fcntl is not None:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    holder = os.pread(self._file, 200, 0).decode(errors='replace').strip() or 'another process'
                    os.close(self._file)
                    raise UserError(f'{workdir}: got a workdir in which {holder} is writing a run; fix: wait for its end, stop '
                                    'it, or choose another --workdir', code='workdir/locked') from None
                time.sleep(0.1)
            except OSError:  # this file system has no locks
                break
        known = os.fstat(self._file)
        self.before = known.st_mtime if known.st_size else 0.0
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)
        self._released = threading.Event()
        threading.Thread(target=self._beat, name='heartbeat', daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a disk that is full or gone is found by those who write to it
                os.utime(self._file)
        os.close(self._file)

    def release(self) -> None:
        """Releases the workdir."""
        if self._released.is_set():
            return
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._released.set()
