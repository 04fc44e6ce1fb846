"""Rotary positions against their papers' formulas in float64."""
import math

import jax
import numpy as np
import pytest

from bigjax.nn.posemb import Rope, rotate
from tests.refused import refused


def llama3(base, width, factor, low, high, window):
    """Llama 3.1's released code, one frequency at a time."""
    found = []
    for i in range(0, width, 2):
        turn = base ** (-i / width)
        wave = 2 * math.pi / turn
        if wave < window / high:
            found.append(turn)
        elif wave > window / low:
            found.append(turn / factor)
        else:
            smooth = (window / wave - low) / (high - low)
            found.append((1 - smooth) * turn / factor + smooth * turn)
    return found


@pytest.mark.parametrize(('rope', 'expected'), [
    (Rope(10000.0), [10000.0 ** (-i / 64) for i in range(0, 64, 2)]),
    (Rope(10000.0, 'linear', 4.0), [10000.0 ** (-i / 64) / 4 for i in range(0, 64, 2)]),
    (Rope(10000.0, 'ntk', 4.0), [(10000.0 * 4.0 ** (64 / 62)) ** (-i / 64) for i in range(0, 64, 2)]),
    (Rope(500000.0, 'llama3', 8.0, 1.0, 4.0, 8192), llama3(500000.0, 64, 8.0, 1.0, 4.0, 8192)),
    (Rope(500000.0, 'llama3', 32.0, 2.0, 6.0, 4096), llama3(500000.0, 64, 32.0, 2.0, 6.0, 4096))], ids=lambda x: x[1])
def test_frequencies(rope, expected):
    np.testing.assert_allclose(rope.frequencies(64), expected, rtol=1e-7)


def test_ntk_leaves_the_highest_frequency_and_divides_the_lowest():
    plain, longer = Rope(10000.0).frequencies(64), Rope(10000.0, 'ntk', 8.0).frequencies(64)
    np.testing.assert_allclose((plain / longer)[[0, -1]], [1, 8], rtol=1e-6)


def test_pairs_turn_by_their_positions():
    """Su et al. 2021, equation 34, in complex numbers of float64."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 2, 8)))
    positions = np.array([[0, 1, 2], [5, 9, 100]])
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * positions[..., None, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(rotate(x, Rope(), positions), np.concatenate([turned.real, turned.imag], -1), atol=2e-5)
    np.testing.assert_allclose(rotate(x[:1], Rope()), rotate(x[:1], Rope(), positions[:1]))


@pytest.mark.parametrize(('rope', 'width', 'code', 'name'), [
    (Rope(), 3, 'attention/odd-head', '3'), (Rope(scaling='yarn'), 4, 'model/unknown-option', 'yarn')])
def test_what_rotary_positions_refuse(rope, width, code, name):
    with refused(code, name):
        rotate(np.zeros((1, 4, 2, width), np.float32), rope)
