"""The host pipeline: the same batches for any number of processes, threads and workers, from any start."""
import numpy as np
import pytest

from bigjax.data import pipeline
from bigjax.data.sources import ArraySource
from tests.refused import refused

SOURCE = ArraySource({'x': np.arange(30, dtype=np.int32)})


def noisy(example, rng, train):
    return {'x': example['x'], 'noise': rng.normal() if train else 0.0}


def batches(first=0, steps=6, process=0, processes=1, threads=2, workers=0):
    elements = pipeline.TrainBatches(SOURCE, 5, 8, True, first, steps, process, processes, noisy)
    return list(pipeline.read(elements, threads=threads, workers=workers))


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert set(x) == set(y) and all(np.array_equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_share_every_global_batch(processes):
    parts = [batches(process=p, processes=processes) for p in range(processes)]
    joined = [{k: np.concatenate([part[t][k] for part in parts]) for k in parts[0][t]} for t in range(6)]
    same(joined, batches())


@pytest.mark.parametrize('options', [{'threads': 1}, {'threads': 8}, {'workers': 2}])
def test_threads_and_workers_change_nothing(options):
    same(batches(**options), batches())


def test_a_late_start_continues():
    same(batches(first=4), batches()[4:])


def test_batches_differ_and_their_noise_too():
    a, b = batches()[:2]
    assert not np.array_equal(a['x'], b['x']) and len(np.unique(np.concatenate([a['noise'], b['noise']]))) == 16


def test_uneven_processes_are_refused():
    with refused('data/uneven-batch', '8', '3 processes'):
        batches(processes=3)


@pytest.mark.parametrize('size', [1, 4, 7, 30, 64])
def test_evaluation_sees_every_example_once(size):
    elements = pipeline.EvalBatches(SOURCE, size, transform=noisy)
    seen = [batch['x'][mask > 0] for batch, mask in pipeline.read(elements, threads=2, workers=0)]
    assert np.array_equal(np.concatenate(seen), np.arange(30))


def test_stages_name_the_slow_one():
    assert 'reading' in pipeline.Stages(read=2, transform=1).slowest()
    assert 'transforming' in pipeline.Stages(read=1, transform=2).slowest()
