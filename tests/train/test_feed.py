"""The feed: step 1,000,000 is as near as step 0, in time and in what is read, from the device and from the pipeline."""
import collections
import statistics
import time

import jax
import numpy as np
import pytest

from bigjax.data import order, pipeline
from bigjax.data.sources import ArraySource, Map
from bigjax.data.windows import WindowSource
from bigjax.experiment import Data
from bigjax.sharding import mesh as meshes
from bigjax.train import cautions
from bigjax.train import feed as feeds
from bigjax.train.feed import Feed, Resident, fits_on_device
from tests.refused import refused

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


def opened(source, start, cache=None, transform=None, workers=0):
    mesh = meshes.make('data:1', jax.devices()[:1])
    return Feed([Data(source, {}, transform)], [SEED], members=None, batch_size=BATCH, mesh=mesh,
                cache=cache or Resident(mesh), resident='auto', threads=2, workers=workers, start=start,
                steps=max(start, FAR) + 1000)


def seconds(start, times, *args, **options):
    """From opening the feed to holding its first batch, so many times."""
    spent = 0.0
    for _ in range(times):
        began = time.perf_counter()
        feed = opened(args[0], start, *args[1:], **options)
        feed.at(start, 1)
        spent += time.perf_counter() - began
        feed.close()
    return spent


@pytest.mark.timeout(600)
@pytest.mark.parametrize(('kind', 'workers', 'times', 'pairs'), [
    ('resident', 0, 40, 15), ('pipeline', 0, 4, 15), pytest.param('pipeline', 1, 1, 5, marks=pytest.mark.slow)])
def test_a_far_step_comes_as_fast_as_the_first(kind, workers, times, pairs):
    """In turn, and each time long enough for a millisecond to be little; a busy machine gets three tries."""
    args = SOURCES[kind], Resident(meshes.make('data:1', jax.devices()[:1]))
    seconds(0, 1, *args, workers=workers)  # imports Grain, puts the arrays on the device
    for _ in range(3):
        found = [[seconds(start, times, *args, workers=workers) for start in (0, FAR)] for _ in range(pairs)]
        near, far = (statistics.median(each) for each in zip(*found, strict=True))
        if far <= 1.2 * near + 0.001:
            return
    pytest.fail(f'{far:.4f} s at step {FAR}, {near:.4f} s at step 0')


def test_a_far_step_takes_no_more_of_the_order_than_the_first(monkeypatch):
    """Positions that are permuted for the first batch, and how often: all in one call."""
    permute, asked = order.permute, []
    monkeypatch.setattr(order, 'permute', lambda index, *rest: asked.append(np.size(index)) or permute(index, *rest))
    for start in (0, 7, FAR):
        asked.clear()
        opened(SOURCES['resident'], start).at(start, 1)
        assert [size for size in asked if size > 1] == [order.BLOCK * BATCH]  # threads of other tests ask for single examples


def test_streams_longer_than_devices_count_stay_with_the_host(monkeypatch):
    """2^32 windows, of a stream that takes no memory; its bytes alone would not keep it there."""
    monkeypatch.setattr(feeds, 'RESIDENT_BYTES', 2**40)
    source = WindowSource(np.broadcast_to(np.uint8(7), 2**32 + 64), 64)
    few = WindowSource(source.arrays['stream'], 64, stride=64)  # fewer windows; their places are as far
    for each in (source, few):
        assert not fits_on_device(each, Data(each, {}), 'auto')
        with refused('data/not-resident', 'WindowSource', '--config.resident=auto'):
            fits_on_device(each, Data(each, {}), 'yes')
    feed = opened(source, 2**31 // BATCH)
    assert np.array_equal(feed.at(2**31 // BATCH, 1)['tokens'], np.full((BATCH, 64), 7))
    feed.close()
    assert fits_on_device(SOURCES['resident'], Data(SOURCES['resident'], {}), 'yes')


@pytest.mark.parametrize('start', [0, 7, FAR])
@pytest.mark.parametrize('transform', [None, lambda example, rng, train: example])
def test_nothing_before_the_start_is_read(start, transform):
    source = Counted()
    feed = opened(source, start, transform=transform)
    batch = feed.at(start, 1)
    feed.close()
    ahead = order.batch_indices(SEED, start, pipeline.PREFETCHED_BATCHES + 4, BATCH, LENGTH, True)
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


def test_a_batch_that_is_larger_than_the_data_is_a_warning():
    data = Data(ArraySource({'x': np.zeros(30)}), {})
    assert cautions.repeats(data, 30) == '' and all(word in cautions.repeats(data, 75) for word in ('75', '30', '2.5 times'))


@pytest.mark.parametrize('start', [FAR, 0, 1250])
def test_both_ways_give_the_same_batches(start):
    host = Map(SOURCES['resident'], dict)
    ours, resident = opened(host, start), opened(SOURCES['resident'], start)
    for step in range(start, start + 5):
        index = resident.at(step, 1)[0]
        assert np.array_equal(ours.at(step, 1)['x'], SOURCES['resident'].arrays['x'][index])
        ours.ahead(step + 1)
    ours.close()
