"""The memory that `plan` predicts, against the memory that a step of the same program takes."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

MEASURE = '''
import json, sys, re
import jax
jax.config.update('jax_num_cpu_devices', 8)
from bigjax.nn import cpu
from bigjax.plan import compile, figures, topology
from tests.plan.test_memory import program

def status(key):
    return int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read()).group(1)) * 1024

p = program(sys.argv[1])
call = p.compiled.lower(*p.arguments()).compile()
jax.block_until_ready(jax.jit(lambda: jax.numpy.ones(8))())
before = status('VmRSS')
carry, feed = p.init(), p.feed(0)
jax.clear_caches()
state, totals = jax.block_until_ready((carry['state'], carry['totals']))
items = jax.block_until_ready(feed.at(0, 1))
open('/proc/self/clear_refs', 'w').write('5')
for t in range(3):
    state, totals, halted = call(state, totals, feed.arrays, items)
    jax.block_until_ready(halted)
    items = feed.at(t + 1, 1)
print(json.dumps({'measured': status('VmHWM') - before, 'predicted': figures.plan(p, topology.parse('cpu:8'), None)['memory']}))
'''


def program(mesh):
    """A small decoder whose step takes about a GiB on eight devices."""
    import numpy as np

    from bigjax import config as configs
    from bigjax.data.sources import ArraySource
    from bigjax.experiment import Data, Experiment, base_config
    from bigjax.models import gpt
    from bigjax.tasks import language
    from bigjax.train import settings as settings_module
    from bigjax.train.program import Program
    tokens = np.random.default_rng(0).integers(0, 512, (64, 257)).astype(np.int32)
    source = ArraySource({'tokens': tokens[:, :-1], 'targets': tokens[:, 1:]})
    config = base_config()
    config.batch_size, config.mesh, config.steps = 64, mesh, 10
    config.optimizer = dict(name='adamw', lr=1e-3)
    model = gpt.GPT(vocab_size=512, block_size=256, num_layers=4, num_heads=4, width=256)
    experiment = Experiment(model, language.next_token(), Data(source, {}), config.optimizer, {},
                            partition_rules=gpt.PARTITION_RULES)
    return Program([experiment], settings_module.read(configs.Reader(config), 64))


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path('/proc/self/clear_refs').exists(), reason='needs /proc (Linux)')
@pytest.mark.parametrize('mesh', ['data:8', 'fsdp:8'])
def test_the_memory_of_a_step_is_predicted_within_a_tenth(mesh):
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}  # as a run compiles it
    done = subprocess.run([sys.executable, '-c', MEASURE, mesh], capture_output=True, text=True, env=environment,
                          cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    m = found['predicted']
    predicted = 8 * (m['arguments'] + m['output'] - m['alias'] + m['temporaries'])
    assert predicted == pytest.approx(found['measured'], rel=0.1), (predicted / 2**20, found['measured'] / 2**20)
