"""The two terms of a generative adversarial network as one loss.

Glossary: B examples · Z latent width · P packs: the logits that the discriminator gives a batch, B, or fewer where it sees
several images at once.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, mask, weighted


class Game(NamedTuple):
    """The losses of the two players, as functions of the discriminator's logits.

    Attributes:
      real, fake: the discriminator's loss of data and of samples.
      wins: the generator's loss of samples.
      score: what the metrics d_real and d_fake report of a logit.
    """

    real: Callable
    fake: Callable
    wins: Callable
    score: Callable


GAMES = {
    # Goodfellow et al. 2014, section 3
    'non_saturating': Game(lambda d: jax.nn.softplus(-d), jax.nn.softplus, lambda d: jax.nn.softplus(-d), jax.nn.sigmoid),
    # Lim & Ye 2017; Miyato et al. 2018, eq. 16 and 17
    'hinge': Game(lambda d: jax.nn.relu(1 - d), lambda d: jax.nn.relu(1 + d), lambda d: -d, lambda d: d),
    # Arjovsky et al. 2017, algorithm 1; it needs a penalty
    'wasserstein': Game(lambda d: -d, lambda d: d, lambda d: -d, lambda d: d),
}


def gan(latent: int, game: str = 'non_saturating', penalty: float = 0.0, image: str = 'image', label: str = '') -> Task:
    """Both players' losses, summed; images in -1..1.

    d_loss, of the discriminator: its losses of data and of samples G(z), with G held fixed
    g_loss, of the generator: its loss of samples, with D held fixed
    penalty, of the discriminator: (‖∇ D(x̂)‖ - 1)² at x̂ on the line between an image and a sample, scaled by `penalty`
      (Gulrajani et al. 2017, eq. 3); D must have no batch normalisation, which makes its logits depend on one another

    `stop_gradient` holds a network fixed, so each of the parameter groups 'generator' and 'discriminator' gets the gradient of
    its own term alone, and an optimizer's `groups` may give each its own; the generator's `every` is the number of updates of
    the discriminator for one of the generator. In training, statistics of the discriminator follow data, then samples.
    Metrics: d_real and d_fake, the probability of being data, or the mean logit in games without one. Predictions: one
    sample per example, drawn from `rng`, [B, H, W, C] in -1..1.

    Args:
      latent: Z.
      game: a key of `GAMES`.
      penalty: the factor of the gradient penalty; 0 leaves it out.
      label: the key of the classes [B] that both networks are given; '' for a model without.

    Raises:
      UserError: there is no such game ('task/unknown-option').
    """
    if game not in GAMES:
        raise UserError(f"gan: got game {game!r}, expected one of {', '.join(GAMES)}; fix: choose one of them",
                        code='task/unknown-option')
    rules = GAMES[game]

    def key_of(rng):
        return rngs.key(0) if rng is None else rng

    def noise(batch, rng):
        return jax.random.normal(jax.random.fold_in(key_of(rng), 0x6A), (batch[image].shape[0], latent))

    def given(batch):
        return (batch[label],) if label else ()

    def loss(apply, variables, batch, rng, train):
        groups = variables['params']
        state = {name: value for name, value in variables.items() if name != 'params'}

        def discriminate(group, state, x):
            logits, changed = apply({'params': {**groups, 'discriminator': group}, **state}, x, *given(batch), train=train,
                                    rng=rng, method='discriminate')
            return logits.astype(jnp.float32), {**state, **changed}

        fake, changed = apply({'params': groups, **state}, noise(batch, rng), *given(batch), train=train, rng=rng,
                              method='generate')
        state |= changed
        held = jax.lax.stop_gradient(fake)
        real_logits, state = discriminate(groups['discriminator'], state, batch[image])
        fake_logits, after = discriminate(groups['discriminator'], state, held)
        fixed_logits, _ = discriminate(jax.lax.stop_gradient(groups['discriminator']), state, fake)

        weights = mask(batch).reshape(real_logits.shape[0], -1).min(axis=1)  # a pack with padding in it counts nothing
        terms = {'d_loss': Term(rules.real(real_logits) + rules.fake(fake_logits), weights),
                 'g_loss': Term(rules.wins(fixed_logits), weights)}
        if penalty:
            share = jax.random.uniform(jax.random.fold_in(key_of(rng), 0x6B), (fake.shape[0],) + (1,) * (fake.ndim - 1))
            between = share * batch[image] + (1 - share) * held
            slope = jax.grad(lambda x: discriminate(groups['discriminator'], state, x)[0].sum())(between)
            square = jnp.square(slope.astype(jnp.float32)).reshape(weights.shape[0], -1).sum(axis=1)
            norm = jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)  # the root has no derivative at 0
            terms['penalty'] = Term(jnp.square(norm - 1), weights, penalty)
        metrics = {'d_real': weighted(rules.score(real_logits), weights), 'd_fake': weighted(rules.score(fake_logits), weights)}
        return terms, Aux(after, metrics)

    def predict(apply, variables, batch, rng):
        return apply(variables, noise(batch, rng), *given(batch), method='generate')[0].astype(jnp.float32)

    return Task(lambda batch: (batch[image], *given(batch)), loss, predict, unit='images')
