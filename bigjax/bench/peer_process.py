"""A peer in a process of its own: `keep_memory` sets the allocator of a whole process, so in ours a peer would gain by it, too.

The process reads a number of steps per line from its standard input, runs them, and answers with the seconds of all cores
that it has used so far, by which `bigjax.bench.load` tells it from processes that disturb a timing, and with the peak of its
memory.
"""
import atexit
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from bigjax.bench import load


class PeerProcess:
    """`peer(n)` runs n training steps there and returns when they are done.

    Attributes:
      version: the peer's.
      used_s: seconds of all cores that the process has used.
      peak_bytes: see `bigjax.bench.load.peak_bytes`.

    Raises:
      RuntimeError: the process ended.
    """

    def __init__(self, module: str, case: str, arrays: Sequence[np.ndarray]):
        self._folder = tempfile.TemporaryDirectory()
        path = pathlib.Path(self._folder.name) / 'batch.npz'
        np.savez(path, *arrays)
        self._process = subprocess.Popen([sys.executable, '-m', __name__, module, case, str(path)], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
        atexit.register(self.close)
        self.used_s, self.peak_bytes = 0.0, 0
        self.version = self._answer().strip()

    def __call__(self, steps: int) -> None:
        print(steps, file=self._process.stdin, flush=True)
        used_s, peak_bytes = self._answer().split()
        self.used_s, self.peak_bytes = float(used_s), int(peak_bytes)

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f'the process of the peer ended: got exit code {self._process.wait()}, expected an answer; fix: '
                               'see its own message above')
        return line

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def main(module: str, case: str, path: str) -> None:
    """The loop of the process."""
    peer = importlib.import_module(module)
    with np.load(path, allow_pickle=False) as file:
        run = peer.stepper(case, *(file[name] for name in file.files))
    print(peer.version(), flush=True)
    for line in sys.stdin:
        run(int(line))
        print(time.process_time(), load.peak_bytes(), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
