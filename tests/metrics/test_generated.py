"""The judge of generated images: its figures against SciPy and definitions, its weights against what their record states."""
import math
import os
import pathlib

import numpy as np
import pytest
from scipy import linalg

from bigjax.metrics import generated
from experiments import sample_judge
from tests.refused import refused

RNG = np.random.default_rng(0)


def test_frechet_equals_the_matrix_root_of_scipy():
    a = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6)) + 1
    b = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    assert generated.frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert abs(generated.frechet(a, a)) < 1e-9


def test_frechet_of_known_normal_distributions():
    """Of N(0, 1) and N(m, s²): m² + (1 - s)², for sets whose moments are exact."""
    x = RNG.normal(size=(1000, 1))
    x = (x - x.mean()) / x.std(ddof=1)
    assert generated.frechet(x, 2 + 3 * x) == pytest.approx(4 + 4)
    rank_one = np.concatenate([x, np.zeros_like(x)], axis=1)  # a singular covariance
    assert generated.frechet(rank_one, 2 * rank_one) == pytest.approx(1)


def by_definition(real, fake, k):
    """Precision by the sentence of the paper, one pair at a time."""
    inside = 0
    for sample in fake:
        for i, centre in enumerate(real):
            radius = sorted(math.dist(centre, other) for j, other in enumerate(real) if j != i)[k - 1]
            if math.dist(sample, centre) <= radius:
                inside += 1
                break
    return inside / len(fake)


def test_precision_and_recall_by_definition():
    real, fake = RNG.normal(size=(30, 2)), RNG.normal(size=(20, 2)) * 1.5 + 0.7
    assert generated.precision_recall(real, fake) == (by_definition(real, fake, 3), by_definition(fake, real, 3))


def test_precision_sees_strangers_and_recall_sees_what_is_missing():
    real = np.concatenate([RNG.normal(size=(200, 3)), RNG.normal(size=(200, 3)) + 20])
    assert generated.precision_recall(real, real[:200] + 1e-3) == (1.0, pytest.approx(0.5, abs=0.02))
    precision, recall = generated.precision_recall(real, np.concatenate([real, real + 1000]))
    assert precision == 0.5 and recall == 1.0


def test_legibility_shares_and_entropy():
    logits = np.log([[0.91, 0.05, 0.04], [0.89, 0.06, 0.05], [0.02, 0.02, 0.96], [1 / 3] * 3])
    assert generated.legibility(logits) == 0.5 and generated.legibility(logits + 1000) == 0.5
    np.testing.assert_allclose(generated.class_shares(logits), [0.75, 0, 0.25])
    assert generated.entropy([0.75, 0, 0.25]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert generated.entropy([0.1] * 10) == pytest.approx(math.log(10))


def real_images(name, count):
    from bigjax.data.datasets import load
    folder = os.environ.get('BIGJAX_DATA', '')
    if not (pathlib.Path(folder) / name).is_dir():
        pytest.skip(f'{name} is not in BIGJAX_DATA')
    arrays = load(name).evals['test'].arrays
    return arrays['image'][:count].astype(np.float32) / 255, arrays['label'][:count]


@pytest.mark.parametrize('name', generated.NAMES)
def test_a_judge_is_as_good_as_its_record_states(name):
    images, labels = real_images(name, 1000)
    seen, facts = generated.see(images, name), generated.facts(name)
    spread = 3 * math.sqrt(facts['accuracy'] * (1 - facts['accuracy']) / 1000)
    assert abs(np.mean(seen.logits.argmax(1) == labels) - facts['accuracy']) < spread + 0.002
    assert abs(generated.legibility(seen.logits) - facts['sure']) < 0.05
    assert facts['command'].startswith('python -m experiments.sample_judge') and len(facts['commit']) == 40
    assert sum(p.size for p in jax_leaves(generated.weights(name))) == facts['parameters'] == 60_874


def jax_leaves(tree):
    import jax
    return jax.tree.leaves(tree)


@pytest.mark.parametrize('name', generated.NAMES)
def test_no_class_for_what_is_none(name):
    """Noise, flat images, and images whose squares are out of order are not legible."""
    noise = RNG.uniform(size=(200, 28, 28, 1))
    flat = np.broadcast_to(np.linspace(0, 1, 50)[:, None, None, None], (50, 28, 28, 1))
    for images, most in ((noise, 0.02), (flat, 0.2)):
        assert generated.legibility(generated.see(images, name).logits) <= most
    images, labels = real_images(name, 400)
    mixed = (images[:200] + images[200:])[labels[:200] != labels[200:]] / 2
    assert generated.legibility(generated.see(mixed, name).logits) < 0.2


def test_real_images_are_good_samples_and_faults_are_seen():
    images, _ = real_images('mnist', 2000)
    real, good = images[:1000], images[1000:]
    found = generated.compared(good, real)
    assert found['legible'] == pytest.approx(found['legible_real'], abs=0.03) and found['legible'] > 0.9
    assert found['precision'] > 0.8 and found['recall'] > 0.8 and found['class_entropy'] > 2.2
    one = generated.compared(np.broadcast_to(good[:1], good.shape) + 0.0, real)
    assert one['recall'] < 0.1 and one['class_entropy'] == 0 and one['rarest_class'] == 0
    blurred = generated.compared(0.5 * good + 0.5 * np.roll(good, 1, axis=0), real)
    assert blurred['legible'] < 0.3 and blurred['frechet'] > 10 * found['frechet']
    assert blurred['precision'] < found['precision'] - 0.2
    assert found['classes_of_samples'].count('\n') == 9


def test_images_are_judged_in_parts_alike(monkeypatch):
    images = RNG.uniform(size=(7, 28, 28, 1)).astype(np.float32)
    whole = generated.see(images)
    monkeypatch.setattr(generated, 'TOGETHER', 3)
    for a, b in zip(whole, generated.see(images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_refusals():
    with refused('metrics/judge-shape', '(32, 32, 3)', '(28, 28, 1)'):
        generated.see(np.zeros((2, 32, 32, 3)))
    with refused('metrics/judge', 'fashion', 'fashion_mnist'):
        generated.see(np.zeros((2, 28, 28, 1)), 'fashion')


def test_outliers_belong_to_no_class():
    import jax
    batch = {'image': RNG.uniform(size=(64, 28, 28, 1)).astype(np.float32), 'label': np.arange(64, dtype=np.int32) % 10}
    made = jax.jit(sample_judge.outliers(0.25, 10))(batch, jax.random.key(0))
    changed = np.any(np.asarray(made['image']) != batch['image'], axis=(1, 2, 3))
    assert changed[:16].all() and not changed[16:].any()
    np.testing.assert_allclose(made['target'][:16], 0.1)
    np.testing.assert_array_equal(made['target'][16:], np.eye(10)[batch['label'][16:]])
    alike = dict(batch, label=np.zeros(64, np.int32))  # pairs of one class stay as they are
    again = jax.jit(sample_judge.outliers(1.0, 10))(alike, jax.random.key(0))
    same = np.all(np.asarray(again['image']) == batch['image'], axis=(1, 2, 3))
    assert 10 < same.sum() < 45 and (np.asarray(again['target'])[same, 0] == 1).all()
