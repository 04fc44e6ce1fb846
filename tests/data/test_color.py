"""Colours on the device against colorsys, scipy and formulas in double precision, on the same random numbers."""
import colorsys

import jax
import numpy as np
import pytest
from scipy import ndimage

from bigjax.data import color

B, H, W = 12, 9, 11
IMAGES = np.random.default_rng(0).uniform(0, 1, (B, H, W, 3)).astype(np.float32)
LUMA = np.array([0.299, 0.587, 0.114])


def blend(a, image, factor):
    return np.clip(a + factor * (image - a), 0, 1)


def turned(image, turn):
    pixels = [colorsys.rgb_to_hsv(*p) for p in image.reshape(-1, 3)]
    return np.array([colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in pixels]).reshape(image.shape)


BY_HAND = (lambda x, f: blend(0, x, f), lambda x, f: blend((x @ LUMA).mean(), x, f),
           lambda x, f: blend((x @ LUMA)[..., None], x, f), turned)


def jittered(image, order, amounts):
    for i in order:
        image = BY_HAND[int(i)](image, float(amounts[int(i)]))
    return image


@pytest.mark.parametrize('turn', [0.0, 0.21, -0.5])
def test_hue_is_that_of_colorsys(turn):
    given = IMAGES[0].astype(np.float64)
    given[0, :3] = [[0.3, 0.3, 0.3], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(color.hue(given.astype(np.float32), turn), turned(given, turn), atol=2e-6)


def test_color_jitter_on_the_same_random_numbers():
    strength = 0.4, 0.4, 0.4, 0.1
    key = jax.random.key(3)
    mean, std = np.float32([0.4, 0.5, 0.3]), np.float32(0.25)

    def fn(batch, key):
        draws = jax.vmap(lambda r: color.draw_jitter(jax.random.split(r)[1], strength))(jax.random.split(key, B))
        return color.color_jitter(*strength, mean=mean, std=std)(batch, key)['image'] * std + mean, *draws

    out, orders, amounts = (np.asarray(x) for x in jax.jit(fn)({'image': (IMAGES - mean) / std}, key))
    assert len({tuple(order) for order in orders}) > 4 and (np.abs(amounts - [1, 1, 1, 0]) <= np.array(strength) + 1e-6).all()
    for b in range(B):
        np.testing.assert_allclose(out[b], jittered(IMAGES[b].astype(np.float64), orders[b], amounts[b]), atol=2e-5)


def test_blur_is_scipy_s_gaussian():
    for sigma in (0.1, 0.7, 2.0):
        want = ndimage.gaussian_filter(IMAGES[0].astype(np.float64), (sigma, sigma, 0), mode='nearest', radius=(8, 8, 0))
        np.testing.assert_allclose(jax.jit(color.blur)(IMAGES[0], sigma), want, atol=1e-5)


def test_three_augment_is_one_of_three_and_a_jitter():
    def fn(batch, key):
        which, sigma, r_jitter = jax.vmap(color.draw_three)(jax.random.split(key, B))
        jitter = jax.vmap(lambda r: color.draw_jitter(r, (0.3, 0.3, 0.3, 0)))(r_jitter)
        return color.three_augment(0.3)(batch, key)['image'], which, sigma, *jitter

    out, kinds, sigmas, orders, amounts = (np.asarray(x) for x in jax.jit(fn)({'image': IMAGES}, jax.random.key(0)))
    for b in range(B):
        x, s = IMAGES[b].astype(np.float64), float(sigmas[b])
        made = [np.repeat((x @ LUMA)[..., None], 3, -1), np.where(x < 128 / 255, x, 1 - x),
                ndimage.gaussian_filter(x, (s, s, 0), mode='nearest', radius=(8, 8, 0))][kinds[b]]
        np.testing.assert_allclose(out[b], jittered(made, orders[b], amounts[b]), atol=5e-5)
    assert set(kinds) == {0, 1, 2}


def test_how_often_images_are_touched():
    many = {'image': np.repeat(IMAGES[:1], 600, 0)}
    for fn, p in ((color.random_gray(0.3), 0.3), (color.random_blur(0.6), 0.6)):
        out = np.asarray(jax.jit(fn)(many, jax.random.key(1))['image'])
        touched = (np.abs(out - many['image']) > 1e-5).any((1, 2, 3))
        assert abs(touched.mean() - p) < 4 * np.sqrt(p * (1 - p) / 600)


def test_grey_images_of_one_channel_keep_it():
    one = {'image': IMAGES[..., :1]}
    for fn in (color.color_jitter(0.2, 0.2, 0.2, 0.1), color.three_augment()):
        assert jax.eval_shape(fn, one, jax.random.key(0))['image'].shape == (B, H, W, 1)
