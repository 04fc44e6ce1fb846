"""Evaluation: every example once, for any batch size, number of devices, and kind of data."""
import jax
import numpy as np
import pytest

from tests import tiny


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
