"""The bench times the training step that it says it times, beside a peer of the same size."""
import itertools
import json

import jax
import numpy as np
import pytest

from bigjax.bench import cases


@pytest.mark.parametrize('case', list(cases.CASES))
def test_the_peer_is_the_same_model(case):
    pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    from bigjax.bench import torch_peer
    model, _, shape, vocab, _ = cases.CASES[case]
    x = jax.numpy.zeros((1, *shape), 'int32' if vocab else 'float32')
    mine = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))['params']
    assert sum(x.size for x in jax.tree.leaves(mine)) == torch_peer.parameters(case)


def test_figures_of_the_mlp(tmp_path, capsys):
    assert cases.main(['--case=mlp', '--pairs=1', f'--out={tmp_path}/b.json']) == 0
    row, = json.loads((tmp_path / 'b.json').read_text())
    sizes = (784, 1024, 1024, 1024, 10)
    products = sum(a * b for a, b in itertools.pairwise(sizes))
    flops = 2 * 128 * (3 * products - sizes[0] * sizes[1])  # forward, gradients of kernels, of inputs but the first
    assert row['flops_per_step'] == flops and row['first_s'] > row['ours_ms'] / 1e3
    np.testing.assert_allclose(row['examples_per_s'], 128 / row['ours_ms'] * 1e3)
    np.testing.assert_allclose(row['achieved_flops'], row['flops_per_step'] / row['ours_ms'] * 1e3)
    assert row['ratio'] is None and 'mlp' in capsys.readouterr().out


def test_pairs_are_timed_in_turn():
    calls = []
    times = cases.paired({'a': lambda n: calls.append('a'), 'b': lambda n: calls.append('b')}, pairs=3)
    assert ''.join(calls) == 'aabb' + 'ab' * 3 and {len(v) for v in times.values()} == {3}


@pytest.mark.parametrize(('argv', 'words'), [(['--case=lenat'], 'there are mlp'), (['--against=tensorflow'], "'torch'")])
def test_wrong_input_is_exit_2(capsys, argv, words):
    assert cases.main(argv) == 2
    assert words in capsys.readouterr().err
