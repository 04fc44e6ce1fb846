"""The computed shuffle: a bijection, uniform, and a pure function of (seed, step)."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigjax.data import order


@given(length=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(length, seed, epoch):
    places = order.permute(np.arange(length), length, seed, np.full(length, epoch))
    assert np.array_equal(np.sort(places), np.arange(length))


def test_places_are_uniform():
    n, epochs = 12, 4000
    index, epoch = np.tile(np.arange(n), epochs), np.repeat(np.arange(epochs), n)
    table = np.zeros((n, n))
    np.add.at(table, (index, order.permute(index, n, 3, epoch)), 1)
    chi2 = ((table - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 121 + 4 * np.sqrt(2 * 121)  # (n - 1)^2 degrees of freedom, four deviations


def test_epochs_and_seeds_differ():
    first, second = (order.permute(np.arange(1000), 1000, 0, np.full(1000, e)) for e in (0, 1))
    other = order.permute(np.arange(1000), 1000, 1, np.full(1000, 0))
    assert (first == second).mean() < 0.02 and (first == other).mean() < 0.02


@pytest.mark.parametrize('shuffle', [True, False])
def test_a_batch_does_not_depend_on_where_the_reading_started(shuffle):
    whole = order.batch_indices(7, 0, 50, 12, 67, shuffle)
    for start, count in ((0, 1), (3, 10), (49, 1), (17, 33)):
        assert np.array_equal(order.batch_indices(7, start, count, 12, 67, shuffle), whole[start:start + count])
    each = whole.reshape(-1)[:67 * 8].reshape(8, 67)  # epochs follow one another without a gap
    assert all(np.array_equal(np.sort(epoch), np.arange(67)) for epoch in each)


@pytest.mark.parametrize('shuffle', [True, False])
def test_long_data_is_read_to_its_end(shuffle):
    """A stream of more tokens than an int32 counts: every ninth of it gives its share, and no example comes twice."""
    length, start = 9_000_000_000, 0 if shuffle else 8_999_990_000 // 100
    index = order.batch_indices(0, start, 900, 100, length, shuffle)
    assert index.dtype == np.int64 and index.min() >= 0 and index.max() < length
    first = index if shuffle else index[:100]  # the second epoch begins behind it
    assert len(np.unique(first)) == first.size
    if shuffle:
        shares = np.bincount(index.ravel() // 10**9, minlength=9)
        assert len(shares) == 9 and np.abs(shares - 10_000).max() < 5 * np.sqrt(10_000)
    else:
        assert np.array_equal(index.ravel(), (start * 100 + np.arange(90_000)) % length)


@pytest.mark.parametrize(('length', 'kind'), [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_numbers_are_as_short_as_they_can_be(length, kind):
    index = order.batch_indices(0, length // 8 - 3, 4, 8, length, False)
    assert index.dtype == kind and index.min() >= 0 and index.max() == length - 1


def test_far_steps_do_not_overflow():
    far = order.batch_indices(0, 10**9, 2, 4096, 1_281_167, True)
    assert far.min() >= 0 and far.max() < 1_281_167
