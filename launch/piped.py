"""Child programs that follow a remote log (`kubectl logs -f`, `sky jobs logs`), read without blocking."""
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Sequence

READ_BYTES = 2**16
STDERR_BYTES = 500  # of stderr are kept


class Piped:
    """One program, in a session of its own: Ctrl-C in the terminal reaches the launcher alone and does not cut the log."""

    def __init__(self, argv: Sequence[str]):
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._stderr,
                                         bufsize=0, start_new_session=True)
        os.set_blocking(self._process.stdout.fileno(), False)

    def fileno(self) -> int:
        """The descriptor of its stdout, for a selector."""
        return self._process.stdout.fileno()

    def read(self) -> bytes | None:
        """The bytes available now; b'' at the end of the stream, None if there are none yet."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fileno(), READ_BYTES)
        return None

    def end(self, seconds: float = 5.0) -> tuple[int, str]:
        """(exit code, stderr in one line); kills a program that still runs after that many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        with self._stderr as file:
            file.seek(0)
            words = file.read(STDERR_BYTES).decode(errors='replace')
        return self._process.returncode, ' '.join(words.split())

    def close(self) -> None:
        """Kills it."""
        self.end(0.0)
