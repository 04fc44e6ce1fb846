"""Metrics of texts: cases that are worked out by hand, and what is refused."""
import math

import pytest

from bigjax.metrics import text
from tests.refused import refused


def test_bleu_of_a_sentence_is_the_formula():
    pytest.importorskip('sacrebleu', reason='the extra text')
    # precisions 5/6, 3/5, 1/4 and 0/3, which sacrebleu smooths to 1 / (2 · 3); the lengths are equal
    expected = 100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 1 / 4, 1 / 6))) / 4)
    found = text.bleu(['the cat sat on my mat'], ['the cat sat under my mat'])
    assert text.bleu(['a b c d e'], ['a b c d e'])['bleu'] == pytest.approx(100)
    assert found['bleu'] == pytest.approx(expected, rel=0.01) and 0 < found['chrf'] < 100


def test_rouge_is_the_formula():
    pytest.importorskip('rouge_score', reason='the extra text')
    found = text.rouge(['the cat sat', 'a b'], ['the cat was there', 'a b'])
    assert found['rouge1'] == pytest.approx(100 * (2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4) + 1) / 2)
    assert found['rouge2'] == pytest.approx(100 * (2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3) + 1) / 2)
    assert found['rougel'] == pytest.approx(found['rouge1'])


def test_spans_count_whole():
    pytest.importorskip('seqeval', reason='the extra text')
    truth = [['B-PER', 'I-PER', 'O', 'B-LOC'], ['O', 'B-LOC', 'I-LOC']]
    found = text.spans([['B-PER', 'I-PER', 'O', 'B-PER'], ['O', 'B-LOC', 'O']], truth)
    assert found == pytest.approx({'precision': 100 / 3, 'recall': 100 / 3, 'f1': 100 / 3})


@pytest.mark.parametrize(('metric', 'package', 'outputs', 'targets', 'code'), [
    (text.bleu, 'sacrebleu', ['a'], [''], 'data/empty-target'),
    (text.rouge, 'rouge_score', ['a'], ['a', 'b'], 'metrics/lengths'),
    (text.spans, 'seqeval', [['O']], [['O', 'O']], 'metrics/lengths')])
def test_targets_are_refused(metric, package, outputs, targets, code):
    pytest.importorskip(package, reason='the extra text')
    with refused(code):
        metric(outputs, targets)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'sacrebleu', None)
    with refused('metrics/package', 'sacrebleu', 'bigjax[text]'):
        text.bleu(['a'], ['a'])
