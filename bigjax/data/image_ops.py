"""The operations that augmentation policies draw, on one image on the device: pure functions of its levels.

Glossary: H, W, C of an image · levels: float32 of whole numbers 0 … 255, those of the uint8 image · v: the strength of an
operation.

Under vmap a choice between functions of whole images would compute every one of them for every image. So an operation only
describes a `Change`: a table of new levels, two factors and a matrix, all small; `changed` carries out the chosen one in one
pass. The results are Pillow's, whose counterparts stand beside the operations, and where Pillow cuts numbers off, so is it
here.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LUMA = np.array([19595, 38470, 7471]) / 2**16  # ITU-R 601-2 in the whole numbers of Pillow: the products are exact in float32
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's ImageFilter.SMOOTH
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


class Statistics(NamedTuple):
    """The facts of an image that operations depend on.

    Attributes:
      counts: int32 [256, C], pixels per level.
      low, high: int32 [C], the least and the greatest level.
      grey: the mean of the grey image, a whole number.
      size: (H, W).
    """

    counts: jax.Array
    low: jax.Array
    high: jax.Array
    grey: jax.Array
    size: tuple[int, int]


class Change(NamedTuple):
    """The effect of one operation on an image.

    Attributes:
      table: [256, C], the new level of each level.
      color: 0 gives the grey image, 1 the image, more is more colourful.
      sharpness: 0 gives the smoothed image, 1 the image, more is sharper.
      matrix: [2, 3], where a pixel comes from: (x, y) of the image given (x, y, 1), at the middles of pixels (0.5, 1.5, …).
      hole: (y, x, half), a square of side 2 half about a pixel that is filled; no square where half is 0.
    """

    table: jax.Array
    color: jax.Array
    sharpness: jax.Array
    matrix: jax.Array
    hole: jax.Array


def statistics(image_HxWxC: jax.Array) -> Statistics:
    """The statistics of an image.

    The counts are the product of two one-hot matrices, of the upper and the lower four bits: a scatter would take a TPU one
    step per pixel.
    """
    whole = image_HxWxC.astype(jnp.int32).reshape(-1, image_HxWxC.shape[-1])
    digits = lambda x: jax.nn.one_hot(x, 16, dtype=jnp.bfloat16)
    counts = jnp.einsum('nch,ncl->hlc', digits(whole // 16), digits(whole % 16), preferred_element_type=jnp.float32)
    grey = jnp.floor(gray(image_HxWxC).mean() + 0.5)
    return Statistics(counts.reshape(256, -1).astype(jnp.int32), whole.min(0), whole.max(0), grey, image_HxWxC.shape[:2])


def gray(image_HxWxC: jax.Array) -> jax.Array:
    """The luma [H, W, 1], rounded."""
    if image_HxWxC.shape[-1] == 1:
        return image_HxWxC
    return jnp.floor(jnp.einsum('hwc,c->hw', image_HxWxC, LUMA.astype(np.float32), precision='highest') + 0.5)[..., None]


def blend(a: jax.Array, b: jax.Array, factor: jax.Array) -> jax.Array:
    """a + factor (b - a) within 0 … 255, cut off to whole numbers."""
    return jnp.floor(jnp.clip(a + factor * (b - a), 0, 255))


def _autocontrast(x, v, s: Statistics):
    span = jnp.maximum(s.high - s.low, 1)
    return jnp.where(s.high > s.low, jnp.maximum(x.astype(jnp.int32) - s.low, 0) * 255 // span, x.astype(jnp.int32))


def _equalize(x, v, s: Statistics):
    step = (s.counts.sum(0) - jnp.take_along_axis(s.counts, s.high[None], 0)[0]) // 255
    below = jnp.cumsum(s.counts, 0) - s.counts
    return jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), x.astype(jnp.int32))


def _posterize(x, v, s):
    whole, bits = x.astype(jnp.int32), v.astype(jnp.int32)
    return jnp.where(bits > 0, whole >> (8 - bits) << (8 - bits), 0)


def rotation(degrees: jax.Array, size: tuple[int, int]) -> tuple:
    """The matrix of a rotation about the centre, counterclockwise."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    y, x = size[0] / 2, size[1] / 2
    return (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)


TABLES: dict[str, Callable] = {  # name: `new(x [256, 1], v, statistics)`, the new level of each level x, [256, 1 or C]
    'identity': lambda x, v, s: x,
    'autocontrast': _autocontrast,                                      # ImageOps.autocontrast
    'equalize': _equalize,                                              # ImageOps.equalize
    'invert': lambda x, v, s: 255 - x,                                  # ImageOps.invert
    'posterize': _posterize,                                            # ImageOps.posterize, v bits
    'solarize': lambda x, v, s: jnp.where(x < v, x, 255 - x),           # ImageOps.solarize
    'solarize_add': lambda x, v, s: jnp.where(x < 128, x + v, x),       # Cubuk et al. 2020, their code
    'brightness': lambda x, v, s: jnp.floor(x * v),                     # ImageEnhance.Brightness
    'contrast': lambda x, v, s: blend(s.grey, x, v),                    # ImageEnhance.Contrast
}
MATRICES: dict[str, Callable] = {  # name: `rows(v, (H, W))` of `Change.matrix`
    'identity': lambda v, size: IDENTITY,
    'rotate': rotation,                                                 # Image.rotate
    'shear_x': lambda v, size: ((1, v, 0), (0, 1, 0)),                  # Image.transform(AFFINE), about the corner
    'shear_y': lambda v, size: ((1, 0, 0), (v, 1, 0)),
    'translate_x': lambda v, size: ((1, 0, jnp.trunc(v * size[1])), (0, 1, 0)),  # v: the share of the side
    'translate_y': lambda v, size: ((1, 0, 0), (0, 1, jnp.trunc(v * size[0]))),
    'move_x': lambda v, size: ((1, 0, jnp.trunc(v)), (0, 1, 0)),        # v: pixels
    'move_y': lambda v, size: ((1, 0, 0), (0, 1, jnp.trunc(v))),
}
FACTORS = ('color', 'sharpness', 'cutout')  # ImageEnhance.Color, ImageEnhance.Sharpness; DeVries & Taylor 2017
NAMES = (*TABLES, *(name for name in MATRICES if name != 'identity'), *FACTORS)


def change(s: Statistics, operation: jax.Array, v: jax.Array, at: jax.Array) -> Change:
    """The change of the operation NAMES[operation] at strength v; `at`, uniform [2] in 0 … 1, is where cutout's centre lies."""
    among = lambda names: jnp.asarray([list(names).index(name) if name in names else 0 for name in NAMES])[operation]
    levels = jnp.arange(256, dtype=jnp.float32)[:, None]
    tables = [lambda fn=fn: jnp.broadcast_to(jnp.clip(fn(levels, v, s), 0, 255).astype(jnp.float32), s.counts.shape)
              for fn in TABLES.values()]
    matrices = [lambda fn=fn: jnp.stack([jnp.stack([jnp.asarray(cell, jnp.float32) for cell in row]) for row in fn(v, s.size)])
                for fn in MATRICES.values()]
    factor = lambda name: jnp.where(operation == NAMES.index(name), v, 1.0)
    half = jnp.where(operation == NAMES.index('cutout'), jnp.floor(v), 0.0)
    return Change(jax.lax.switch(among(TABLES), tables), factor('color'), factor('sharpness'),
                  jax.lax.switch(among(MATRICES), matrices), jnp.stack([*jnp.floor(at * jnp.array(s.size)), half]))


def changed(image_HxWxC: jax.Array, c: Change, fill: float, linear: bool = False) -> jax.Array:
    """The image after a change; `fill` is the level of pixels that come from outside, `linear` interpolates moved pixels."""
    height, width, channels = image_HxWxC.shape
    image = jnp.take_along_axis(c.table, image_HxWxC.astype(jnp.int32).reshape(-1, channels), 0).reshape(image_HxWxC.shape)
    if channels > 1:
        image = jnp.where(c.color == 1, image, blend(gray(image), image, c.color))
    image = jnp.where(c.sharpness == 1, image, blend(smoothed(image), image, c.sharpness))
    image = moved(image, c.matrix, fill, linear)
    y, x, half = c.hole
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (rows >= y - half) & (rows < y + half) & (columns >= x - half) & (columns < x + half)
    return jnp.where(inside, fill, image)


def smoothed(image_HxWxC: jax.Array) -> jax.Array:
    """Pillow's SMOOTH: the 3 x 3 mean with the pixel itself five times; the border keeps its levels."""
    height, width, _ = image_HxWxC.shape
    if height < 3 or width < 3:
        return image_HxWxC
    image_HxWxC = jnp.asarray(image_HxWxC)
    inner = sum(SMOOTH[i, j] * image_HxWxC[i:height - 2 + i, j:width - 2 + j] for i in range(3) for j in range(3))
    return image_HxWxC.at[1:-1, 1:-1].set(jnp.floor(inner + 0.5))


def moved(image_HxWxC: jax.Array, matrix: jax.Array, fill: float, linear: bool = False) -> jax.Array:
    """The image whose pixel at (x, y) is the given one's at matrix · (x, y, 1), as Pillow's Image.transform(AFFINE) has it."""
    height, width, channels = image_HxWxC.shape
    xs, ys = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    x, y = (row[0] * xs + row[1] * ys + row[2] for row in matrix)
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None]
    flat = image_HxWxC.reshape(-1, channels)
    at = lambda row, column: flat[jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)]
    if not linear:
        return jnp.where(inside, at(jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)), fill)
    top, left = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
    down, right = (y - 0.5 - top)[..., None], (x - 0.5 - left)[..., None]
    i, j = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = at(i, j) * (1 - right) + at(i, j + 1) * right
    lower = at(i + 1, j) * (1 - right) + at(i + 1, j + 1) * right
    return jnp.where(inside, jnp.floor(upper * (1 - down) + lower * down), fill)
