"""The feed: step 1,000,000 is as near as step 0, in time and in what is read, from the device and from the pipeline."""
import collections
import statistics
import time

import jax
import numpy as np
import pytest

from bigjax.data import order, pipeline
from bigjax.data.sources import ArraySource, Map
from bigjax.experiment import Data
from bigjax.parallel import mesh as meshes
from bigjax.train.feed import Feed, Resident

FAR = 10**6
LENGTH, BATCH, SEED = 10_007, 8, 3


class Counted:
    """A source that remembers what was read of it."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        self.read.append(index)
        return {'x': np.int32(index)}


SOURCES = {'resident': ArraySource({'x': np.arange(LENGTH, dtype=np.int32)}), 'pipeline': Counted()}


def opened(source, start, cache=None, transform=None):
    mesh = meshes.make('data:1', jax.devices()[:1])
    return Feed([Data(source, {}, transform)], [SEED], members=None, batch_size=BATCH, mesh=mesh,
                cache=cache or Resident(mesh), resident='auto', threads=2, workers=0, start=start, steps=FAR + 1000)


def seconds(source, start, cache):
    """From opening the feed to holding its first batch."""
    began = time.perf_counter()
    feed = opened(source, start, cache)
    feed.at(start, 1)
    spent = time.perf_counter() - began
    feed.close()
    return spent


@pytest.mark.parametrize('kind', SOURCES)
def test_a_far_step_comes_as_fast_as_the_first(kind):
    source, cache = SOURCES[kind], Resident(meshes.make('data:1', jax.devices()[:1]))
    seconds(source, 0, cache)  # imports Grain, puts the arrays on the device
    pairs = [(seconds(source, 0, cache), seconds(source, FAR, cache)) for _ in range(9)]
    near, far = (statistics.median(each) for each in zip(*pairs, strict=True))
    assert far <= 1.2 * near + 0.02, f'{far:.4f} s at step {FAR}, {near:.4f} s at step 0'


@pytest.mark.parametrize('start', [0, 7, FAR])
@pytest.mark.parametrize('transform', [None, lambda example, rng, train: example])
def test_nothing_before_the_start_is_read(start, transform):
    source = Counted()
    feed = opened(source, start, transform=transform)
    batch = feed.at(start, 1)
    feed.close()
    ahead = order.batch_indices(SEED, start, pipeline.SPARE + 4, BATCH, LENGTH, True)
    assert np.array_equal(batch['x'], ahead[0])
    read = list(source.read)
    assert len(read) >= BATCH
    assert collections.Counter(read) <= collections.Counter(ahead.ravel().tolist())


@pytest.mark.parametrize('start', [0, 7, FAR])
def test_what_is_on_the_device_is_not_read_at_all(start, monkeypatch):
    asked = []
    computed = order.batch_indices
    monkeypatch.setattr(order, 'batch_indices', lambda *a: asked.append(a[1:4]) or computed(*a))
    monkeypatch.setattr(ArraySource, '__getitem__', lambda *_: pytest.fail('an example was read'))
    feed = opened(SOURCES['resident'], start)
    assert np.array_equal(feed.at(start, 2), computed(SEED, start, 2, BATCH, LENGTH, True))
    blocks = [first for first, _, batch_size in asked if batch_size == BATCH]  # threads of other tests ask for single examples
    assert blocks == [start]


@pytest.mark.parametrize('start', [FAR, 0, 1250])
def test_both_ways_give_the_same_batches(start):
    host = Map(SOURCES['resident'], dict)
    ours, resident = opened(host, start), opened(SOURCES['resident'], start)
    for step in range(start, start + 5):
        index = resident.at(step, 1)[0]
        assert np.array_equal(ours.at(step, 1)['x'], SOURCES['resident'].arrays['x'][index])
        ours.ahead(step + 1)
    ours.close()
