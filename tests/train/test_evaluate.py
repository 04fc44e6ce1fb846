"""Evaluation: every example once, for any batch size, number of devices, and kind of data."""
import threading
import time

import jax
import numpy as np
import pytest

from bigjax.sharding import mesh as meshes
from bigjax.train.evaluate import Stopped
from tests import tiny
from tests.refused import refused


def run(count, batch, mesh, **options):
    p = tiny.program([tiny.experiment(test=count, compute=gather, keep=('x', 'label'), **options)], eval_batch_size=batch,
                     mesh=mesh, batch_size=8)
    carry = p.init()
    return p, carry, p.evaluation.run('test', carry['state'].variables())


def gather(outputs, examples):
    assert len(outputs) == len(examples['label'])
    hits = (outputs.argmax(1) == examples['label'])
    return {'hand_accuracy': float(hits.mean()), 'order': float((examples['x'][:, 0] * np.arange(len(hits))).sum())}


@pytest.mark.parametrize('count', [1, 7, 1000, 10_007])
@pytest.mark.parametrize(('batch', 'mesh'), [(64, 'data:1'), (64, 'data:4'), (1000, 'data:8')])
def test_the_mean_over_every_example(count, batch, mesh):
    p, carry, (metrics, _) = run(count, batch, mesh)
    arrays = tiny.source(count, 1).arrays
    logits = np.asarray(p.apply(carry['state'].variables(), arrays['x'])[0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert metrics['test/examples'] == [count]
    np.testing.assert_allclose(metrics['test/loss'], -log_p[np.arange(count), arrays['label']].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics['test/accuracy'], (logits.argmax(1) == arrays['label']).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics['test/hand_accuracy'], metrics['test/accuracy'], rtol=1e-6)
    np.testing.assert_allclose(metrics['test/order'], (arrays['x'][:, 0] * np.arange(count)).sum(), rtol=1e-4)


def test_data_from_the_pipeline_gives_the_same(tmp_path):
    kept = run(50, 16, 'data:2')[2][0]
    read = run(50, 16, 'data:2', transform=lambda example, rng, train: example)[2][0]
    assert kept.keys() == read.keys()
    for name in kept:
        np.testing.assert_allclose(kept[name], read[name], rtol=1e-5)


def test_only_the_kept_keys_leave_the_device(monkeypatch):
    """Images of a large split would fill the host's memory; every array that is gathered is seen here."""
    seen = []
    whole = meshes.to_host
    monkeypatch.setattr(meshes, 'to_host', lambda tree: seen.append(tree) or whole(tree))

    def compute(outputs, examples):
        assert set(examples) == {'label'}
        return {'hits': float((outputs.argmax(1) == examples['label']).sum())}

    for transform in (None, lambda example, rng, train: example):
        p = tiny.program([tiny.experiment(test=50, compute=compute, transform=transform)], eval_batch_size=16)
        assert p.evaluation.run('test', p.init()['state'].variables())[0]['test/examples'] == [50]
    shapes = {np.shape(x) for x in jax.tree.leaves(seen)}
    assert shapes == {(16, 3), (16,)}  # logits and labels


def test_a_key_that_is_not_there_is_refused_before_anything_runs():
    with refused('evaluator/no-key', "'test'", "'target'", 'x, label'):
        assert tiny.program([tiny.experiment(compute=gather, keep=('target',))]).evaluation
    assert tiny.program([tiny.experiment(keep=('target',))]).evaluation  # without compute nothing is kept


def slow(example, rng, train):
    time.sleep(0.01)
    return example


@pytest.mark.parametrize('result', [None, [1.0], 3.0, {1: 2.0}], ids=str)
def test_a_compute_that_returns_no_mapping_is_refused(result):
    p = tiny.program([tiny.experiment(compute=lambda outputs, examples: result)])
    with refused('evaluator/result', 'test', type(result).__name__):
        p.evaluation.run('test', p.init()['state'].variables())


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_examples_are_read_in_parallel_and_ahead(workers):
    """96 examples that take 10 ms each: 0.96 s one by one."""
    p = tiny.program([tiny.experiment(test=96, transform=slow)], eval_batch_size=8, data_threads=8, data_workers=workers)
    variables = p.init()['state'].variables()
    first = p.evaluation.run('test', variables)[0]
    started = time.perf_counter()
    assert p.evaluation.run('test', variables)[0] == first
    assert workers or time.perf_counter() - started < 0.6


def test_an_evaluation_that_is_left_early_ends_its_reading():
    p = tiny.program([tiny.experiment(test=4000, transform=slow)], eval_batch_size=8)
    asked = iter([False, False, True])
    before = threading.active_count()
    with pytest.raises(Stopped):
        p.evaluation.run('test', p.init()['state'].variables(), stop=lambda: next(asked))
    deadline = time.time() + 10
    while threading.active_count() > before and time.time() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_predictions_draw_other_numbers_in_every_batch_and_the_same_in_every_run():
    def draws(apply, variables, batch, rng):
        return jax.random.normal(rng, (batch['x'].shape[0],))

    def compute(outputs, examples):
        return {'draws': outputs, 'different': float(len(np.unique(outputs)))}

    found = [tiny.program([tiny.experiment(test=40, predict=draws, compute=compute)], eval_batch_size=8, seed=seed)
             for seed in (0, 0, 1)]
    runs = [p.evaluation.run('test', p.init()['state'].variables()) for p in found]
    first, again, other = (artifacts[0]['draws'] for _, artifacts in runs)
    assert runs[0][0]['test/different'] == [40] and np.array_equal(first, again) and not np.isin(first, other).any()
    members = tiny.program([tiny.experiment(test=40, predict=draws, compute=compute)], eval_batch_size=8, population=2)
    alone = members.evaluation.run('test', members.init()['state'].variables())[1]
    assert np.array_equal(alone[0]['draws'], first) and np.array_equal(alone[1]['draws'], other)


def test_members_are_judged_each_by_its_weights():
    p = tiny.program([tiny.experiment(compute=gather, keep=('x', 'label'))], population=3)
    carry = p.init()
    metrics, artifacts = p.evaluation.run('test', carry['state'].variables())
    assert len(artifacts) == 3
    for m in range(3):
        alone = tiny.program([tiny.experiment(compute=gather, keep=('x', 'label'))], seed=m)
        single = alone.evaluation.run('test', alone.init()['state'].variables())[0]
        for name in metrics:
            np.testing.assert_allclose(metrics[name][m], single[name][0], rtol=1e-5, atol=1e-6)
    assert len({round(v, 5) for v in metrics['test/loss']}) == 3 and jax.device_count() == 8
