"""The bench times the training step that it says it times, beside a peer of the same size."""
import functools
import itertools
import json

import jax
import numpy as np
import pytest

from bigjax.bench import cases, flax_peer, load
from bigjax.report import tables
from tests.refused import refused


@functools.cache
def ours(case):
    """(example inputs of a case, the number of its model's parameters)."""
    model, _, shape, vocab, *_ = cases.CASES[case]
    x = jax.numpy.zeros((1, *shape), 'int32' if vocab else 'float32')
    mine = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))['params']
    return x, sum(x.size for x in jax.tree.leaves(mine))


@pytest.mark.parametrize('case', list(cases.CASES))
def test_the_peer_is_the_same_model(case):
    pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    from bigjax.bench import torch_peer
    assert ours(case)[1] == torch_peer.parameters(case)


@pytest.mark.slow
def test_figures_of_the_mlp(tmp_path, capsys):
    assert cases.main(['--case=mlp', '--pairs=1', f'--out={tmp_path}/b.json']) == 0
    row, = json.loads((tmp_path / 'b.json').read_text())
    sizes = (784, 1024, 1024, 1024, 10)
    products = sum(a * b for a, b in itertools.pairwise(sizes))
    flops = 2 * 128 * (3 * products - sizes[0] * sizes[1])  # forward, gradients of kernels, of inputs but the first
    assert row['flops_per_step'] == flops and row['first_s'] > row['ours_ms'] / 1e3
    np.testing.assert_allclose(row['examples_per_s'], 128 / row['ours_ms'] * 1e3)
    np.testing.assert_allclose(row['achieved_flops'], row['flops_per_step'] / row['ours_ms'] * 1e3)
    assert row['minor_faults_per_step'] >= 0 and 0 <= row['others_share'] <= 1
    assert row['ratio'] is None and 'mlp' in capsys.readouterr().out


def test_pairs_are_timed_in_turn():
    calls = []
    times = cases.paired({'a': lambda n: calls.append('a'), 'b': lambda n: calls.append('b')}, pairs=3)
    assert ''.join(calls) == 'aabb' + 'ab' * 3 and {len(v) for v in times.values()} == {3}


@pytest.mark.parametrize('case', list(cases.CASES))
def test_plain_flax_is_the_same_model(case):
    """An LSTM of Flax has one bias where those of cuDNN and PyTorch have two; a GRU has the second in the new gate alone."""
    x, mine = ours(case)
    second_biases = {'lstm': 2 * 4 * 256, 'gru': 2 * 2 * 6}.get(case, 0)
    assert mine - second_biases == flax_peer.parameters(case, x)


@pytest.mark.slow
def test_beside_plain_flax(tmp_path, capsys):
    assert cases.main(['--case=lenet5', '--against=flax', '--pairs=1', f'--out={tmp_path}/results/b.json']) == 0
    row, = json.loads((tmp_path / 'results' / 'b.json').read_text())
    assert row['ratio'] > 0 and row['target'] == cases.FLAX_TARGET and row['versions']['peer'].startswith('flax')
    kept = tmp_path / 'experiments' / 'results' / 'bench'
    kept.mkdir(parents=True)
    (kept / 'cpu.json').write_text(json.dumps([row]))
    assert 'ours / Flax' in tables.bench(tmp_path)


def test_a_table_has_rates_peaks_and_what_late_tokens_cost(tmp_path):
    kept = tmp_path / 'experiments' / 'results' / 'bench'
    kept.mkdir(parents=True)
    row = {'case': 'decode_gpt2', 'ratio': 0.5, 'ratio_min': 0.4, 'ratio_max': 0.6, 'ours_ms': 10.0, 'peer_ms': 20.0,
           'target': 0.87, 'parameters': 1000, 'batch_size': 1, 'new_tokens': 64, 'examples_per_s': 30.0,
           'ours_peak_bytes': 2**30, 'peer_peak_bytes': 3 * 2**29, 'versions': {'peer': 'transformers 5', 'jax': '0.10'}}
    late = {'case': 'decode_gpt2_flat', 'ratio': None, 'ms_per_token': [2.0, 2.5], 'tokens_of_a_part': 64,
            'last_over_first': 1.25}
    (kept / 'cpu.json').write_text(json.dumps([row, late]))
    table = tables.bench(tmp_path)
    for text in ('0.50 (0.40 to 0.60)', '30.0 (peer 15.0)', '1.00 (peer 1.50)', '64 tokens of 128', '1.25'):
        assert text in table


def counted(busy, own, wall=10.0):
    return load.Counters(wall, busy, own)


def test_the_share_of_others_is_what_this_process_did_not_use(monkeypatch, tmp_path):
    monkeypatch.setattr(load.os, 'cpu_count', lambda: 2)
    assert load.share_of_others(counted(100, 50, 0.0), counted(110, 58)) == pytest.approx(2 / 20)
    assert load.share_of_others(counted(100, 50, 0.0), counted(110, 61)) == 0
    assert load.share_of_others(counted(None, 50, 0.0), counted(None, 58)) is None
    stat = tmp_path / 'stat'
    stat.write_text('cpu  300 0 100 5000 40 0 10 0 7 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n')
    monkeypatch.setattr(load, 'STAT', str(stat))
    assert load.counters().busy_s == 410 / load.os.sysconf('SC_CLK_TCK')
    monkeypatch.setattr(load, 'STAT', str(tmp_path / 'none'))
    assert load.counters().busy_s is None


@pytest.mark.parametrize(('share', 'judged'), [(None, True), (0.0, True), (0.079, True), (0.08, False), (0.5, False)])
def test_a_busy_machine_is_not_judged(monkeypatch, capsys, share, judged):
    monkeypatch.setattr(load, 'share_of_others', lambda before, after: share)
    p = cases.program('lenet5')
    row = cases.measure('lenet5', p, 1, lambda n: None, 'made up', target=1e9)
    cases.show([row])
    assert row['judged'] == judged and row['others_share'] == share
    assert ('within' in capsys.readouterr().out) == judged


@pytest.mark.parametrize(('argv', 'code'), [
    (['--case=lenat'], 'bench/unknown-case'), (['--against=tensorflow'], 'bench/unknown-peer'),
    (['--pairs=0'], 'bench/no-pairs')])
def test_wrong_input_is_exit_2(capsys, argv, code):
    with refused(code):
        cases.run(argv)
    assert cases.main(argv) == 2 and capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('against,row', [
    ('flax', 'gru'), ('plain', 'gru / recurrent')])
def test_beside_a_peer_of_jax(tmp_path, against, row):
    assert cases.main(['--case=gru', f'--against={against}', '--pairs=1', f'--out={tmp_path}/b.json']) == 0
    found = {one['case']: one for one in json.loads((tmp_path / 'b.json').read_text())}[row]
    assert found['ratio'] > 0 and found['target'] == 0.9
