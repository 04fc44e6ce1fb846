"""A long run of something small, which writes down what it holds of the machine: the subject of `test_soak`.

    python -m tests.trust.soak WORKDIR STEPS SAVES
"""
import contextlib
import ctypes
import json
import os
import pathlib
import sys
import threading

from bigjax.nn import cpu
from bigjax.runs import writer
from bigjax.runs.progress import Progress
from bigjax.watchdog.watchdog import Guard
from tests import tiny


def held() -> dict:
    """Resident bytes, open files, threads of this process; memory that the C library keeps free for the next step is given
    back first, else its size is that of the rarest moment at which many threads happened to need some."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL('libc.so.6').malloc_trim(0)
    status = pathlib.Path('/proc/self/status').read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith('VmRSS')).split()[1])
    return {'resident': resident * 1024, 'files': len(os.listdir('/proc/self/fd')), 'threads': threading.active_count()}


def main(workdir: str, steps: int, saves: int) -> None:
    """Trains, saves and evaluates; WORKDIR/held.json has what was held at each evaluation."""
    cpu.keep_memory()  # as every run of the command line
    found, metrics = [], writer.Records.metrics

    def looked(self, step, values):
        metrics(self, step, values)
        if any(name.startswith('test/') for name in values):
            found.append({'step': step, **held()})

    writer.Records.metrics = looked
    every = steps // saves
    cadence = dict.fromkeys(('log_every', 'eval_every', 'checkpoint_every'), every)
    program = tiny.program([tiny.experiment(train=8192, test=256)], steps=steps, batch_size=1024, **cadence)
    with Guard() as guard, open(os.devnull, 'w') as quiet:
        tiny.run(program, pathlib.Path(workdir), Progress(stream=quiet), guard)
        spent = guard.clock.spent()
    (pathlib.Path(workdir) / 'held.json').write_text(json.dumps({'held': found, 'seconds': spent}))


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
