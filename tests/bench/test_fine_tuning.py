"""A fine-tuning step is timed beside transformers, which begins with the same loss."""
import importlib.util

import jax
import pytest

from bigjax.bench import cases, fine_tuning, load
from bigjax.models.bert import BERT

TINY = fine_tuning.Case(BERT(vocab_size=50, block_size=16, num_layers=1, num_heads=2, width=8, num_classes=2, pool='cls',
                             dropout=0.1), 4, 8, 0.95)


def test_the_case_is_bert_base():
    case = fine_tuning.CASES['bert_base']
    shapes = jax.eval_shape(lambda: case.model.init(jax.random.key(0), jax.numpy.zeros((1, 4), int), train=False))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 109_482_240 + 2 * 768 + 2
    assert (case.batch, case.length) == (8, 128)


def test_the_peak_of_memory_is_counted_anew():
    load.forget_peak()
    before = load.peak_bytes()
    held = bytearray(64 << 20)
    assert len(held) <= load.peak_bytes() - before + (8 << 20)


@pytest.mark.slow
@pytest.mark.parity
def test_beside_transformers(capsys):
    if importlib.util.find_spec('transformers') is None:
        pytest.skip('transformers is not installed: pip install bigjax[parity]')
    row = cases.fine_tuned('bert_base', TINY, 1, True)
    assert row['ratio'] > 0 and row['batch_size'] == 4 and 'transformers' in row['versions']['peer']
    assert row['ours_peak_bytes'] > 1 << 20 and row['peer_peak_bytes'] > 1 << 20
    cases.show([row])
    assert 'peak of memory' in capsys.readouterr().out
