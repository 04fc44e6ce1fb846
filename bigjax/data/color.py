"""Augmentation of colours on the device: factories of pure `(batch, rng) -> batch`, as those of `bigjax.data.augment`.

Images of a batch are floats, after `augment.normalize(mean, std)` where `mean` and `std` are given, else in 0 … 1. The
functions of single images work in 0 … 1, without rounding, and the result of each stays there.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data.augment import Augment

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2
LARGEST_BLUR = 2.0  # of three_augment, pixels
BLUR_REACH = 4.0  # standard deviations that a blur adds up; 6e-5 of a Gaussian's mass is beyond


def _gray(image: jax.Array) -> jax.Array:
    return image if image.shape[-1] == 1 else jnp.einsum('hwc,c->hw', image, LUMA, precision='highest')[..., None]


def brightness(image_HxWxC: jax.Array, factor: jax.Array) -> jax.Array:
    """The image times a factor."""
    return jnp.clip(image_HxWxC * factor, 0, 1)


def contrast(image_HxWxC: jax.Array, factor: jax.Array) -> jax.Array:
    """The image's distance from its mean grey, times a factor."""
    middle = _gray(image_HxWxC).mean()
    return jnp.clip(middle + factor * (image_HxWxC - middle), 0, 1)


def saturation(image_HxWxC: jax.Array, factor: jax.Array) -> jax.Array:
    """The distance of each pixel from its grey, times a factor."""
    grey = _gray(image_HxWxC)
    return jnp.clip(grey + factor * (image_HxWxC - grey), 0, 1)


def hue(image_HxWxC: jax.Array, turn: jax.Array) -> jax.Array:
    """The image with its hues turned by a part of the circle; value and saturation (HSV) stay. Grey is kept."""
    if image_HxWxC.shape[-1] == 1:
        return image_HxWxC
    r, g, b = (image_HxWxC[..., i] for i in range(3))
    high, low = image_HxWxC.max(-1), image_HxWxC.min(-1)
    span = jnp.where(high > low, high - low, 1)
    sixths = jnp.where(high == r, (g - b) / span, jnp.where(high == g, 2 + (b - r) / span, 4 + (r - g) / span))
    sixths = sixths + 6 * turn
    channel = lambda n: (n + sixths) % 6
    falls = lambda k: jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return jnp.stack([high - (high - low) * falls(channel(n)) for n in (5, 3, 1)], -1)


def gray(image_HxWxC: jax.Array) -> jax.Array:
    """The grey image in as many channels."""
    return jnp.broadcast_to(_gray(image_HxWxC), image_HxWxC.shape)


def solarize(image_HxWxC: jax.Array, threshold: float = 128 / 255) -> jax.Array:
    """The image with values from the threshold on inverted."""
    return jnp.where(image_HxWxC < threshold, image_HxWxC, 1 - image_HxWxC)


def blur(image_HxWxC: jax.Array, sigma: jax.Array, largest: float = LARGEST_BLUR) -> jax.Array:
    """The image under a Gaussian of standard deviation sigma <= largest, pixels; the border is repeated outside.

    Each axis is one product with a banded matrix: kernels that differ from image to image are no convolution of a batch.
    """
    reach = int(np.ceil(BLUR_REACH * largest))
    weights = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / jnp.maximum(sigma, 1e-3)) ** 2)
    weights /= weights.sum()

    def band(size: int) -> jax.Array:  # row i: what each pixel gives to pixel i
        at = jnp.clip(jnp.arange(size)[:, None] + jnp.arange(-reach, reach + 1), 0, size - 1)
        return jnp.einsum('k,ikj->ij', weights, jax.nn.one_hot(at, size), precision='highest')

    height, width, _ = image_HxWxC.shape
    return jnp.einsum('ih,hwc,jw->ijc', band(height), image_HxWxC, band(width), precision='highest')


def on_unit(fn: Callable[[jax.Array, jax.Array], jax.Array], mean, std, key: str) -> Augment:
    """`fn(image_HxWxC in 0 … 1, rng)` on the images of a batch that `normalize(mean, std)` made."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def apply(batch, rng):
        image = batch[key]
        out = jax.vmap(fn)(image * std + mean, jax.random.split(rng, image.shape[0]))
        return {**batch, key: ((out - mean) / std).astype(image.dtype)}
    return apply


JITTERS = (brightness, contrast, saturation, hue)


def draw_jitter(rng: jax.Array, strength: tuple[float, float, float, float]) -> tuple[jax.Array, jax.Array]:
    """The random numbers of `color_jitter` for one image: the order of the four functions, and the amount of each, [4]."""
    r_order, r_amount = jax.random.split(rng)
    amount = jax.random.uniform(r_amount, (4,), minval=-1) * jnp.asarray(strength)
    return jax.random.permutation(r_order, 4), amount + jnp.array([1.0, 1.0, 1.0, 0.0])


def _jittered(image: jax.Array, rng: jax.Array, strength: tuple[float, float, float, float]) -> jax.Array:
    order, amounts = draw_jitter(rng, strength)
    step = lambda image, i: (jax.lax.switch(i, JITTERS, image, amounts[i]), None)
    return jax.lax.scan(step, image, order)[0]


def color_jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 1.0,
                 mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """Colour jitter: factors of U(1 - s, 1 + s) and a turn of the hue by U(-hue, hue), in random order, with probability p.

    The meaning of the arguments is torchvision's.
    """
    strength = brightness, contrast, saturation, hue

    def fn(image, rng):
        r_touch, r = jax.random.split(rng)
        return jnp.where(jax.random.bernoulli(r_touch, p), _jittered(image, r, strength), image)
    return on_unit(fn, mean, std, key)


def random_gray(p: float = 0.1, mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """A grey image, with probability p."""
    return on_unit(lambda image, rng: jnp.where(jax.random.bernoulli(rng, p), gray(image), image), mean, std, key)


def random_blur(p: float = 0.5, low: float = 0.1, high: float = LARGEST_BLUR, mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """A Gaussian blur of standard deviation U(low, high) pixels, with probability p."""
    def fn(image, rng):
        r_touch, r_sigma = jax.random.split(rng)
        sigma = jax.random.uniform(r_sigma, minval=low, maxval=high)
        return jnp.where(jax.random.bernoulli(r_touch, p), blur(image, sigma, high), image)
    return on_unit(fn, mean, std, key)


def draw_three(rng: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The random numbers of `three_augment` for one image: which of the three, a blur's deviation, the key of the jitter."""
    r_which, r_sigma, r_jitter = jax.random.split(rng, 3)
    return jax.random.randint(r_which, (), 0, 3), jax.random.uniform(r_sigma, minval=0.1, maxval=LARGEST_BLUR), r_jitter


def three_augment(jitter: float = 0.3, mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """3-Augment, Touvron et al. 2022 (DeiT III), section 3.2: grey, solarisation or a blur, one of them, then a colour jitter.

    The flip and the crop of that recipe are functions of their own.
    """
    def fn(image, rng):
        which, sigma, r_jitter = draw_three(rng)
        made = jax.lax.switch(which, (lambda x: gray(x), lambda x: solarize(x), lambda x: blur(x, sigma)), image)
        return _jittered(made, r_jitter, (jitter, jitter, jitter, 0.0))
    return on_unit(fn, mean, std, key)
