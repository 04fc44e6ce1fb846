"""Exact likelihoods of images: pixel after pixel, and by the change of variables of an invertible network.

Both losses are -log p(x) in nats per image, and the metric bpd is the same in bits per dimension, -log2 p(x) / D.

Glossary: B images · H, W, C image · D = H W C · K levels of a channel.
"""
import math

import jax
import jax.numpy as jnp

from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, check_shape, mask, of_parts, weighted

ALPHA = 0.05  # images are squeezed into this distance of 0 and 1 before the logit (Dinh et al. 2017, section 4.1)
LEVELS = 256  # of a uint8 image


def _key(rng):
    return rngs.key(0) if rng is None else rng


def _result(log_p, weights, dimensions: int, state):
    return {'loss': Term(-log_p, weights)}, Aux(state, {'bpd': weighted(-log_p / (dimensions * math.log(2)), weights)})


def autoregressive(image: str = 'image') -> Task:
    """The likelihood of a model that gives logits [B, H, W, C, K] of images [B, H, W, C] of K levels in 0..1.

    Predictions: log p(x), [B] nats.
    """
    def log_p(apply, variables, batch, rng, train):
        x = batch[image]
        logits, state = apply(variables, x, train=train, rng=rng)
        check_shape('logits of pixels', logits, (*x.shape, logits.shape[-1]))
        level = jnp.round(x * (logits.shape[-1] - 1)).astype(jnp.int32)
        log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
        chosen = jnp.take_along_axis(log_probability, level[..., None], axis=-1)
        return chosen.reshape(len(x), -1).sum(axis=1), state

    def loss(apply, variables, batch, rng, train):
        found, state = log_p(apply, variables, batch, rng, train)
        return _result(found, mask(batch), math.prod(batch[image].shape[1:]), state)

    def ranges(output):
        of_parts(output)
        return {}

    return Task(lambda batch: (batch[image],), loss, lambda *given: log_p(*given, False)[0], unit='images', ranges=ranges)


def to_logits(image, noise):
    """(the logit of grey levels 0..255 with noise in 0..1 added, log|d logit / d level| summed, [B]).

    v = α + (1 - 2 α) (level + noise) / 256, and the logit is log v - log(1 - v).
    """
    v = ALPHA + (1 - 2 * ALPHA) * (image.astype(jnp.float32) + noise) / LEVELS
    log_v, log_rest = jnp.log(v), jnp.log1p(-v)
    slope = math.log((1 - 2 * ALPHA) / LEVELS) - log_v - log_rest
    return log_v - log_rest, slope.reshape(slope.shape[0], -1).sum(axis=1)


def from_logits(logits):
    """The images in 0..1 whose logits these are; what lies beyond black and white is cut off."""
    return jnp.clip((jax.nn.sigmoid(logits) - ALPHA) / (1 - 2 * ALPHA), 0.0, 1.0)


def flow(image: str = 'image') -> Task:
    """The likelihood of grey levels 0..255 by a model that maps logits [B, H, W, C] to (noise [B, D], log|det| [B]).

    Uniform noise fills the steps between levels, in evaluation as well: the loss is then a bound of -log P(x) of the levels
    themselves (Theis et al. 2016, section 3.1). Predictions: that bound, log p(x), [B] nats.
    """
    def log_p(apply, variables, batch, rng, train):
        x = batch[image]
        logits, slope = to_logits(x, jax.random.uniform(jax.random.fold_in(_key(rng), 0xDE), x.shape))
        (noise, log_det), state = apply(variables, logits, train=train, rng=rng)
        prior = -0.5 * jnp.sum(jnp.square(noise) + math.log(2 * math.pi), axis=1)
        return prior + log_det + slope, state

    def loss(apply, variables, batch, rng, train):
        found, state = log_p(apply, variables, batch, rng, train)
        return _result(found, mask(batch), math.prod(batch[image].shape[1:]), state)

    def ranges(output):
        of_parts(output, 2)
        return {}

    return Task(lambda batch: (batch[image].astype(jnp.float32),), loss, lambda *given: log_p(*given, False)[0], unit='images',
                ranges=ranges)
