"""The train step under pmap is the train step under jit."""
import jax
import numpy as np
import pytest

from bigjax.sharding.pmapped import pmapped, replicate, shard
from tests import tiny
from tests.refused import refused


def still(**changes):
    """The tiny experiment without batch statistics, dropout and augmentation."""
    return tiny.program([tiny.experiment(norm=False, dropout=0.0, augment=None)], **changes)


@pytest.mark.parametrize('accumulate', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_three_steps_on_four_devices_are_those_of_jit_on_one(accumulate):
    p = still(accumulate=accumulate)
    carry, feed, devices = p.init(), p.feed(0), jax.devices()[:4]
    step, state = pmapped(p, devices), replicate(carry['state'], devices)
    for t in range(3):
        batch = feed.host_batch(t, 0)
        state, metrics = step(state, shard(batch, 4))
        carry['state'], expected = jax.jit(p.step)(carry['state'], batch)
        for name, (total, count) in expected.items():
            np.testing.assert_allclose(metrics[name][0], [total] * 4, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(metrics[name][1], [count] * 4)
    feed.close()
    for i in range(4):
        tiny.close(jax.tree.map(lambda x, i=i: x[i], state.params), carry['state'].params, rtol=1e-6, atol=1e-7)


def test_batch_statistics_are_refused():
    with refused('mesh/batch-statistics'):
        pmapped(tiny.program())


@pytest.mark.parametrize('changes', [{'mesh': 'data:2'}, {'population': 2}])
def test_only_one_device_and_one_member(changes):
    with refused('mesh/pmap', 'data:1'):
        pmapped(still(**changes))
