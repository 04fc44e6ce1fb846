"""What the local engine starts in the place of each process: it runs the command, and outlives neither launcher nor command.

    python child.py LIFE COMMAND…

LIFE is one end of a socket pair. The command's end is reported there, as 'CODE TIME'; and when the other end closes, however
the launcher died, the whole process group is killed. After the report it waits to be killed: until then the number of the
group is not given to anybody else. Run as a file, so that it needs nothing but Python.
"""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def main(life: int, command: list[str]) -> None:
    """Never returns: the group ends by SIGKILL."""
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))  # is for the command, which is in the group, too
    threading.Thread(target=_die_with_the_launcher, args=(life,)).start()
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"launch: '{command[0]}' cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        code = 2
    else:
        if told:  # before the command could hear it
            process.terminate()
        code = process.wait()
    when = time.monotonic()
    _let_go()
    with contextlib.suppress(OSError):
        os.write(life, f'{code} {when}'.encode())


def _die_with_the_launcher(life: int) -> None:
    with contextlib.suppress(OSError):
        os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def _let_go() -> None:
    """Closes the output, whose end the launcher waits for."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


if __name__ == '__main__':
    main(int(sys.argv[1]), sys.argv[2:])
