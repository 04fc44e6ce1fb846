"""Variational autoencoders with perceptrons on both sides: one latent layer (Kingma & Welling 2014, appendix C), or several
(Burda et al. 2016).

Glossary: B batch · D flattened data · K samples of the posterior per example · L latent layers · Z latent width.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.activations import activation
from bigjax.nn.dense import Dense

VARIANTS = {
    # Kingma & Welling 2014, section 5, MNIST: 500 hidden units; 20 latents.
    'mnist': {'hidden': (500,), 'latent': 20},
    # Burda et al. 2016, section 5, for DeepVAE: 425,284 and 521,084 parameters on 784 pixels.
    'one_layer': {'hidden': ((200, 200),), 'latents': (50,)},
    'two_layers': {'hidden': ((200, 200), (100, 100)), 'latents': (100, 50)},
}


class Gaussian(nn.Module):
    """[…, D] -> float32 mean and log-variance of a diagonal Gaussian, […, Z] each: 'dense_0', …, 'mean', 'logvar'."""

    hidden: Sequence[int]
    latent: int
    activation: str
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        dense = lambda width, name: Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
        x = x.astype(self.dtype)
        for i, width in enumerate(self.hidden):
            x = activation(self.activation)(dense(width, f'dense_{i}')(x))
        return tuple(dense(self.latent, name)(x).astype(jnp.float32) for name in ('mean', 'logvar'))


class Decoder(nn.Module):
    """[…, Z] -> Bernoulli logits […, D]: 'dense_0', …, 'logits'; `hidden` are the widths of the encoder, used in reverse."""

    hidden: Sequence[int]
    features: int
    activation: str
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        dense = lambda width, name: Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
        z = z.astype(self.dtype)
        for i, width in enumerate(reversed(self.hidden)):
            z = activation(self.activation)(dense(width, f'dense_{i}')(z))
        return dense(self.features, 'logits')(z)


class VAE(nn.Module):
    """Data [B, …] of values in 0..1 -> (logits [B, …], mean [B, Z], logvar [B, Z]), with z drawn by rng 'sample'.

    Attributes:
      shape: of one example.
      hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
      latent: Z.
      activation: its name, see `bigjax.nn.activations`.
      dtype: of the computation; parameters, mean and logvar stay float32.
    """

    shape: Sequence[int] = (28, 28, 1)
    hidden: Sequence[int] = (500,)
    latent: int = 20
    activation: str = 'tanh'
    kernel_init: Callable = nn.initializers.glorot_uniform()
    dtype: Any = jnp.float32

    def setup(self):
        self.encoder = Gaussian(self.hidden, self.latent, self.activation, self.kernel_init, self.dtype)
        self.decoder = Decoder(self.hidden, math.prod(self.shape), self.activation, self.kernel_init, self.dtype)

    def encode(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of q(z | x), float32."""
        return self.encoder(x.reshape(x.shape[0], -1))

    def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of p(x | z), […, *shape]."""
        return self.decoder(z).reshape(*z.shape[:-1], *self.shape)

    def proposals(self, x: jax.Array, samples: int, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """K draws from q(z | x): logits of p(x | z) [B, K, *shape], and log p(z) - log q(z | x) [B, K]."""
        mean, logvar = (moment[:, None] for moment in self.encode(x))
        z, log_q = _drawn(self.make_rng('sample'), mean, logvar, samples)
        return self.decode(z), _log_normal(z) - log_q

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, logvar = self.encode(x)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(self.make_rng('sample'), mean.shape)
        return self.decode(z), mean, logvar


class DeepVAE(nn.Module):
    """An autoencoder with L latent layers: q(h_1 | x) q(h_2 | h_1) … and p(h_L) … p(h_1 | h_2) p(x | h_1).

    Data [B, …] of values in 0..1 -> `proposals` of it. The parameters of layer l are in 'encoder_l' and 'decoder_l', l from 0.

    Attributes:
      shape: of one example.
      hidden: for each latent layer the widths of the hidden layers that lead to it; they are reversed on the way back.
      latents: the width of each latent layer, from the data upwards.
      activation: its name, see `bigjax.nn.activations`.
      dtype: of the computation; parameters, means and log-variances stay float32.
    """

    shape: Sequence[int] = (28, 28, 1)
    hidden: Sequence[Sequence[int]] = ((200, 200),)
    latents: Sequence[int] = (50,)
    activation: str = 'tanh'
    kernel_init: Callable = nn.initializers.glorot_uniform()
    dtype: Any = jnp.float32

    def setup(self):
        rest = self.activation, self.kernel_init, self.dtype
        layers = list(zip(self.hidden, self.latents, strict=True))
        self.encoders = [Gaussian(hidden, width, *rest, name=f'encoder_{i}') for i, (hidden, width) in enumerate(layers)]
        self.decoders = [Decoder(self.hidden[0], math.prod(self.shape), *rest, name='decoder_0')] + [
            Gaussian(tuple(reversed(self.hidden[i])), self.latents[i - 1], *rest, name=f'decoder_{i}')
            for i in range(1, len(layers))]

    def encode(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The means [B, Z_l] of the latent layers, each given the mean of the one below."""
        means, below = [], x.reshape(x.shape[0], -1)
        for encoder in self.encoders:
            below, _ = encoder(below)
            means.append(below)
        return tuple(means)

    def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of p(x | h) [B, *shape] for the uppermost latents [B, Z_L]; the layers below are drawn by rng 'sample'."""
        for decoder in reversed(self.decoders[1:]):
            mean, logvar = decoder(z)
            z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(self.make_rng('sample'), mean.shape)
        return self.lowest(z)

    def lowest(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of p(x | h_1), […, *shape]."""
        return self.decoders[0](z).reshape(*z.shape[:-1], *self.shape)

    def proposals(self, x: jax.Array, samples: int, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """K draws from q(h | x): logits of p(x | h_1) [B, K, *shape], and log p(h) - log q(h | x) [B, K]."""
        below, drawn, log_ratio = x.reshape(x.shape[0], 1, -1), [], 0.0
        for encoder in self.encoders:
            below, log_q = _drawn(self.make_rng('sample'), *encoder(below), samples)
            log_ratio -= log_q
            drawn.append(below)
        for i in range(1, len(drawn)):
            log_ratio += _log_normal(drawn[i - 1], *self.decoders[i](drawn[i]))
        return self.lowest(drawn[0]), log_ratio + _log_normal(drawn[-1])

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        return self.proposals(x, 1)


def _log_normal(z: jax.Array, mean: jax.Array | float = 0.0, logvar: jax.Array | float = 0.0) -> jax.Array:
    """log N(z; mean, exp(logvar)) summed over the last axis, without -Z/2 log 2π, which a ratio of two densities cancels."""
    return -0.5 * jnp.sum(logvar + jnp.square(z - mean) * jnp.exp(-logvar), axis=-1)


def _drawn(rng, mean: jax.Array, logvar: jax.Array, samples: int) -> tuple[jax.Array, jax.Array]:
    """z [B, K, Z] of N(mean, exp(logvar)) with moments [B, 1 or K, Z], and their log-densities [B, K] without the constant."""
    noise = jax.random.normal(rng, (mean.shape[0], samples, mean.shape[-1]))
    return mean + jnp.exp(0.5 * logvar) * noise, -0.5 * jnp.sum(logvar + jnp.square(noise), axis=-1)
