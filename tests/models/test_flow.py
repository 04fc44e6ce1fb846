"""RealNVP: its inverse, its log-determinant against that of JAX's Jacobian, its counts."""
import jax
import jax.numpy as jnp
import numpy as np
from model_helpers import abstract, init, paths, size

from bigjax.models.flow import RealNVP, folded, kept, unfolded
from tests.refused import refused

ONE, TWO = (RealNVP(shape=(4, 4 * scales, 2), scales=scales, width=5, blocks=1) for scales in (1, 2))
IMAGES = np.random.default_rng(0).normal(size=(3, 4, 8, 2)).astype(np.float32)
HALF = IMAGES[:, :, :4]


@jax.jit
def passed(variables):
    """Noise, log-determinants and Jacobians of the flow of one scale."""
    forward = lambda flat: ONE.apply(variables, flat.reshape(1, *ONE.shape), train=False)[0][0]
    return *ONE.apply(variables, HALF, train=False), jax.lax.map(jax.jacrev(forward), HALF.reshape(3, -1))


def test_log_determinant_is_that_of_the_jacobian():
    _, found, jacobians = passed(init(ONE, HALF))
    sign, expected = np.linalg.slogdet(np.asarray(jacobians, np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (np.abs(sign) == 1).all() and np.ptp(expected) > 1e-3 and np.abs(expected).min() > 1e-3


def test_the_flow_begins_as_the_identity_in_another_order():
    noise, log_det, _ = passed(jax.jit(lambda: ONE.init(jax.random.key(0), HALF, train=False))())
    np.testing.assert_array_equal(np.sort(noise), np.sort(HALF.reshape(3, -1)))
    np.testing.assert_array_equal(log_det, 0)


def test_the_inverse_gives_the_image_back():
    @jax.jit
    def both(variables):
        noise, _ = TWO.apply(variables, IMAGES, train=False)
        return noise, TWO.apply(variables, noise, method='inverse')

    noise, back = both(init(TWO, IMAGES))
    assert noise.shape == (3, 64) and not np.allclose(np.sort(noise), np.sort(IMAGES.reshape(3, -1)), atol=0.1)
    np.testing.assert_allclose(back, IMAGES, rtol=1e-4, atol=1e-5)


def test_each_coupling_changes_one_part_and_two_change_all():
    for split, shape in (('checkerboard', (4, 6, 1)), ('channel', (1, 1, 8))):
        even, odd = (kept(split, odd, (4, 6, 8)) for odd in (False, True))
        assert even.shape == odd.shape == shape
        np.testing.assert_array_equal(even + odd, 1)
        assert even.mean() == 0.5
    np.testing.assert_array_equal(kept('checkerboard', False, (2, 2, 1))[..., 0], [[0, 1], [1, 0]])


def test_four_pixels_become_channels_and_return():
    found = np.asarray(folded(IMAGES))
    np.testing.assert_array_equal(found[:, 1, 2], IMAGES[:, 2:4, 4:6].reshape(3, -1))
    np.testing.assert_array_equal(unfolded(found), IMAGES)


def test_counts_and_paths():
    """Of each coupling: four convolutions and a bound per channel."""
    params = abstract(RealNVP(shape=(28, 28, 1), scales=2, width=24, blocks=1), jnp.zeros((1, 28, 28, 1)))['params']
    coupling = lambda C: 9 * C * 24 + 24 + 2 * (9 * 24 * 24 + 24) + 24 * 2 * C + 2 * C + C
    assert size(params) == 3 * (coupling(1) + coupling(4) + coupling(2) + coupling(8)) + 4 * coupling(4)
    names = {path.split('/')[0] for path in paths(params)}
    assert names == {f'scale_{s}_{split}_{i}' for s in range(2) for split in ('checkerboard', 'channel') for i in range(3)
                     } | {f'last_{i}' for i in range(4)}


def test_images_that_cannot_be_folded_are_refused():
    with refused('model/not-divisible', '30 x 28', 'scales=2'):
        abstract(RealNVP(shape=(30, 28, 1)), jnp.zeros((1, 30, 28, 1)))
