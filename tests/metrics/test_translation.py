"""BLEU and chrF are those of sacrebleu; BLEU also by its formula."""
import math
import sys
from collections import Counter

import pytest

from bigjax.metrics import translation
from tests.refused import refused

FOUND = ['the cat sat on the mat today', 'a dog runs in the big park', 'two birds sing']
TRUE = ['the cat sat on the red mat', 'a dog runs through the big park', 'two birds are singing loudly']


def by_formula(found, true):
    """Papineni et al. 2002 over a corpus: the geometric mean of clipped precisions of 1 to 4 words, and the brevity penalty."""
    logs = 0.0
    for n in range(1, 5):
        grams = lambda text, n=n: Counter(zip(*(text.split()[i:] for i in range(n)), strict=False))
        hits = sum(sum((grams(a) & grams(b)).values()) for a, b in zip(found, true, strict=True))
        logs += math.log(hits / sum(sum(grams(a).values()) for a in found)) / 4
    lengths = [sum(len(text.split()) for text in texts) for texts in (found, true)]
    return 100 * math.exp(logs + min(0.0, 1 - lengths[1] / lengths[0]))


def test_bleu_is_the_formula():
    pytest.importorskip('sacrebleu', reason="the extra 'text'")
    found = translation.scores(FOUND, TRUE)
    assert found['bleu'] == pytest.approx(by_formula(FOUND, TRUE)) and 0 < found['chrf'] < 100
    assert translation.scores(TRUE, TRUE) == pytest.approx({'bleu': 100.0, 'chrf': 100.0})
    assert 'tok:13a' in translation.signature()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sacrebleu', None)
    with refused('metrics/package', 'bigjax[text]'):
        translation.scores(FOUND, TRUE)
