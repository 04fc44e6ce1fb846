"""A logical axis of an experiment's own: a table whose rows are split over the devices that divide the batch."""
import flax.linen as nn
import jax
import numpy as np

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment
from bigjax.sharding import logical
from bigjax.tasks import classification
from tests import tiny


class Lookup(nn.Module):
    """The sum of two rows of a table -> logits."""

    @nn.compact
    def __call__(self, ids, *, train):
        rows = nn.Embed(64, 6, name='table')(ids)
        return nn.Dense(3, name='head')(logical.constrain(rows.sum(1), 'batch', None))


def program(mesh, axes):
    rng = np.random.default_rng(0)
    source = ArraySource({'x': rng.integers(0, 64, (32, 2)).astype(np.int32), 'label': rng.integers(0, 3, 32).astype(np.int32)})
    rules = (('table/embedding', ('rows', None)), ('head/kernel', (None, None)), ('head/bias', (None,)))
    optimizer = {'name': 'sgd', 'lr': 0.5, 'momentum': 0.9}
    experiment = Experiment(Lookup(), classification.softmax('x'), Data(source, {}), optimizer, {}, partition_rules=rules,
                            axes=axes)
    return tiny.program([experiment], mesh=mesh, ema=0.0, accumulate=2)


def trained(p):
    """(rows of the table, and of its momentum, on one device; the parameters after three steps)."""
    carry, feed = p.init(), p.feed(0)
    for step in range(3):
        state, totals, _ = p.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state, 'totals': totals}
    feed.close()
    rows = [x.addressable_shards[0].data.shape[0] for x in jax.tree.leaves((state.params, state.opt_state)) if 64 in x.shape]
    return rows, jax.tree.map(np.asarray, state.params)


def test_a_table_over_the_axes_of_the_batch_trains_as_on_one_device():
    whole_rows, alone = trained(program('data:1', {'rows': None}))
    rows, params = trained(program('data:2,fsdp:2', {'rows': ('data', 'fsdp')}))
    assert set(whole_rows) == {64} and set(rows) == {16} and len(rows) == 2
    tiny.close(params, alone, rtol=1e-5, atol=1e-6)
