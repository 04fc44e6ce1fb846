"""Sequential MNIST: the order of pixels, and what each network reads."""
import numpy as np
import pytest

from experiments import seqmnist


@pytest.fixture
def batch():
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 1)).astype(np.uint8)
    return {'image': image, 'label': np.array([1, 2])}


@pytest.mark.parametrize('permuted', [False, True])
def test_a_series_has_each_pixel_once(batch, permuted):
    order = seqmnist.permutation((3, 5, 1)) if permuted else None
    flat = batch['image'].reshape(2, 15)
    expected = flat[:, np.arange(15) if order is None else order]
    tokens = seqmnist.series(batch, order, as_tokens=True)
    assert set(tokens) == {'tokens', 'label'}
    np.testing.assert_array_equal(tokens['tokens'], expected)
    x = seqmnist.series(batch, order, as_tokens=False)['x']
    np.testing.assert_allclose(x[..., 0], (expected / 255 - 0.1307) / 0.3081, rtol=1e-5)
    assert np.array_equal(np.sort(tokens['tokens']), np.sort(flat)) and permuted == (expected != flat).any()


def test_the_permutation_is_one_for_all_runs():
    order = seqmnist.permutation((28, 28, 1))
    np.testing.assert_array_equal(np.sort(order), np.arange(784))
    assert order[:4].tolist() == [693, 85, 647, 392]


def test_forget_gates_of_the_lstm_start_as_published():
    biases = {row: seqmnist.get_config(row).model.get('forget_bias') for row in seqmnist.ROWS}
    assert biases['sequential,lstm'] == 1.0 and biases['permuted,lstm'] == 10.0 and biases['permuted,gru'] is None
