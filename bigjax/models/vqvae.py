"""An autoencoder of images whose latents are vectors of a learned codebook (van den Oord et al. 2017, "Neural Discrete
Representation Learning").

Glossary: B batch · H, W, C image · h, w = H/4, W/4 · K vectors of the codebook · Z their width.
"""
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.upsample import ConvTranspose

VARIANTS = {
    'small': {'codes': 128, 'latent': 16, 'width': 64, 'inner': 32},
    # The paper's section 4.1: 256 features everywhere, 512 codes.
    'paper': {'codes': 512, 'latent': 64, 'width': 256, 'inner': 256},
}


class Quantized(NamedTuple):
    """The output of a VQVAE: the image [B, H, W, C], the latents of the encoder and their nearest vectors [B, h, w, Z],
    float32, and the numbers of these vectors [B, h, w]."""

    image: jax.Array
    latents: jax.Array
    nearest: jax.Array
    codes: jax.Array


class Residual(nn.Module):
    """x + 1 x 1 convolution of relu of a 3 x 3 convolution of relu of x: 'conv_0', 'conv_1'."""

    inner: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(self.inner, (3, 3), dtype=self.dtype, name='conv_0')(nn.relu(x))
        return x + Conv(x.shape[-1], (1, 1), dtype=self.dtype, name='conv_1')(nn.relu(y))


class VQVAE(nn.Module):
    """Images [B, H, W, C] -> `Quantized`. The decoder's gradient goes to the encoder as if nothing had been quantised.

    Parameters: 'down_0', 'down_1', 'encoder_block_i', 'latents'; 'codebook' [K, Z]; 'widen', 'decoder_block_i', 'up_0', 'up_1'.

    Attributes:
      channels: C.
      codes: K.
      latent: Z.
      width: features of the convolutions.
      inner: features within residual blocks.
      blocks: residual blocks on each side.
      dtype: of the computation; parameters, latents and the codebook stay float32.
    """

    channels: int = 1
    codes: int = 128
    latent: int = 16
    width: int = 64
    inner: int = 32
    blocks: int = 2
    dtype: Any = jnp.float32

    def setup(self):
        conv = lambda features, size, stride, name: Conv(features, size, strides=stride, dtype=self.dtype, name=name)
        up = lambda features, name: ConvTranspose(features, (4, 4), (2, 2), dtype=self.dtype, name=name)
        blocks = lambda side: [Residual(self.inner, self.dtype, name=f'{side}_block_{i}') for i in range(self.blocks)]
        self.down = [conv(self.width, (4, 4), 2, f'down_{i}') for i in range(2)]
        self.encoder_blocks, self.decoder_blocks = blocks('encoder'), blocks('decoder')
        self.to_latents, self.widen = conv(self.latent, (1, 1), 1, 'latents'), conv(self.width, (3, 3), 1, 'widen')
        self.up = [up(self.width, 'up_0'), up(self.channels, 'up_1')]
        self.codebook = self.param('codebook', nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform', in_axis=0),
                                   (self.codes, self.latent), jnp.float32)

    def encode(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Latents [B, h, w, Z], float32, and the number of the nearest vector of each [B, h, w]."""
        if x.shape[1] % 4 or x.shape[2] % 4:
            raise UserError(f'VQVAE: got images of {x.shape[1]} x {x.shape[2]}, expected multiples of 4; fix: pad or resize '
                            'them', code='model/not-divisible')
        x = x.astype(self.dtype)
        for layer in self.down:
            x = nn.relu(layer(x))
        for block in self.encoder_blocks:
            x = block(x)
        z = self.to_latents(nn.relu(x)).astype(jnp.float32)
        # |z|² is the same for every vector
        distance = jnp.sum(jnp.square(self.codebook), axis=1) - 2 * z @ self.codebook.T
        return z, jnp.argmin(distance, axis=-1)

    def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """Latents [B, h, w, Z] -> the image [B, H, W, C], float32."""
        x = self.widen(z.astype(self.dtype))
        for block in self.decoder_blocks:
            x = block(x)
        return self.up[1](nn.relu(self.up[0](nn.relu(x)))).astype(jnp.float32)

    def __call__(self, x: jax.Array, *, train: bool) -> Quantized:
        z, codes = self.encode(x)
        nearest = jnp.take(self.codebook, codes, axis=0)
        return Quantized(self.decode(z + jax.lax.stop_gradient(nearest - z)), z, nearest, codes)
