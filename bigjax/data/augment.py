"""Augmentation of batches of images on the device: small factories of pure functions `(batch, rng) -> batch`.

Glossary: B examples · H, W, C of an image · K classes. Images are float32 [B, H, W, C] under `key` ('image'); every
function keeps their shape. Random numbers are drawn for every example on its own, but for mixup and cutmix, which draw
once per batch. `chain` joins augmentations; `to_float` and `normalize` are `(batch) -> batch`, for `Data.preprocess`,
which runs before them, also in evaluation.

Soft labels: mixup and cutmix add 'target' [B, K], rows of which sum to one, for a softmax cross entropy; 'label' stays
that of the first image. They compose: where a batch has 'target' already, that is mixed.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

Batch = Mapping[str, Any]
Augment = Callable[[Batch, jax.Array], dict[str, Any]]
TRIES = 100  # rectangles that random erasing draws at most; all are rejected once in 1e10 images or less
PART_TRIES = 10  # parts that a random resized crop draws before it takes the whole


def to_float(key: str = 'image') -> Callable[[Batch], dict[str, Any]]:
    """Images in float32: uint8 becomes 0 … 1, floats keep their scale."""
    def apply(batch):
        image = batch[key]
        return {**batch, key: image.astype(jnp.float32) * (1 / 255 if image.dtype == jnp.uint8 else 1)}
    return apply


def normalize(mean: float | Sequence[float], std: float | Sequence[float],
              key: str = 'image') -> Callable[[Batch], dict[str, Any]]:
    """(image - mean) / std, after `to_float`; one number, or one per channel, on the scale 0 … 1 for uint8 images."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def apply(batch):
        batch = to_float(key)(batch)
        return {**batch, key: (batch[key] - mean) / std}
    return apply


def chain(*augments: Augment) -> Augment:
    """One after the other, each with its own random numbers."""
    def apply(batch, rng):
        for augment, r in zip(augments, jax.random.split(rng, max(len(augments), 1)), strict=False):
            batch = augment(batch, r)
        return batch
    return apply


def either(first: Augment, second: Augment) -> Augment:
    """One of two, drawn once per batch with equal probability."""
    def apply(batch, rng):
        r_which, r_own = jax.random.split(rng)
        return jax.lax.cond(jax.random.bernoulli(r_which), first, second, batch, r_own)
    return apply


def _each(fn: Callable[[jax.Array, jax.Array], jax.Array], key: str) -> Augment:
    """`fn(image_HxWxC, rng)` over the images of a batch."""
    def apply(batch, rng):
        return {**batch, key: jax.vmap(fn)(batch[key], jax.random.split(rng, batch[key].shape[0]))}
    return apply


def random_flip(p: float = 0.5, key: str = 'image') -> Augment:
    """A horizontal flip, with probability p."""
    return _each(lambda image, rng: jnp.where(flips(rng, p), image[:, ::-1], image), key)


def flips(rng: jax.Array, p: float) -> jax.Array:
    """Whether `random_flip` flips an image."""
    return jax.random.bernoulli(rng, p)


def random_crop(padding: int, fill: float | Sequence[float] = 0.0, key: str = 'image') -> Augment:
    """A window of the image's own size out of the image padded with `padding` pixels of `fill` on every side.

    After `normalize`, black is fill = -mean / std, one number or one per channel.
    """
    return _each(lambda image, rng: window(image, *corner(rng, padding), padding, fill), key)


def corner(rng: jax.Array, padding: int) -> jax.Array:
    """The upper left pixel (y, x) of `random_crop`'s window in the padded image."""
    return jax.random.randint(rng, (2,), 0, 2 * padding + 1)


def window(image_HxWxC: jax.Array, y: jax.Array, x: jax.Array, padding: int, fill: float | Sequence[float]) -> jax.Array:
    """The window [H, W, C] at (y, x) of the image padded with `padding` pixels of `fill`."""
    height, width, channels = image_HxWxC.shape
    fill = np.asarray(fill, np.float32)
    border = jnp.broadcast_to(fill, (height + 2 * padding, width + 2 * padding, channels)).astype(image_HxWxC.dtype)
    padded = jax.lax.dynamic_update_slice(border, image_HxWxC, (padding, padding, 0))
    return jax.lax.dynamic_slice(padded, (y, x, 0), image_HxWxC.shape)


def part(rng: jax.Array, size: tuple[int, int], area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> tuple[jax.Array, ...]:
    """(y, x, h, w) in whole pixels of a random part of an image of `size` (H, W), Szegedy et al. 2015, section 6.

    Its area is U(area) of the image's, its width is exp U(log ratio) times its height; the whole where `PART_TRIES` draws do
    not fit.
    """
    height, width = size
    r_area, r_ratio, r_corner = jax.random.split(rng, 3)
    wanted = jax.random.uniform(r_area, (PART_TRIES,), minval=area[0], maxval=area[1]) * (height * width)
    aspect = jnp.exp(jax.random.uniform(r_ratio, (PART_TRIES,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
    w, h = jnp.round(jnp.sqrt(wanted * aspect)), jnp.round(jnp.sqrt(wanted / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits)
    h, w = jnp.where(fits.any(), h[first], height), jnp.where(fits.any(), w[first], width)
    y, x = jnp.floor(jax.random.uniform(r_corner, (2,)) * jnp.stack([height - h + 1, width - w + 1]))
    return y, x, h, w


def random_erasing(p: float = 0.5, sl: float = 0.02, sh: float = 0.4, r1: float = 0.3,
                   value: float | Sequence[float] | None = None, low: float = 0.0, high: float = 1.0,
                   key: str = 'image') -> Augment:
    """Random Erasing, Zhong et al. 2020, Algorithm 1.

    With probability p: draw an area S_e = S·U(sl, sh), an aspect ratio r_e = U(r1, 1/r1), H_e = √(S_e·r_e),
    W_e = √(S_e/r_e) and a corner (x_e, y_e) = (U(0, W), U(0, H)); if the rectangle stays inside the image, overwrite
    it, else draw again. Sides and corner are whole pixels (rounded, and rounded down).

    Args:
      p: the probability that an image is touched.
      sl, sh: bounds of the erased part of the area.
      r1: the smallest aspect ratio; the largest is 1/r1.
      value: one number, or one per channel; None draws every pixel and channel from U(low, high), as published (0 … 255).
      low, high: of the drawn values: after `normalize`, those of black and white.
      key: of the images.
    """
    def fn(image, rng):
        height, width, _ = image.shape
        r_touch, r_area, r_ratio, r_corner, r_value = jax.random.split(rng, 5)
        area = jax.random.uniform(r_area, (TRIES,), minval=sl, maxval=sh) * (height * width)
        ratio = jax.random.uniform(r_ratio, (TRIES,), minval=r1, maxval=1 / r1)
        he, we = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        corner = jnp.floor(jax.random.uniform(r_corner, (2, TRIES)) * jnp.array([[height], [width]]))
        inside = (corner[0] + he <= height) & (corner[1] + we <= width)
        first = jnp.argmax(inside)
        y, x = jnp.arange(height)[:, None] - corner[0, first], jnp.arange(width)[None, :] - corner[1, first]
        erased = (y >= 0) & (y < he[first]) & (x >= 0) & (x < we[first])
        erased &= jax.random.bernoulli(r_touch, p) & inside[first]
        if value is None:
            filling = jax.random.uniform(r_value, image.shape, minval=low, maxval=high)
        else:
            filling = jnp.broadcast_to(jnp.asarray(value, image.dtype), image.shape)
        return jnp.where(erased[..., None], filling.astype(image.dtype), image)
    return _each(fn, key)


def warp(image_HxWxC: jax.Array, matrix: jax.Array, shift: jax.Array, fill: float = 0.0) -> jax.Array:
    """The image whose pixel o is the given one's at M (o - c) + c + shift, linearly interpolated; c is the centre.

    Outside the image is `fill` (scipy's mode 'grid-constant').
    """
    height, width, _ = image_HxWxC.shape
    at_2xHxW = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij')).astype(jnp.float32)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], jnp.float32)[:, None, None]
    at = jnp.tensordot(matrix, at_2xHxW - centre, 1, precision='highest') + centre + shift[:, None, None]
    channel = lambda plane: map_coordinates(plane, [at[0], at[1]], order=1, mode='constant', cval=fill)
    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image_HxWxC)


def rotate(degrees: float, fill: float = 0.0, key: str = 'image') -> Augment:
    """A rotation about the centre by U(-degrees, degrees); positive turns as scipy.ndimage.rotate does."""
    def fn(image, rng):
        a = jnp.deg2rad(jax.random.uniform(rng, minval=-degrees, maxval=degrees))
        matrix = jnp.array([[jnp.cos(a), jnp.sin(a)], [-jnp.sin(a), jnp.cos(a)]])
        return warp(image, matrix, jnp.zeros(2), fill)
    return _each(fn, key)


def scale(low: float, high: float, fill: float = 0.0, key: str = 'image') -> Augment:
    """A scaling about the centre by the factor U(low, high), one for both axes; above 1 magnifies."""
    def fn(image, rng):
        return warp(image, jnp.eye(2) / factor(rng, low, high), jnp.zeros(2), fill)
    return _each(fn, key)


def factor(rng: jax.Array, low: float, high: float) -> jax.Array:
    """The factor of `scale`."""
    return jax.random.uniform(rng, minval=low, maxval=high)


def shear(most: float, fill: float = 0.0, key: str = 'image') -> Augment:
    """A shear about the centre: each row moves by s times its distance from the middle row, s of U(-most, most)."""
    def fn(image, rng):
        s = jax.random.uniform(rng, minval=-most, maxval=most)
        return warp(image, jnp.array([[1.0, 0.0], [0.0, 1.0]]).at[1, 0].set(-s), jnp.zeros(2), fill)
    return _each(fn, key)


def translate(pixels: float, fill: float = 0.0, key: str = 'image') -> Augment:
    """A shift by U(-pixels, pixels) on each axis, a real number."""
    def fn(image, rng):
        return warp(image, jnp.eye(2), -jax.random.uniform(rng, (2,), minval=-pixels, maxval=pixels), fill)
    return _each(fn, key)


def _target(batch: Batch, classes: int) -> jax.Array:
    return batch['target'] if 'target' in batch else jax.nn.one_hot(batch['label'], classes)


def _partner(x: jax.Array) -> jax.Array:
    """The example before each one. Batches are shuffled already, and a roll by one moves one row per device, where a
    permutation would move nearly all of them."""
    return jnp.roll(x, 1, axis=0)


def mixup(alpha: float, classes: int, key: str = 'image') -> Augment:
    """mixup, Zhang et al. 2018, equation 1: λ a + (1-λ) b of images and targets, λ ~ Beta(α, α), b the example before.

    One λ per batch, as in the authors' code.
    """
    def apply(batch, rng):
        mix = jax.random.beta(rng, alpha, alpha)
        target = _target(batch, classes)
        blend = lambda a: mix * a + (1 - mix) * _partner(a)
        return {**batch, key: blend(batch[key]), 'target': blend(target)}
    return apply


def cutmix(alpha: float, classes: int, key: str = 'image') -> Augment:
    """CutMix, Yun et al. 2019, section 3.1: a rectangle of the image before is put into each.

    λ ~ Beta(α, α); the sides are W√(1-λ) and H√(1-λ) about a uniform centre, cut at the border; targets are mixed by
    the area that is inside the image. One rectangle per batch, as in the authors' code.
    """
    def apply(batch, rng):
        r_mix, r_centre = jax.random.split(rng)
        image = batch[key]
        height, width = image.shape[1:3]
        cut = jnp.sqrt(1 - jax.random.beta(r_mix, alpha, alpha))
        u = jax.random.uniform(r_centre, (2,))
        masks = []
        for size, centre in ((height, u[0]), (width, u[1])):
            half, middle = jnp.floor(size * cut) // 2, jnp.floor(centre * size)
            at = jnp.arange(size)
            masks.append((at >= middle - half) & (at < middle + half))
        inside_HxW = masks[0][:, None] & masks[1][None, :]
        mix = 1 - inside_HxW.mean()
        target = _target(batch, classes)
        return {**batch, key: jnp.where(inside_HxW[None, ..., None], _partner(image), image),
                'target': mix * target + (1 - mix) * _partner(target)}
    return apply
