"""Grey images as draws of black and white: a pixel is 1 with a probability of its grey level.

Training images are drawn anew whenever they are seen (Salakhutdinov & Murray 2008; Burda et al. 2016, section 5), evaluation
images once, so that every evaluation judges the same ones.
"""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data.sources import Splits, derived


def splits(given: Splits) -> Splits:
    """The grey training images without their labels, and the judged split as black and white of 0 and 255."""
    judged = given.judged
    return derived(given, lambda parts: {'train': {'image': parts['train']['image']},
                                         judged: {'image': drawn(parts[judged]['image'], seed=0)}})


def to_unit(batch):
    """Grey levels to 0..1; a `preprocess`."""
    return {**batch, 'image': batch['image'].astype(jnp.float32) / 255}


def draw(batch, rng):
    """Each pixel is 1 with the probability of its grey level in 0..1; an `augment`."""
    return {**batch, 'image': jax.random.bernoulli(rng, batch['image']).astype(jnp.float32)}


def drawn(image: np.ndarray, seed: int) -> np.ndarray:
    """The same on the host, once: uint8 grey levels -> 0 or 255."""
    levels = np.random.default_rng(seed).integers(0, 255, image.shape)
    return np.where(levels < image, 255, 0).astype(np.uint8)
