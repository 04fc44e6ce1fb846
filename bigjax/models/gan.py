"""Generative adversarial network of convolutions, after DCGAN (Radford et al. 2016), for images up to 32 pixels wide.

Glossary: B batch · Z latent width · H, W, C image.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm
from bigjax.nn.upsample import ConvTranspose

VARIANTS = {'mnist': {'size': 28, 'channels': 1}, 'cifar': {'size': 32, 'channels': 3}}
normal = nn.initializers.normal(0.02)


def _scale_init(rng, shape, dtype=jnp.float32):
    return 1.0 + 0.02 * jax.random.normal(rng, shape, dtype)


def _norm(train: bool, dtype, name: str) -> nn.Module:
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, scale_init=_scale_init, dtype=dtype,
                     name=name)


def _leaky(x):
    return nn.leaky_relu(x, 0.2)


class Generator(nn.Module):
    """Latents [B, Z] -> images [B, H, W, C] in -1..1: 'project', 'up_0', 'up_1', each normalised, and 'image'.

    A dense layer makes size/4 x size/4 of 2 * width channels; transposed convolutions (5x5) halve the channels and
    double the size, twice.
    """

    size: int
    channels: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        small = self.size // 4
        x = Dense(small * small * 2 * self.width, use_bias=False, kernel_init=normal, dtype=self.dtype,
                  name='project')(z.astype(self.dtype))
        x = x.reshape(z.shape[0], small, small, 2 * self.width)
        x = _leaky(_norm(train, self.dtype, 'project_norm')(x))
        for i, width in enumerate((self.width, self.width // 2)):
            x = ConvTranspose(width, (5, 5), strides=(2, 2), use_bias=False, kernel_init=normal, dtype=self.dtype,
                              name=f'up_{i}')(x)
            x = _leaky(_norm(train, self.dtype, f'up_{i}_norm')(x))
        return jnp.tanh(Conv(self.channels, (5, 5), kernel_init=normal, dtype=self.dtype, name='image')(x))


class Discriminator(nn.Module):
    """Images [B, H, W, C] -> logits [B], positive for data: 'down_0', 'down_1' (normalised), 'head'."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(self.dtype)
        x = _leaky(Conv(self.width, (5, 5), strides=2, kernel_init=normal, dtype=self.dtype, name='down_0')(x))
        x = Conv(2 * self.width, (5, 5), strides=2, use_bias=False, kernel_init=normal, dtype=self.dtype,
                 name='down_1')(x)
        x = _leaky(_norm(train, self.dtype, 'down_1_norm')(x))
        return Dense(1, kernel_init=normal, dtype=self.dtype, name='head')(x.reshape(x.shape[0], -1))[:, 0]


class GAN(nn.Module):
    """Both networks in one module; their parameters are the two groups 'generator' and 'discriminator'.

    Attributes:
      size: height and width of the images, a multiple of 4.
      channels: of the images.
      latent: Z.
      width: channels of each network's middle.
      dtype: of the computation; parameters and statistics stay float32.
    """

    size: int = 28
    channels: int = 1
    latent: int = 100
    width: int = 64
    dtype: Any = jnp.float32

    def setup(self):
        if self.size % 4:
            raise UserError(f'GAN: got size={self.size}, expected a multiple of 4; fix: pad or resize the images',
                            code='model/not-divisible')
        self.generator = Generator(self.size, self.channels, self.width, self.dtype)
        self.discriminator = Discriminator(self.width, self.dtype)

    def generate(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """Latents [B, Z] -> images [B, H, W, C] in -1..1."""
        return self.generator(z, train=train)

    def discriminate(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Images -> logits [B]."""
        return self.discriminator(x, train=train)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits of images [B, H, W, C], and of as many made of zeros, so that both networks have parameters."""
        fake = self.generate(jnp.zeros((x.shape[0], self.latent)), train=train)
        return jnp.stack([self.discriminate(x, train=train), self.discriminate(fake, train=train)], axis=1)
