"""The metrics of GLUE's tasks against scikit-learn and SciPy."""
import math

import numpy as np
import pytest
from scipy import stats

from bigjax.metrics import glue

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 60)
LOGITS = np.stack([np.zeros(60), RNG.normal(size=60) + LABELS], 1)
SAME = np.zeros(60, int)


@pytest.mark.parametrize('labels', [LABELS, SAME, SAME + 1])
@pytest.mark.parametrize('logits', [LOGITS, LOGITS[:, ::-1], np.stack([SAME + 1, SAME], 1), np.stack([SAME, SAME + 1], 1)])
def test_f1_and_matthews_equal_scikit_learn(labels, logits):
    reference = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the reference')
    expected = reference.f1_score(labels, logits.argmax(1), zero_division=0)
    assert glue.f1(logits, {'label': labels})['f1'] == pytest.approx(expected)
    expected = reference.matthews_corrcoef(labels, logits.argmax(1))
    assert glue.matthews(logits, {'label': labels})['mcc'] == pytest.approx(expected)


def test_correlations_equal_scipy():
    truth, found = RNG.normal(size=(2, 30))
    found = found + truth
    expected = {'spearman': stats.spearmanr(found, truth).statistic, 'pearson': stats.pearsonr(found, truth).statistic}
    assert glue.correlations(found[:, None], {'target': truth}) == pytest.approx(expected)
    assert all(map(math.isnan, glue.correlations(np.ones(30), {'target': truth}).values()))
