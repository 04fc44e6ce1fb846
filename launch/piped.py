"""Programs that follow a log elsewhere (`kubectl logs -f`, `sky jobs logs`), read as they write."""
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

CHUNK = 2**16  # bytes read at once
WORDS = 500  # bytes of its complaints that are kept


class Piped:
    """One program. In a session of its own: Ctrl-C in the terminal is for the launcher, and does not cut the log."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None):
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._complaints,
                                         bufsize=0, env=env, start_new_session=True)
        os.set_blocking(self._process.stdout.fileno(), False)

    def fileno(self) -> int:
        """Of its stdout, for a selector."""
        return self._process.stdout.fileno()

    def read(self) -> bytes | None:
        """What it has written by now, b'' when there is no more to come, None where there is nothing yet."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fileno(), CHUNK)
        return None

    def end(self, seconds: float = 5.0) -> tuple[int, str]:
        """Its exit code and its complaints; it is killed where it still runs after so long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        with self._complaints as file:
            file.seek(0)
            words = file.read(WORDS).decode(errors='replace')
        return self._process.returncode, ' '.join(words.split())

    def close(self) -> None:
        """Ends it now."""
        self.end(0.0)
