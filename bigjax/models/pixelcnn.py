"""Gated PixelCNN: images as a product of conditionals, pixel after pixel (van den Oord et al. 2016, "Conditional Image
Generation with PixelCNN Decoders").

Pixel (r, c) is predicted from all rows above r and from the pixels to its left. A vertical stack sees the rows above, a
horizontal stack the row itself; each layer links the first to the second, so that no pixel above is out of sight. The channels
of a pixel are predicted one after the other: features belong to as many groups, and a group reads its own and earlier ones
only.

Glossary: B batch · H, W, C image · K levels of a channel · P features of a stack.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError
from bigjax.nn.conv import Conv, conv

VARIANTS = {'mnist': {'levels': 2, 'layers': 7, 'width': 24, 'head': 48}}


def channel_mask(inputs: int, features: int, channels: int, halves: int, strict: bool) -> np.ndarray:
    """[inputs, features] of 0 and 1: whether a feature may read an input of the same pixel.

    Args:
      halves: 2 where features are the two halves of a gate, each with groups of its own.
      strict: a group reads earlier groups only, and not its own.
    """
    of_input = np.arange(inputs) * channels // inputs
    half = features // halves
    of_feature = np.arange(features) % half * channels // half
    return (of_input[:, None] < of_feature if strict else of_input[:, None] <= of_feature).astype(np.float32)


class RowConv(nn.Module):
    """A convolution along a row, of a pixel and of pixels to its left, whose taps of the pixel itself respect the channels.

    [B, H, W, P] -> [B, H, W, features]. Parameters: 'kernel' [1, taps, P, features], 'bias' [features].
    """

    features: int
    taps: int
    channels: int
    halves: int = 1
    strict: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, self.taps, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,), jnp.float32)
        mask = np.ones(shape, np.float32)
        mask[:, -1] = channel_mask(x.shape[-1], self.features, self.channels, self.halves, self.strict)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel * mask, bias, dtype=self.dtype)
        return conv(x, kernel, strides=(1, 1), padding=((0, 0), (self.taps - 1, 0)), dilation=(1, 1)) + bias


def gated(x: jax.Array) -> jax.Array:
    """[…, 2 P] -> […, P]: tanh of the first half times the sigmoid of the second (their eq. 2)."""
    value, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(value) * nn.sigmoid(gate)


class PixelCNN(nn.Module):
    """Images [B, H, W, C] of levels in 0..1 -> logits [B, H, W, C, K] of each channel given what comes before it.

    Attributes:
      levels: K.
      channels: C.
      layers: of both stacks, with the first one, whose kernel is larger.
      width: P, a multiple of C.
      kernel, first_kernel: height and width of what a layer would see without its masks, odd.
      head: features between the stacks and the logits, a multiple of C.
      dtype: of the computation; parameters and logits stay float32.
    """

    levels: int = 2
    channels: int = 1
    layers: int = 7
    width: int = 32
    kernel: int = 3
    first_kernel: int = 7
    head: int = 64
    dtype: Any = jnp.float32

    def setup(self):
        C, P = self.channels, self.width
        if P % C or self.head % C or not self.kernel % 2 or not self.first_kernel % 2:
            raise UserError(f'PixelCNN: got width={P}, head={self.head}, kernel={self.kernel} and first_kernel='
                            f'{self.first_kernel}, expected multiples of {C} channels and odd kernels; fix: config.model',
                            code='model/not-divisible')
        sizes = (self.first_kernel, *(self.kernel,) * (self.layers - 1))
        down = lambda k, i: Conv(2 * P, (k // 2 + 1, k), padding=((k // 2, 0), (k // 2, k // 2)), dtype=self.dtype,
                                 name=f'down_{i}')
        row = lambda features, taps, name, **how: RowConv(features, taps, C, dtype=self.dtype, name=name, **how)
        self.down = [down(k, i) for i, k in enumerate(sizes)]
        self.link = [Conv(2 * P, (1, 1), dtype=self.dtype, name=f'link_{i}') for i in range(self.layers)]
        self.across = [row(2 * P, k // 2 + 1, f'across_{i}', halves=2, strict=i == 0) for i, k in enumerate(sizes)]
        self.out = [row(P, 1, f'out_{i}') for i in range(self.layers)]
        self.hidden, self.logits = row(self.head, 1, 'hidden'), row(C * self.levels, 1, 'logits')

    def above(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The features of the rows above that each layer of the horizontal stack receives, [B, H, W, 2 P] each."""
        v = jnp.pad(2 * x - 1, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1].astype(self.dtype)
        found = []
        for down, link in zip(self.down, self.link, strict=True):
            v = down(v)
            found.append(link(v))
            v = gated(v)
        return tuple(found)

    def along(self, x: jax.Array, above: tuple[jax.Array, ...], *, train: bool = False) -> jax.Array:
        """Logits [B, H, W, C, K] of rows x [B, H, W, C] with what `above` gave of these rows."""
        h = (2 * x - 1).astype(self.dtype)
        for i, (across, out) in enumerate(zip(self.across, self.out, strict=True)):
            new = out(gated(across(h) + above[i]))
            h = h + new if i else new
        logits = self.logits(nn.relu(self.hidden(nn.relu(h))))
        return logits.reshape(*x.shape, self.levels).astype(jnp.float32)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.along(x, self.above(x))


def sample(apply, variables, rng, image: jax.Array, levels: int, start: int = 0) -> jax.Array:
    """Draws the pixels of rows `start` and below, [B, H, W, C] in 0..1; the rows above are those of `image`.

    The vertical stack is computed once per row and the horizontal stack on one row only, once per channel of a pixel: 28 rows
    of 28 pixels cost about 56 passes and not 784.

    Args:
      apply: the model, bound by `bigjax.tasks.bind`.
      image: [B, H, W, C] levels in 0..1.
    """
    H, W, C = image.shape[1:]

    def row(r, image):
        above = jax.tree.map(lambda v: jax.lax.dynamic_slice_in_dim(v, r, 1, axis=1),
                             apply(variables, image, method='above')[0])

        def pixel(i, pixels):
            logits = apply(variables, pixels, above, method='along')[0].reshape(-1, W * C, levels)
            drawn = jax.random.categorical(jax.random.fold_in(rng, r * W * C + i), logits[:, i])
            flat = pixels.reshape(-1, W * C).at[:, i].set(drawn / (levels - 1))
            return flat.reshape(pixels.shape)

        pixels = jax.lax.dynamic_slice_in_dim(image, r, 1, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(image, jax.lax.fori_loop(0, W * C, pixel, pixels), r, axis=1)

    return jax.lax.fori_loop(start, H, row, image.astype(jnp.float32))
