"""Metrics of texts from the libraries that define them: BLEU and chrF (sacrebleu), ROUGE, spans of labels (seqeval).

The libraries come with the extra `text` and are imported where they are used. All are in percent, as
in the field's papers. Word error rates are in `bigjax.metrics.speech`.
"""
from collections.abc import Sequence

from bigjax.errors import UserError


def _no_package(name: str) -> UserError:
    return UserError(f"this metric needs the package {name}; fix: pip install 'bigjax[text]'", code='metrics/package')


def _check_pairs(found: Sequence, truth: Sequence) -> None:
    if len(found) != len(truth) or not len(found):
        raise UserError(f'a metric of texts: got {len(found)} outputs for {len(truth)} targets, expected equally many, at '
                        'least one; fix: one output for each target', code='metrics/lengths')


def _check_targets(truth: Sequence[str]) -> None:
    empty = next((i for i, text in enumerate(truth) if not text.split()), None)
    if empty is not None:
        raise UserError(f'target {empty}: got an empty text, expected words; fix: add them or remove the record',
                        code='data/empty-target')


def bleu(outputs: Sequence[str], targets: Sequence[str], **options) -> dict[str, float]:
    """{'bleu', 'chrf'} of a corpus, as sacrebleu has them (Post 2018).

    Args:
      outputs, targets: detokenised texts, one target each.
      **options: of `sacrebleu.corpus_bleu`, such as tokenize='13a' (the default) or lowercase=True.

    Raises:
      UserError: another number of outputs than targets, an empty target, or the package is missing.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise _no_package('sacrebleu') from error
    _check_pairs(outputs, targets)
    _check_targets(targets)
    return {'bleu': sacrebleu.corpus_bleu(list(outputs), [list(targets)], **options).score,
            'chrf': sacrebleu.corpus_chrf(list(outputs), [list(targets)]).score}


def rouge(outputs: Sequence[str], targets: Sequence[str], stemmer: bool = True) -> dict[str, float]:
    """{'rouge1', 'rouge2', 'rougel'}: F1 in percent, the mean over texts (Lin 2004); rougel is over the whole text.

    Raises:
      UserError: as `bleu`.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise _no_package('rouge-score') from error
    scorer = rouge_scorer.RougeScorer(('rouge1', 'rouge2', 'rougeL'), use_stemmer=stemmer)
    _check_pairs(outputs, targets)
    _check_targets(targets)
    totals = dict.fromkeys(('rouge1', 'rouge2', 'rougeL'), 0.0)
    for output, target in zip(outputs, targets, strict=True):
        for name, score in scorer.score(target, output).items():
            totals[name] += score.fmeasure
    return {name.lower(): 100.0 * total / len(outputs) for name, total in totals.items()}


def spans(outputs: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> dict[str, float]:
    """{'precision', 'recall', 'f1'} in percent of whole spans of BIO labels, as conlleval has them (Tjong Kim Sang 2003).

    Raises:
      UserError: another number of labels than the target has, or the package is missing.
    """
    try:
        from seqeval import metrics as seqeval
    except ImportError as error:
        raise _no_package('seqeval') from error
    _check_pairs(outputs, targets)
    for output, target in zip(outputs, targets, strict=True):
        _check_pairs(output, target)
    outputs, targets = [list(row) for row in outputs], [list(row) for row in targets]
    scores = {'precision': seqeval.precision_score, 'recall': seqeval.recall_score, 'f1': seqeval.f1_score}
    return {name: 100.0 * float(score(targets, outputs, zero_division=0)) for name, score in scores.items()}
