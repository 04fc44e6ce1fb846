"""RealNVP: an invertible network between images and Gaussian noise, with its exact log-determinant (Dinh et al. 2017).

Affine couplings change one part of the image by a scale and a shift that a small residual network computes of the other part.
At each scale three couplings split the pixels as a checkerboard, the image is folded to half its size and four times its
channels, three more split the channels, and half of the channels leave as noise. Four couplings of a checkerboard end it.
The residual networks have no batch normalisation, and their last layer begins at zero: the flow begins as the identity.

Glossary: B batch · H, W, C image · D = H W C.
"""
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError
from bigjax.nn.conv import Conv

VARIANTS = {
    'small': {'scales': 2, 'width': 24, 'blocks': 1},
    # The paper's section 4.1, CIFAR-10: 8 residual blocks, 64 features, one change of scale.
    'paper': {'scales': 1, 'width': 64, 'blocks': 8},
}
SPLITS = 'checkerboard', 'channel'


def kept(split: str, odd: bool, shape: tuple[int, int, int]) -> np.ndarray:
    """1 where a coupling leaves the image [H, W, C] as it is: [H, W, 1] or [1, 1, C] (their figure 3)."""
    H, W, C = shape
    if split == 'checkerboard':
        return ((np.add.outer(np.arange(H), np.arange(W)) + odd) % 2).astype(np.float32)[:, :, None]
    return ((np.arange(C) < C // 2) ^ odd).astype(np.float32)[None, None, :]


class Coupling(nn.Module):
    """[B, H, W, C] -> (the same shape, log|det| [B]); `reverse` inverts it, with the negative log-determinant.

    Parameters: 'in', 'block_i_a', 'block_i_b', 'out' (convolutions) and 'scale' [C], the bound of each channel's log-scale.
    """

    split: str
    odd: bool
    width: int
    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, reverse: bool = False) -> tuple[jax.Array, jax.Array]:
        C = x.shape[-1]
        keep = kept(self.split, self.odd, x.shape[1:])
        h = Conv(self.width, (3, 3), dtype=self.dtype, name='in')((x * keep).astype(self.dtype))
        for i in range(self.blocks):
            y = Conv(self.width, (3, 3), dtype=self.dtype, name=f'block_{i}_a')(nn.relu(h))
            h = h + Conv(self.width, (3, 3), dtype=self.dtype, name=f'block_{i}_b')(nn.relu(y))
        out = Conv(2 * C, (1, 1), kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name='out')(nn.relu(h))
        raw, shift = jnp.split(out.astype(jnp.float32), 2, axis=-1)
        scale = self.param('scale', nn.initializers.ones_init(), (C,), jnp.float32)
        log_scale, shift = scale * jnp.tanh(raw) * (1 - keep), shift * (1 - keep)
        log_det = jnp.sum(log_scale, axis=(1, 2, 3))
        if reverse:
            return (x - shift) * jnp.exp(-log_scale), -log_det
        return x * jnp.exp(log_scale) + shift, log_det


class RealNVP(nn.Module):
    """Images [B, H, W, C] of any real values -> (noise [B, D], log|det of d noise / d image| [B]), float32.

    The parameters of scale s are in 'scale_s_checkerboard_i' and 'scale_s_channel_i', those of the end in 'last_i'.

    Attributes:
      shape: H, W, C; H and W are multiples of 2 ** scales.
      scales: how often half of the channels leave.
      width: features of the residual networks.
      blocks: residual blocks of each.
      dtype: of the residual networks; the image, its noise and the log-determinant stay float32.
    """

    shape: tuple[int, int, int] = (28, 28, 1)
    scales: int = 2
    width: int = 24
    blocks: int = 1
    dtype: Any = jnp.float32

    def setup(self):
        H, W, _ = self.shape
        if H % 2 ** self.scales or W % 2 ** self.scales:
            raise UserError(f'RealNVP: got images of {H} x {W} and scales={self.scales}, expected multiples of '
                            f'{2 ** self.scales}; fix: fewer scales', code='model/not-divisible')
        coupling = lambda split, i, name: Coupling(split, bool(i % 2), self.width, self.blocks, self.dtype, name=name)
        self.couplings = [{split: [coupling(split, i, f'scale_{s}_{split}_{i}') for i in range(3)] for split in SPLITS}
                          for s in range(self.scales)]
        self.last = [coupling(SPLITS[0], i, f'last_{i}') for i in range(4)]

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        B, log_det, noise = x.shape[0], jnp.zeros(x.shape[0], jnp.float32), []
        x = x.astype(jnp.float32)
        for scale in self.couplings:
            for split in SPLITS:
                x = folded(x) if split == 'channel' else x
                for layer in scale[split]:
                    x, change = layer(x)
                    log_det += change
            leaves, x = jnp.split(x, 2, axis=-1)
            noise.append(leaves.reshape(B, -1))
        for layer in self.last:
            x, change = layer(x)
            log_det += change
        return jnp.concatenate([*noise, x.reshape(B, -1)], axis=1), log_det

    def inverse(self, noise: jax.Array, *, train: bool = False) -> jax.Array:
        """Noise [B, D] -> the images [B, H, W, C] of which `__call__` makes it."""
        (H, W, C), B = self.shape, noise.shape[0]
        shapes = [(H >> s + 1, W >> s + 1, C << s + 1) for s in range(self.scales)]  # of what leaves at each scale
        end = (H >> self.scales, W >> self.scales, C << self.scales)
        parts = jnp.split(noise, np.cumsum([math.prod(shape) for shape in shapes]), axis=1)
        x = parts[-1].reshape(B, *end)
        for layer in reversed(self.last):
            x, _ = layer(x, reverse=True)
        for scale, shape, part in reversed(list(zip(self.couplings, shapes, parts[:-1], strict=True))):
            x = jnp.concatenate([part.reshape(B, *shape), x], axis=-1)
            for split in reversed(SPLITS):
                for layer in reversed(scale[split]):
                    x, _ = layer(x, reverse=True)
                x = unfolded(x) if split == 'channel' else x
        return x


def folded(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H/2, W/2, 4 C]: the four pixels of a square become channels (their figure 3)."""
    B, H, W, C = x.shape
    return x.reshape(B, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, H // 2, W // 2, 4 * C)


def unfolded(x: jax.Array) -> jax.Array:
    """The inverse of `folded`."""
    B, H, W, C = x.shape
    return x.reshape(B, H, W, 2, 2, C // 4).transpose(0, 1, 3, 2, 4, 5).reshape(B, 2 * H, 2 * W, C // 4)
