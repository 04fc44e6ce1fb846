"""Generative models: the variational bound of a VAE.

Glossary: B examples · Z latent width · K importance samples.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, mask, of_parts


def _per_example(x):
    return x.reshape(x.shape[0], -1).sum(axis=1)


def _key(rng):
    return rngs.key(0) if rng is None else rng


def gaussian_kl(mean, logvar):
    """KL(N(mean, exp(logvar)) || N(0, 1)) per example, [B] nats (Kingma & Welling 2014, appendix B)."""
    return -0.5 * jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar), axis=-1)


def bernoulli_nll(logits, x):
    """-log p(x) of pixels in 0..1 given their logits, summed over an example: [B] nats."""
    return _per_example(optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), x.astype(jnp.float32)))


def vae(image: str = 'image') -> Task:
    """The negative evidence lower bound of a VAE with a Gaussian encoder and a Bernoulli decoder, nats per example.

    One latent sample per example, the KL term in closed form. Terms: reconstruction and kl, nats. Predictions: the mean image
    of the decoder at the encoder's mean, [B, …] in 0..1.
    """
    def loss(apply, variables, batch, rng, train):
        (logits, mean, logvar), state = apply(variables, batch[image], train=train, rng=_key(rng))
        weights = mask(batch)
        terms = {'reconstruction': Term(bernoulli_nll(logits, batch[image]), weights),
                 'kl': Term(gaussian_kl(mean, logvar), weights)}
        return terms, Aux(state, {})

    def predict(apply, variables, batch, rng):
        mean, _ = apply(variables, batch[image], method='encode')[0]
        return jax.nn.sigmoid(apply(variables, mean, method='decode')[0].astype(jnp.float32))

    def ranges(output):
        of_parts(output, 3)
        return {}

    return Task(lambda batch: (batch[image],), loss, predict, unit='images', ranges=ranges)


def importance(samples: int, image: str = 'image', together: int = 50) -> Callable:
    """A `predict` for an evaluator: log p(x) of each example estimated with K samples (Burda et al. 2016, eq. 8).

    -> [B] nats; the mean is a lower bound that rises with K, 5,000 in the paper's tables.

    Args:
      samples: K.
      together: the number of samples computed at once.
    """
    def predict(apply, variables, batch, rng):
        x = batch[image]
        mean, logvar = apply(variables, x, method='encode')[0]

        def log_weight(key):
            noise = jax.random.normal(key, mean.shape)
            z = mean + jnp.exp(0.5 * logvar) * noise
            # log p(z) - log q(z | x); both have the same constant
            ratio = 0.5 * jnp.sum(jnp.square(noise) + logvar - jnp.square(z), axis=-1)
            return ratio - bernoulli_nll(apply(variables, z, method='decode')[0], x)

        logs_KxB = jax.lax.map(log_weight, jax.random.split(rng, samples), batch_size=min(together, samples))
        return jax.nn.logsumexp(logs_KxB, axis=0) - math.log(samples)

    return predict
