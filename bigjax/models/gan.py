"""Generative adversarial networks of convolutions, after DCGAN (Radford et al. 2016), for square images.

    norm='batch'      DCGAN: batch normalisation in both networks
    norm='none'       a discriminator without normalisation, as a gradient penalty needs it (Gulrajani et al. 2017)
    norm='spectral'   spectral normalisation of the discriminator (Miyato et al. 2018)
    classes=K         conditional: the class beside the latents, and a projection discriminator (Miyato & Koyama 2018)
    pack=m            PacGAN: the discriminator sees m images at once, as channels of one (Lin et al. 2018)

Glossary: B batch · Z latent width · H, W, C image · K classes · P packs, B / m.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm
from bigjax.nn.spectral_norm import SpectralConv
from bigjax.nn.upsample import ConvTranspose

VARIANTS = {
    # Radford et al. 2016 in the sizes of its PyTorch version: generator 3,576,704, discriminator 2,765,568 parameters.
    'dcgan': {'size': 64, 'channels': 3, 'latent': 100, 'width': 64},
    'mnist': {'size': 28, 'channels': 1},
    'cifar': {'size': 32, 'channels': 3},
}
NORMS = ('batch', 'none', 'spectral')
KERNEL = (4, 4)
SMALLEST = 4  # pixels of the side that the generator begins with, or more where a size is not 4, 8, 16, …
normal = nn.initializers.normal(0.02)


def _scale_init(rng, shape, dtype=jnp.float32):
    return 1.0 + 0.02 * jax.random.normal(rng, shape, dtype)


def _norm(train: bool, dtype, name: str) -> nn.Module:
    # a slow average: samples are drawn with averaged weights, which the statistics of the last few batches do not fit
    return BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-5, scale_init=_scale_init, dtype=dtype,
                     name=name)


def halvings(size: int) -> int:
    """How often a side can be halved and stay a whole number of at least `SMALLEST` pixels."""
    count = 0
    while size % 2 == 0 and size // 2 >= SMALLEST:
        size, count = size // 2, count + 1
    return count


class Generator(nn.Module):
    """Latents [B, Z] (and classes [B]) -> images [B, H, W, C] in -1..1.

    'project' is a dense layer to the smallest side; 'up_0', … double the side and halve the channels, each after batch
    normalisation and a rectifier; the last one, 'image', has the channels of the image.
    """

    size: int
    channels: int
    width: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None, *, train: bool) -> jax.Array:
        steps = halvings(self.size)
        small, width = self.size >> steps, self.width << (steps - 1)
        if self.classes:
            z = jnp.concatenate([z, jax.nn.one_hot(label, self.classes, dtype=z.dtype)], axis=-1)
        x = Dense(small * small * width, use_bias=False, kernel_init=normal, dtype=self.dtype, name='project')(
            z.astype(self.dtype))
        x = nn.relu(_norm(train, self.dtype, 'project_norm')(x.reshape(z.shape[0], small, small, width)))
        up = lambda features, name: ConvTranspose(features, KERNEL, strides=(2, 2), use_bias=False, kernel_init=normal,
                                                  dtype=self.dtype, name=name)
        for i in range(steps - 1):
            width //= 2
            x = nn.relu(_norm(train, self.dtype, f'up_{i}_norm')(up(width, f'up_{i}')(x)))
        return jnp.tanh(up(self.channels, 'image')(x))


class Discriminator(nn.Module):
    """Images [B, H, W, C] (and classes [B]) -> logits [P], positive for data.

    'down_0', … halve the side and double the channels; 'head' is a dense layer to the logit, 'classes' one to K logits, of
    which that of the image's class is added.
    """

    size: int
    width: int
    norm: str
    classes: int
    pack: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None, *, train: bool) -> jax.Array:
        x = _packed(x.astype(self.dtype), self.pack)
        for i in range(halvings(self.size)):
            x = self._layer(self.width << i, KERNEL, 'SAME', f'down_{i}', train)(x)
            if self.norm == 'batch' and i:
                x = _norm(train, self.dtype, f'down_{i}_norm')(x)
            x = nn.leaky_relu(x, 0.2)
        whole = lambda features, name: self._layer(features, x.shape[1:3], 'VALID', name, train)(x)[:, 0, 0]
        logits = whole(1, 'head')[:, 0]
        if self.classes:
            logits += jnp.take_along_axis(whole(self.classes, 'classes'), label[:, None], axis=1)[:, 0]
        return logits

    def _layer(self, features: int, kernel_size, padding: str, name: str, train: bool):
        """A convolution, of stride 2 where it is padded; biases are left out beside batch normalisation."""
        strides = (2, 2) if padding == 'SAME' else (1, 1)
        shared = dict(strides=strides, padding=padding, use_bias=self.norm != 'batch' and name != 'classes',
                      kernel_init=normal, dtype=self.dtype, name=name)
        if self.norm == 'spectral':
            layer = SpectralConv(features, kernel_size, **shared)
            return lambda x: layer(x, train=train)
        return Conv(features, kernel_size, **shared)


def _packed(x: jax.Array, pack: int) -> jax.Array:
    """[B, H, W, C] -> [B / m, H, W, m C]: neighbours in the batch become channels of one image."""
    B, H, W, C = x.shape
    if B % pack:
        raise UserError(f'GAN: got a batch of {B} and pack={pack}, expected whole packs; fix: a batch size that it divides',
                        code='model/not-divisible')
    return x.reshape(B // pack, pack, H, W, C).transpose(0, 2, 3, 1, 4).reshape(B // pack, H, W, pack * C)


class GAN(nn.Module):
    """Both networks in one module; their parameters are the two groups 'generator' and 'discriminator'.

    Attributes:
      size: height and width of the images, a multiple of 4 and at least 8.
      channels: of the images.
      latent: Z.
      width: channels of the discriminator's first layer and of the generator's last hidden one.
      norm: of the discriminator: 'batch', 'none' or 'spectral'.
      classes: K, 0 for a model that is given no classes.
      pack: images that the discriminator sees at once.
      dtype: of the computation; parameters and statistics stay float32.
    """

    size: int = 28
    channels: int = 1
    latent: int = 100
    width: int = 64
    norm: str = 'batch'
    classes: int = 0
    pack: int = 1
    dtype: Any = jnp.float32

    def setup(self):
        if self.size % 4 or self.size < 2 * SMALLEST:
            raise UserError(f'GAN: got size={self.size}, expected a multiple of 4 of at least {2 * SMALLEST}; fix: pad or '
                            'resize the images', code='model/not-divisible')
        if self.norm not in NORMS:
            raise UserError(f"GAN: got norm={self.norm!r}, expected one of {', '.join(NORMS)}; fix: choose one of them",
                            code='model/unknown-option')
        if self.pack > 1 and self.classes:
            raise UserError(f'GAN: got pack={self.pack} and classes={self.classes}, expected one of the two; fix: a pack of '
                            'images of several classes has no class, so leave one out', code='model/unknown-option')
        self.generator = Generator(self.size, self.channels, self.width, self.classes, self.dtype)
        self.discriminator = Discriminator(self.size, self.width, self.norm, self.classes, self.pack, self.dtype)

    def generate(self, z: jax.Array, label: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Latents [B, Z], with classes [B] where it is conditional -> images [B, H, W, C] in -1..1."""
        return self.generator(z, label, train=train)

    def discriminate(self, x: jax.Array, label: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Images [B, H, W, C] -> logits [P]."""
        return self.discriminator(x, label, train=train)

    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Logits [P, 2] of images, and of as many generated from zeros, so that both networks have parameters.

        A batch that holds no whole pack is repeated.
        """
        if x.shape[0] % self.pack:
            x = jnp.repeat(x, self.pack, axis=0)
        if self.classes and label is None:
            label = jnp.zeros(x.shape[0], jnp.int32)
        fake = self.generate(jnp.zeros((x.shape[0], self.latent)), label, train=train)
        return jnp.stack([self.discriminate(x, label, train=train), self.discriminate(fake, label, train=train)], axis=1)
