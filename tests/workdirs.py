"""Example workdirs, made by the code that makes real ones."""
import math

import numpy as np

from bigjax.experiment import Confusion, Expected
from bigjax.runs.writer import Records

CLASSES = [str(k) for k in range(10)]


def make(workdir, *, experiment='mnist1d', variant='cnn', members=4, steps=6000, accuracy=0.94, paper=0.94, seed=0,
         status='done', expected=True, artifacts=True, lr=1e-2):
    """A run whose losses fall, with a confusion matrix, pictures and text."""
    rng = np.random.default_rng(seed)
    config = {'seed': 0, 'steps': steps, 'batch_size': 100, 'data': 'mnist1d', 'population': members, 'row': variant,
              'model': {'channels': [25, 25, 25], 'classes': 10}, 'optimizer': {'name': 'adam', 'lr': lr}}
    records = Records(workdir, experiment=experiment, variant=variant, config=config, parameters=5210,
                      population=members,
                      command=f'python -m experiments.{experiment} --variant={variant} --workdir=/tmp/run',
                      devices={'platform': 'cpu', 'kind': 'cpu', 'count': 1},
                      info={'classes': CLASSES, 'records': {'train': 4000, 'test': 1000}})
    for step in range(40, steps + 1, 40):
        t = step / steps
        loss = 2.3 * math.exp(-6 * t) + 0.02 + rng.normal(size=members) * 0.03 * math.exp(-3 * t) ** 2
        records.metrics(step, {'train/loss': np.abs(loss), 'train/learning_rate': [lr * (1 - t)],
                               'time/steps_per_second': [820 + 15 * rng.normal()]})
        if step % (steps // 10) == 0:
            right = accuracy * (1 - math.exp(-5 * t)) + rng.normal(size=members) * 0.004
            records.metrics(step, {'test/loss': 0.2 + np.abs(loss), 'test/accuracy': right,
                                   'test/examples': [1000.0] * members})
    if status == 'running':
        return workdir
    if status == 'failed':
        records.fail(RuntimeError('the device is gone'))
        return workdir
    counts = np.diag(rng.integers(80, 100, 10)) + rng.integers(0, 5, (10, 10))
    extra = [{'confusion': Confusion(counts, CLASSES), 'digits': rng.uniform(size=(12, 28, 28, 1)),
              'story': 'Once upon a time there was a <small> network & it learned.'}] if artifacts else []
    published = (Expected('test/accuracy', paper, 0.03, 'Greydanus & Kobak 2024, section 2'),) if expected else ()
    final = {'test/accuracy': accuracy + rng.normal(size=members) * 0.004,
             'test/loss': 0.22 + rng.random(members) * 0.01, 'test/examples': [1000.0] * members}
    records.finish(status, steps, final, published, extra)
    return workdir


def table(root, rows=(('logistic', 0.32, 0.32), ('mlp', 0.68, 0.68), ('cnn', 0.945, 0.94), ('gru', 0.86, 0.91))):
    """A folder of several rows: (variant, our accuracy, the paper's)."""
    for i, (variant, accuracy, paper) in enumerate(rows):
        make(root / variant, variant=variant, accuracy=accuracy, paper=paper, seed=i)
    return root
