"""Variational autoencoder with perceptrons on both sides (Kingma & Welling 2014, appendix C).

Glossary: B batch · D flattened data · Z latent width.
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
    # Burda et al. 2016, one stochastic layer: 425,284 parameters on 784 pixels.
    'iwae': {'hidden': (200, 200), 'latent': 50},
}


class Encoder(nn.Module):
    """[B, D] -> mean and log-variance of q(z | x), [B, Z] each: 'dense_0', …, 'mean', 'logvar'."""

    hidden: Sequence[int]
    latent: int
    activation: str
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        dense = lambda width, name: Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
        for i, width in enumerate(self.hidden):
            x = activation(self.activation)(dense(width, f'dense_{i}')(x))
        return dense(self.latent, 'mean')(x), dense(self.latent, 'logvar')(x)


class Decoder(nn.Module):
    """[B, Z] -> Bernoulli logits [B, D]: 'dense_0', …, 'logits'; the hidden layers of the encoder in reverse."""

    hidden: Sequence[int]
    features: int
    activation: str
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        dense = lambda width, name: Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
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
        self.encoder = Encoder(self.hidden, self.latent, self.activation, self.kernel_init, self.dtype)
        self.decoder = Decoder(self.hidden, math.prod(self.shape), self.activation, self.kernel_init, self.dtype)

    def encode(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of q(z | x), float32."""
        mean, logvar = self.encoder(x.reshape(x.shape[0], -1).astype(self.dtype))
        return mean.astype(jnp.float32), logvar.astype(jnp.float32)

    def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of p(x | z), [B, *shape]."""
        return self.decoder(z.astype(self.dtype)).reshape(z.shape[0], *self.shape)

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, logvar = self.encode(x)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(self.make_rng('sample'), mean.shape)
        return self.decode(z), mean, logvar
