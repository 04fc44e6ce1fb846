"""A small experiment with everything a state can hold: batch statistics, dropout, a moving average, augmentation."""
import io
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax import config as configs
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Evaluator, Experiment, base_config
from bigjax.io import nested
from bigjax.runs.progress import Progress
from bigjax.runs.writer import Records
from bigjax.tasks import classification
from bigjax.train import settings as settings_module
from bigjax.train.loop import Loop
from bigjax.train.program import Program


class Net(nn.Module):
    """Dense, and batch norm and dropout where asked."""

    norm: bool = True
    dropout: float = 0.3
    width: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(self.width, name='hidden')(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(3, name='head')(x)


def source(count, seed=0):
    """Three noisy classes in five dimensions."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, count).astype(np.int32)
    x = rng.normal(size=(count, 5)) + 1.5 * np.eye(3, 5)[label]
    return ArraySource({'x': x.astype(np.float32), 'label': label})


def jitter(batch, rng):
    """Noise on the inputs."""
    return {**batch, 'x': batch['x'] + 0.1 * jax.random.normal(rng, batch['x'].shape)}


def experiment(train=53, test=17, norm=True, dropout=0.3, augment=jitter, optimizer=None, transform=None, **evaluator):
    """The tiny experiment."""
    return Experiment(
        model=Net(norm, dropout), task=classification.softmax('x'),
        data=Data(source(train), {'test': source(test, 1)}, augment=augment, transform=transform),
        optimizer=optimizer or {'name': 'sgd', 'lr': 0.1, 'momentum': 0.9},
        evaluators={'test': Evaluator('test', **evaluator)})


def config(**changes):
    """Settings for a few steps of 8."""
    config = base_config()
    base = dict(steps=12, batch_size=8, log_every=3, eval_every=4, checkpoint_every=6, mesh='data:1', ema=0.9)
    for key, value in (base | changes).items():
        config[key] = value
    return config


def program(experiments=None, **changes):
    """The tiny experiment, compiled under a config."""
    experiments = experiments or [experiment()]
    return Program(experiments, settings_module.read(configs.Reader(config(**changes)), len(experiments[0].data.train)))


def run(program, workdir, progress, guard=None):
    """The outcome of a program's loop in a workdir."""
    s = program.settings
    records = Records(workdir, experiment='tiny', variant='', config=nested.plain(config()), command='tiny',
                      population=s.population, seed=s.seed)
    return Loop(program, workdir, records, progress, guard=guard).run()


def train(workdir, experiments=None, progress=None, guard=None, **changes):
    """(loop outcome, final carry) of a run in a workdir."""
    p = program(experiments, **changes)
    outcome = run(p, workdir, progress or Progress(stream=io.StringIO()), guard)
    return outcome, p.restore(workdir / 'checkpoints' / str(outcome.step))


def zeros(tree):
    """The tree with zeros for numbers."""
    return jax.tree.map(jnp.zeros_like, tree)


def leaves(tree):
    """Every leaf as NumPy, keys as their data."""
    def one(x):
        return np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
    return [one(x) for x in jax.tree.leaves(tree)]


def equal(a, b):
    """Bit for bit."""
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(leaves(a), leaves(b), strict=True))


def close(a, b, **tolerance):
    """Within float tolerance."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)
