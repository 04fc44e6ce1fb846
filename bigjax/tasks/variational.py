"""Autoencoders with latent variables: the evidence lower bound, its importance-weighted form, the estimate of log p(x) by
importance sampling, and the terms of a codebook.

Glossary: B examples · K importance samples · Z latent width.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, mask, of_parts, weighted

OBJECTIVES = ('iwae', 'vae')


def _key(rng):
    return rngs.key(0) if rng is None else rng


def gaussian_kl(mean, logvar):
    """KL(N(mean, exp(logvar)) || N(0, 1)) per example, [B] nats (Kingma & Welling 2014, appendix B)."""
    return -0.5 * jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar), axis=-1)


def bernoulli_nll(logits, x):
    """-log p(x) of pixels in 0..1 given logits of the same rank, summed over all axes but the first: [B] nats."""
    logits, x = logits.astype(jnp.float32), x.astype(jnp.float32)
    # one logarithm per pixel: the estimate with 5,000 samples consists of this sum and the decoder
    nats = jnp.maximum(logits, 0) - x * logits + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return nats.reshape(nats.shape[0], -1).sum(axis=1)


def vae(image: str = 'image', beta: float = 1.0) -> Task:
    """The negative evidence lower bound of a VAE with a Gaussian encoder and a Bernoulli decoder, nats per example.

    One latent sample per example, the KL term in closed form. Terms: reconstruction and kl, nats. Predictions: the mean image
    of the decoder at the encoder's mean, [B, …] in 0..1.

    Args:
      beta: the factor of the KL term (Higgins et al. 2017, eq. 4); with any but 1 the metric elbo gives the bound itself.
    """
    def loss(apply, variables, batch, rng, train):
        (logits, mean, logvar), state = apply(variables, batch[image], train=train, rng=_key(rng))
        weights, nll, kl = mask(batch), bernoulli_nll(logits, batch[image]), gaussian_kl(mean, logvar)
        terms = {'reconstruction': Term(nll, weights), 'kl': Term(kl, weights, beta)}
        return terms, Aux(state, {} if beta == 1 else {'elbo': weighted(-nll - kl, weights)})

    def predict(apply, variables, batch, rng):
        mean, _ = apply(variables, batch[image], method='encode')[0]
        return jax.nn.sigmoid(apply(variables, mean, method='decode')[0].astype(jnp.float32))

    def ranges(output):
        of_parts(output, 3)
        return {}

    return Task(lambda batch: (batch[image],), loss, predict, unit='images', ranges=ranges)


def iwae(samples: int = 1, objective: str = 'iwae', image: str = 'image') -> Task:
    """The bounds of Burda et al. 2016 with K samples, w = p(x, h) / q(h | x), nats per example.

        iwae  -log 1/K Σ w     (their eq. 8), tighter as K grows
        vae   -1/K Σ log w     (their eq. 7), the evidence lower bound with less noise

    Predictions: the mean image at the mean of the lowest latent layer, [B, …] in 0..1.

    Args:
      samples: K.

    Raises:
      UserError: another objective, or no sample.
    """
    if objective not in OBJECTIVES or samples < 1:
        raise UserError(f"iwae: got objective={objective!r} with {samples} samples, expected {' or '.join(OBJECTIVES)} with "
                        'at least 1; fix: config.objective, config.samples', code='task/unknown-option')

    def loss(apply, variables, batch, rng, train):
        log_w, state = _log_weights(apply, variables, batch[image], samples, _key(rng), train)
        bound = jax.nn.logsumexp(log_w, axis=1) - math.log(samples) if objective == 'iwae' else log_w.mean(axis=1)
        return {'loss': Term(-bound, mask(batch))}, Aux(state, {})

    def predict(apply, variables, batch, rng):
        means = apply(variables, batch[image], method='encode')[0]
        return jax.nn.sigmoid(apply(variables, means[0], method='lowest')[0].astype(jnp.float32))

    def ranges(output):
        of_parts(output, 2)
        return {}

    return Task(lambda batch: (batch[image],), loss, predict, unit='images', ranges=ranges)


def _log_weights(apply, variables, x, samples: int, rng, train: bool = False):
    """(log p(x, h) - log q(h | x) of K draws of h, [B, K] nats; the collections that changed)."""
    (logits, log_ratio), state = apply(variables, x, samples, train=train, rng=rng, method='proposals')
    flat = logits.reshape(-1, *x.shape[1:])
    nll = bernoulli_nll(flat, jnp.broadcast_to(x[:, None], logits.shape).reshape(flat.shape))
    return log_ratio - nll.reshape(log_ratio.shape), state


def importance(samples: int, image: str = 'image', together: int = 50) -> Callable:
    """A `predict` for an evaluator: log p(x) of each example estimated with K samples (Burda et al. 2016, eq. 8).

    -> [B] nats; the mean is a lower bound that rises with K, 5,000 in the paper's tables.

    Args:
      samples: K.
      together: the number of samples computed at once.
    """
    whole, rest = divmod(samples, together)

    def predict(apply, variables, batch, rng):
        def log_sum(count):
            return lambda key: jax.nn.logsumexp(_log_weights(apply, variables, batch[image], count, key)[0], axis=1)

        sums = [jax.lax.map(log_sum(together), jax.random.split(rng, whole))] if whole else []
        sums += [log_sum(rest)(jax.random.fold_in(rng, whole))[None]] if rest else []
        return jax.nn.logsumexp(jnp.concatenate(sums), axis=0) - math.log(samples)

    return predict


def vq(image: str = 'image', commitment: float = 0.25) -> Task:
    """The three terms of a VQ-VAE (van den Oord et al. 2017, eq. 3), each a mean over the values of an example.

        reconstruction  (x - x̂)², for the encoder and the decoder
        codebook        (sg(z) - e)², which moves the nearest vectors e towards the latents z
        commitment      (z - sg(e))², which keeps the latents near

    Predictions: the image [B, H, W, C], in the scale of the data.

    Args:
      commitment: the factor of the third term, their β.
    """
    per_example = lambda a, b: jnp.square(a - b).reshape(a.shape[0], -1).mean(axis=1)

    def loss(apply, variables, batch, rng, train):
        x, weights = batch[image].astype(jnp.float32), mask(batch)
        (found, z, nearest, _), state = apply(variables, x, train=train, rng=rng)
        fixed = jax.lax.stop_gradient
        return {'reconstruction': Term(per_example(found, x), weights),
                'codebook': Term(per_example(fixed(z), nearest), weights),
                'commitment': Term(per_example(z, fixed(nearest)), weights, commitment)}, Aux(state, {})

    def predict(apply, variables, batch, rng):
        return apply(variables, batch[image])[0][0]

    def ranges(output):
        of_parts(output, 4)
        return {}

    return Task(lambda batch: (batch[image],), loss, predict, unit='images', ranges=ranges)
