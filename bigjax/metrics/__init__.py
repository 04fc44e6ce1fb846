"""Metrics of a whole split, for an evaluator's `compute`, and the direction in which each metric improves.

One file holds one kind of metric. A function here takes the gathered outputs and the kept examples as NumPy arrays and returns
`{name: float or artifact}`; metrics that are sums and counts are computed by the task's loss instead.
"""
import re

HIGHER = frozenset((
    'accuracy', 'balanced_accuracy', 'auc', 'roc_auc', 'pr_auc', 'average_precision', 'precision', 'recall', 'sensitivity',
    'specificity', 'f1', 'macro_f1', 'micro_f1', 'mcc', 'kappa', 'map', 'mrr', 'ndcg', 'hit_rate', 'hits', 'iou', 'miou',
    'dice', 'r2', 'correlation', 'spearman', 'pearson', 'psnr', 'ssim', 'inception_score', 'bleu', 'chrf', 'rouge1', 'rouge2',
    'rougel', 'meteor', 'exact_match', 'likelihood', 'log_likelihood', 'elbo', 'reward', 'return', 'agreement', 'sparsity',
    'legible', 'modes'))
LOWER = frozenset((
    'loss', 'error', 'error_rate', 'perplexity', 'bits', 'bits_per_byte', 'bpd', 'nll', 'cross_entropy', 'wer', 'cer', 'ter',
    'per', 'rmse', 'mse', 'mae', 'mape', 'smape', 'mase', 'rmsle', 'crps', 'brier', 'ece', 'fid', 'frechet', 'kid', 'lpips',
    'reconstruction', 'chamfer', 'hamming', 'edit_distance', 'log_loss'))


def better(name: str) -> str | None:
    """'higher' or 'lower' for a metric's name, None where this module does not define its direction.

    The split is ignored ('val/accuracy'), and so are the cut-off of a ranking metric ('ndcg@10', 'map50', 'recall@5') and the
    prefix of top-k ('top5_accuracy', 'top-1', 'top_5'). Other names must match exactly: a name that merely contains a known
    word ('d_loss' of a discriminator) has no direction here; an evaluator's `better` gives one.
    """
    metric = name.rsplit('/', 1)[-1].lower().partition('@')[0]
    metric = re.sub(r'^top[-_]?\d+(_accuracy)?$', 'accuracy', metric)
    metric = re.sub(r'^top[-_]?\d+_(?=error)', '', metric)
    metric = re.sub(r'^(map|ap)_?\d+$', 'map', metric)
    return 'higher' if metric in HIGHER else 'lower' if metric in LOWER else None
