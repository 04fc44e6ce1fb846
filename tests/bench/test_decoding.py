"""Generation is timed with the tokens that it yields, beside transformers where there is one."""
import importlib.util

import numpy as np
import pytest

from bigjax.bench import cases, decoding
from bigjax.models.gpt import GPT

TINY = GPT(vocab_size=50, block_size=64, num_layers=1, num_heads=2, width=8, bias=True)


@pytest.mark.parametrize('case', decoding.CASES)
def test_prompts(case):
    tokens, mask = decoding.prompts(decoding.CASES[case], 50)
    assert tuple(mask.sum(1)) == decoding.CASES[case].lengths and mask[:, -1].all() and not tokens[~mask].any()
    assert (tokens[:, :-4] == tokens[:, 4:]).all() == (case == 'decode_gpt2_lookup')


def test_figures_of_a_small_model(monkeypatch, capsys):
    monkeypatch.setattr(decoding, 'compare', lambda run, *_: run(1) or {
        'ours_ms': 2.0, 'peer_ms': None, 'ratio': None, 'target': None, 'judged': True})
    row = decoding.measure('decode_gpt2_batch', 1, False, TINY, new=3)
    assert row['examples_per_s'] == 16 * 3 / 2e-3 and row['passes'] == 2 and row['batch_size'] == 16
    cases.show([row])
    assert 'decode_gpt2_batch' in capsys.readouterr().out


def test_the_cost_of_a_token_by_how_many_there_are(capsys):
    row = decoding.flat(1, TINY, new=12, part=4)
    assert len(row['ms_per_token']) == 3 and row['last_over_first'] > 0
    cases.show([row])
    assert 'last / first' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parity
def test_beside_transformers():
    if importlib.util.find_spec('transformers') is None:
        pytest.skip('transformers is not installed: pip install bigjax[parity]')
    row = decoding.measure('decode_gpt2_lookup', 1, True, TINY, new=8)
    assert row['ratio'] > 0 and 'transformers' in row['versions']['peer']
    np.testing.assert_allclose(row['examples_per_s'], 8 / row['ours_ms'] * 1e3)
