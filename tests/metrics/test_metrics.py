"""Metrics of a whole split against scikit-learn, SciPy and formulas; the direction of every known name."""
import numpy as np
import pytest
from scipy import stats

from bigjax import metrics
from bigjax.metrics import accuracy, confusion, likelihood, regression, sequence

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(60, 7)).astype(np.float32), RNG.integers(0, 7, 60).astype(np.int32)


@pytest.mark.parametrize(('name', 'direction'), [
    ('val/accuracy', 'higher'), ('test/loss', 'lower'), ('train/loss', 'lower'), ('val/map', 'higher'), ('mAP50', 'higher'),
    ('test/ndcg@10', 'higher'), ('test/hit_rate', 'higher'), ('val/recall@5', 'higher'), ('val/iou', 'higher'),
    ('r2', 'higher'),
    ('val/psnr', 'higher'), ('test/bleu', 'higher'), ('test/auc', 'higher'), ('val/top5_accuracy', 'higher'),
    ('top-1', 'higher'),
    ('val/top5_error', 'lower'), ('val/error', 'lower'), ('val/error_rate', 'lower'), ('val/perplexity', 'lower'),
    ('val/bits', 'lower'), ('test/wer', 'lower'), ('val/rmse', 'lower'), ('val/mae', 'lower'), ('test/fid', 'lower'),
    ('test/log_likelihood', 'higher'), ('train/d_loss', None), ('test/two_sample', None),
    ('test/legible', 'higher'), ('val/maps', None), ('val/', None)])
def test_a_metric_carries_its_direction(name, direction):
    assert metrics.better(name) == direction


def test_no_metric_has_two_directions():
    assert not metrics.HIGHER & metrics.LOWER


def test_top_k_equals_scikit_learn():
    reference = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the reference')
    found = accuracy.top_k(LOGITS, {'label': LABELS}, k=(1, 3, 5))
    for k in (1, 3, 5):
        expected = reference.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(7))
        assert found[f'top{k}'] == pytest.approx(expected)


def test_equal_logits_count_once_in_the_order_of_argmax():
    found = accuracy.top_k(np.zeros((2, 4)), {'label': np.array([0, 2])}, k=(1, 3))
    assert found == {'top1': 0.5, 'top3': 1.0}


def test_confusion_and_error_rate_equal_scikit_learn():
    reference = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the reference')
    classes = list('abcdefg')
    found = confusion.error_rate(LOGITS, {'label': LABELS}, classes)
    np.testing.assert_array_equal(found['confusion'].counts, reference.confusion_matrix(LABELS, LOGITS.argmax(1)))
    assert found['confusion'].classes == tuple(classes)
    assert found['error'] == pytest.approx(100 * (1 - reference.accuracy_score(LABELS, LOGITS.argmax(1))))
    binary = confusion.counts(LOGITS[:, 0], LABELS % 2, 2)
    np.testing.assert_array_equal(binary, reference.confusion_matrix(LABELS % 2, LOGITS[:, 0] > 0))


def test_likelihoods():
    outputs = RNG.normal(size=(3, 4))
    assert likelihood.nll(outputs[:, 0], {})['nll'] == pytest.approx(-outputs[:, 0].mean())
    targets = np.array([[1, 2, 0, 0], [1, 0, 0, 0], [3, 4, 5, 6]])
    counted = outputs * (targets != 0)
    found = likelihood.perplexity(counted, {'targets': targets}, ignore=0)['perplexity']
    assert found == pytest.approx(np.exp(-counted.sum() / 7))


def test_predictive_likelihood_is_that_of_a_mixture_of_gaussians():
    truth = RNG.normal(size=9) * 7 + 20
    draws, tau = RNG.normal(size=(9, 6)) * 3 + 20, 0.15
    found = regression.predictive(draws, {'y': truth[:, None]}, tau, 'y')
    density = stats.norm(draws, tau ** -0.5).pdf(truth[:, None]).mean(1)
    np.testing.assert_allclose(found['log_likelihood'], np.log(density).mean(), rtol=1e-6)
    np.testing.assert_allclose(found['rmse'], np.sqrt(((draws.mean(1) - truth) ** 2).mean()), rtol=1e-6)


TARGET = np.array([[1, 3, 4, 2, 0], [1, 5, 3, 3, 2], [1, 2, 0, 0, 0]], np.int32)


@pytest.mark.parametrize('decoded, share', [
    ([[3, 4, 2], [5, 3, 3], [2, 0, 0]], 2 / 3),  # the second does not end
    ([[3, 4, 2, 0, 0, 0], [5, 3, 3, 2, 0, 0], [2, 0, 0, 0, 0, 0]], 1),
    ([[3, 4, 2, 5, 5, 5], [5, 3, 3, 2, 1, 1], [2, 3, 3, 3, 3, 3]], 1),  # tokens after the end do not count
    ([[3, 4, 5, 2, 0, 0], [5, 3, 2, 0, 0, 0], [0, 2, 0, 0, 0, 0]], 0),
])
def test_exact_match(decoded, share):
    assert sequence.exact_match(np.array(decoded), {'target': TARGET})['exact_match'] == pytest.approx(share)
