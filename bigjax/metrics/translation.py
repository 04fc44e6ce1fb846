"""BLEU and chrF of texts, as sacrebleu computes them (Post 2018); the package is of the extra `text`."""
from collections.abc import Sequence

from bigjax.errors import UserError


def scores(found: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{'bleu', 'chrf'} of a corpus, 0 to 100, with the defaults of sacrebleu: BLEU on its 13a tokens, case kept.

    Raises:
      UserError: sacrebleu is not installed.
    """
    sacrebleu = _library()
    return {'bleu': sacrebleu.corpus_bleu(list(found), [list(references)]).score,
            'chrf': sacrebleu.corpus_chrf(list(found), [list(references)]).score}


def signature() -> str:
    """The settings of BLEU in sacrebleu's own words, which a stated score needs beside it."""
    metric = _library().metrics.BLEU()
    metric.corpus_score(['a'], [['a']])
    return str(metric.get_signature())


def _library():
    try:
        import sacrebleu
    except ImportError as error:
        raise UserError("BLEU needs the package sacrebleu; fix: pip install 'bigjax[text]'", code='metrics/package') from error
    return sacrebleu
