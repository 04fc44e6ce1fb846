"""The metrics of GLUE beside accuracy (Wang et al. 2019, section 2): F1, the correlations of Matthews, Spearman and Pearson.

Glossary: N examples of a split.
"""
import numpy as np

from bigjax.metrics import confusion


def f1(outputs, examples, label: str = 'label') -> dict[str, float]:
    """{'f1': of class 1} of logits [N, 2]; 0 where neither labels nor answers have it."""
    (_, false), (missed, true) = confusion.counts(outputs, examples[label], 2)
    return {'f1': float(2 * true / max(2 * true + false + missed, 1))}


def matthews(outputs, examples, label: str = 'label') -> dict[str, float]:
    """{'mcc': Matthews' correlation} of logits [N, 2]; 0 where labels or answers are all the same."""
    cells = confusion.counts(outputs, examples[label], 2).astype(np.float64)
    rows, columns = cells.sum(axis=1), cells.sum(axis=0)
    product = np.prod(rows) * np.prod(columns)
    return {'mcc': float(np.linalg.det(cells) / np.sqrt(product)) if product else 0.0}


def correlations(outputs, examples, target: str = 'target') -> dict[str, float]:
    """{'spearman', 'pearson'} of numbers [N]; NaN where one side is all the same."""
    from scipy import stats
    found, truth = np.asarray(outputs, np.float64).ravel(), np.asarray(examples[target], np.float64).ravel()
    if np.ptp(found) == 0 or np.ptp(truth) == 0:
        return {'spearman': float('nan'), 'pearson': float('nan')}
    return {'spearman': float(stats.spearmanr(found, truth).statistic),
            'pearson': float(stats.pearsonr(found, truth).statistic)}
