"""Generative models: the variational bound of a VAE, and the two terms of a GAN as one loss.

Glossary: B examples · Z latent width · K importance samples.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, mask, of_parts, weighted


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


def gan(latent: int, image: str = 'image') -> Task:
    """The non-saturating losses of Goodfellow et al. 2014, section 3, summed; images in -1..1.

    d_loss, of the discriminator: softplus(-D(x)) + softplus(D(G(z))), with G held fixed
    g_loss, of the generator:     softplus(-D(G(z))), with D held fixed

    `stop_gradient` holds a network fixed, so each of the parameter groups 'generator' and 'discriminator' gets the gradient of
    its own term alone, and `optax.multi_transform` may give each its optimizer. In training, batch statistics of the
    discriminator follow data, then samples. Metrics: d_real and d_fake, the probability of being data. Predictions: one sample
    per example, drawn from `rng`, [B, H, W, C] in -1..1.

    Args:
      latent: Z.
    """
    def noise(batch, rng):
        return jax.random.normal(jax.random.fold_in(_key(rng), 0x6A), (batch[image].shape[0], latent))

    def loss(apply, variables, batch, rng, train):
        groups = variables['params']
        state = {name: value for name, value in variables.items() if name != 'params'}

        def discriminate(group, state, x):
            logits, changed = apply({'params': {**groups, 'discriminator': group}, **state}, x, train=train, rng=rng,
                                    method='discriminate')
            return logits.astype(jnp.float32), {**state, **changed}

        fake, changed = apply({'params': groups, **state}, noise(batch, rng), train=train, rng=rng, method='generate')
        state |= changed
        real_logits, state = discriminate(groups['discriminator'], state, batch[image])
        fake_logits, after = discriminate(groups['discriminator'], state, jax.lax.stop_gradient(fake))
        fixed_logits, _ = discriminate(jax.lax.stop_gradient(groups['discriminator']), state, fake)

        d_loss = jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)
        g_loss = jax.nn.softplus(-fixed_logits)
        weights = mask(batch)
        metrics = {'d_real': weighted(jax.nn.sigmoid(real_logits), weights),
                   'd_fake': weighted(jax.nn.sigmoid(fake_logits), weights)}
        return {'d_loss': Term(d_loss, weights), 'g_loss': Term(g_loss, weights)}, Aux(after, metrics)

    def predict(apply, variables, batch, rng):
        return apply(variables, noise(batch, rng), method='generate')[0].astype(jnp.float32)

    return Task(lambda batch: (batch[image],), loss, predict, unit='images')
