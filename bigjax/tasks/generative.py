"""Adversarial models: the two terms of a GAN as one loss.

Glossary: B examples · Z latent width.
"""
import jax
import jax.numpy as jnp

from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, mask, weighted


def _key(rng):
    return rngs.key(0) if rng is None else rng


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
