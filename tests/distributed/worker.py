"""What one process of several sees and computes; run by `test_processes`, which compares it with one process alone.

    python -m tests.distributed.worker FOLDER HOST:PORT PROCESSES PROCESS
"""
import json
import pathlib
import sys

import jax
import numpy as np

from bigjax.data.sources import ArraySource
from bigjax.distributed.bootstrap import Flags, start
from bigjax.experiment import Data, Evaluator, Experiment
from bigjax.tasks import classification
from bigjax.watchdog.watchdog import Guard
from tests import tiny

STEPS, BATCH = 7, 8


def source(count, seed):
    """The tiny examples, each with its number."""
    return ArraySource({**tiny.source(count, seed).arrays, 'id': np.arange(count, dtype=np.int32)})


def noise(example, rng, train):
    """A transform on the host that draws numbers."""
    return {**example, 'x': example['x'] + np.float32(0.1) * rng.normal(size=5).astype(np.float32)} if train else example


def judge(outputs, examples):
    """Depends on every prediction, every example and their order; only whole splits, gathered in order, give it."""
    place = np.arange(1, len(examples['id']) + 1)
    probability = np.exp(np.float64(outputs) - np.float64(outputs).max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    return {'predictions': float(place @ probability @ np.arange(1, 4)), 'ids': float(place @ examples['id'])}


def experiment():
    """19 examples to judge in batches of 8: the last of them fills no process but the first."""
    return Experiment(
        model=tiny.Net(), task=classification.softmax('x'),
        data=Data(source(53, 0), {'test': source(19, 1)}, transform=noise, augment=tiny.jitter),
        optimizer={'name': 'sgd', 'lr': 0.1, 'momentum': 0.9},
        evaluators={'test': Evaluator('test', compute=judge, keep=('id',))})


def facts(workdir, mesh: str) -> dict:
    """The rows of every batch that this process holds, {first row: ids}, and the metrics of a short run."""
    changes = dict(steps=STEPS, batch_size=BATCH, eval_batch_size=8, mesh=mesh, resident='no', eval_every=3,
                   checkpoint_every=3, best='test/loss', population=2)
    feed = tiny.program([experiment()], **(changes | dict(population=1))).feed(0)
    batches = []
    for step in range(STEPS):
        shards = feed.at(step, 1)['id'].addressable_shards
        batches.append({str(s.index[0].start or 0): np.asarray(s.data).tolist() for s in shards})
        feed.ahead(step + 1)
    feed.close()
    outcome, carry = tiny.train(workdir, [experiment()], **changes)
    return {'batches': batches, 'final': outcome.final, 'step': int(np.asarray(carry['state'].step)[0])}


def main(folder, coordinator, processes, process):
    """Writes its facts to FOLDER/PROCESS.json."""
    jax.config.update('jax_num_cpu_devices', 2)
    joined = start(Flags(coordinator, int(processes), int(process)), seconds=120)
    assert jax.device_count() == 2 * int(processes)
    with Guard(peers=joined.peers, name=joined.name):
        found = facts(pathlib.Path(folder) / 'run', 'data:-1')
    (pathlib.Path(folder) / f'{process}.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main(*sys.argv[1:])
