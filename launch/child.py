"""The wrapper of each process of the local engine: it runs the command, and outlives neither the launcher nor the command.

    python child.py LIFE COMMAND…

LIFE is one end of a socket pair. The command's end is reported on it as 'CODE TIME'; when the other end closes, however the
launcher died, the wrapper kills its whole process group. After the report it waits to be killed, which keeps the operating
system from reusing the group's number. It runs as a file, so that it needs only the standard library.
"""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def main(life: int, command: list[str]) -> None:
    """Runs the command and reports its end; never returns, as the group ends by SIGKILL."""
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))  # the command is in the group and gets its own
    threading.Thread(target=_die_with_the_launcher, args=(life,)).start()
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"launch: '{command[0]}' cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        code = 2
    else:
        if received:  # before the command existed
            process.terminate()
        code = process.wait()
    when = time.monotonic()
    _close_output()
    with contextlib.suppress(OSError):
        os.write(life, f'{code} {when}'.encode())


def _die_with_the_launcher(life: int) -> None:
    with contextlib.suppress(OSError):
        os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def _close_output() -> None:
    """Closes stdout and stderr: the launcher waits for their end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


if __name__ == '__main__':
    main(int(sys.argv[1]), sys.argv[2:])
