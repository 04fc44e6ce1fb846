"""The peak memory of a run that resumes is that of a run: the state is restored into shapes, not beside an initialised one."""
import os
import subprocess
import sys

import pytest

RUN = """
import dataclasses, io, pathlib, sys
import flax.linen as nn
from bigjax.checkpoint import manager
from bigjax.runs.progress import Progress
from tests import tiny

class Wide(nn.Module):  # 21 million parameters; with Adam's moments 252 MB
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, name='head')(nn.relu(nn.Dense(4608, name='hidden')(nn.relu(nn.Dense(4608, name='first')(x)))))

what, workdir, steps = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
e = dataclasses.replace(tiny.experiment(norm=False, optimizer={'name': 'adam', 'lr': 1e-4}), model=Wide())
program = tiny.program([e], ema=0.0, steps=steps, log_every=4, eval_every=4, checkpoint_every=4)
if what == 'train':
    tiny.run(program, workdir, Progress(stream=io.StringIO()))
else:
    program.variables(program.restore_weights(manager.newest(workdir)))
# VmHWM begins with the program; ru_maxrss would begin with the peak of the process that started it.
print(int(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]) // 1024)
"""


def peak(*argv) -> int:
    """MiB of a process of its own."""
    done = subprocess.run([sys.executable, '-c', RUN, *map(str, argv)], capture_output=True, text=True, check=True,
                          env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='/proc has the peak of a process')
def test_a_resumed_run_needs_no_more_memory_than_a_running_one(tmp_path):
    fresh, resumed, judged = peak('train', tmp_path, 24), peak('train', tmp_path, 28), peak('eval', tmp_path, 28)
    print(f'MiB: fresh {fresh}, resumed {resumed}, eval {judged}')
    assert resumed <= 1.1 * fresh and judged <= 0.75 * fresh
