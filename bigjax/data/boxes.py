"""Augmentation of images together with the boxes and masks on them, on the device: factories of pure `(batch, rng) -> batch`.

Glossary: B examples · H, W, C of an image · N boxes of an example, padded. A batch holds 'image' [B, H, W, C] and, where it has
them, 'boxes' float32 [B, N, 4], (x0, y0, x1, y1) in pixels from the upper left corner, 'valid' bool [B, N], which of them are
no padding, and 'segments' whole numbers [B, H, W], the class of every pixel. The image moves as in the function of the same
name in `bigjax.data.augment`, on the same random numbers. What comes into view from outside is `fill` in the image and
`ignore` in the segments. A box is cut at the border; it is no longer valid where less than `least` of its area is left.
"""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data import augment
from bigjax.data.augment import Augment
from bigjax.errors import UserError

IGNORE = 255  # the class of pixels that no loss counts, as in PASCAL VOC
LEAST = 0.1  # share of a box's area
KEYS = ('image', 'boxes', 'valid', 'segments')


def check(boxes: np.ndarray, height: int, width: int, where: str) -> None:
    """Checks the boxes [N, 4] of one image; `where` names the file.

    Raises:
      UserError: names the box: it is not finite, its corners are swapped, it is empty, or it is outside the image.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f'{where}: got boxes {list(boxes.shape)}, expected [N, 4]; fix: x0, y0, x1, y1 of each',
                        code='data/box-shape')
    x0, y0, x1, y1 = boxes.T
    kinds = (
        ('not-finite', ~np.isfinite(boxes).all(1), 'expected finite numbers'),
        ('swapped', (x1 < x0) | (y1 < y0), 'expected x0 < x1 and y0 < y1'),
        ('empty', (x1 == x0) | (y1 == y0), 'expected an area'),
        ('outside', (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height), f'expected it within {width} x {height} pixels'))
    for kind, wrong, expected in kinds:
        if wrong.any():
            i = int(np.argmax(wrong))
            got = ', '.join(f'{v:g}' for v in boxes[i])
            raise UserError(f'{where}, box {i}: got ({got}), {expected}; fix: correct the annotation', code=f'data/box-{kind}')


def _cut(boxes_Nx4: jax.Array, valid_N: jax.Array, height: int, width: int, least: float) -> dict[str, jax.Array]:
    """The boxes cut at the border, and which are still valid; those that are not are zeros."""
    limits = jnp.array([width, height, width, height], boxes_Nx4.dtype)
    area = lambda b: jnp.maximum(b[:, 2] - b[:, 0], 0) * jnp.maximum(b[:, 3] - b[:, 1], 0)
    cut = jnp.clip(boxes_Nx4, 0, limits)
    valid_N = valid_N & (area(cut) > 0) & (area(cut) >= least * area(boxes_Nx4))
    return {'boxes': jnp.where(valid_N[:, None], cut, 0), 'valid': valid_N}


def _each(fn: Callable[[Mapping[str, jax.Array], jax.Array], dict[str, Any]]) -> Augment:
    """`fn({key: of one example}, rng)` over the examples of a batch, of the `KEYS` that it has."""
    def apply(batch, rng):
        own = {key: batch[key] for key in KEYS if key in batch}
        if 'boxes' in own and 'valid' not in own:
            own['valid'] = jnp.ones(own['boxes'].shape[:2], bool)
        return {**batch, **jax.vmap(fn)(own, jax.random.split(rng, batch['image'].shape[0]))}
    return apply


def _moved(example: Mapping[str, jax.Array], image: Callable, segments: Callable, corners: Callable,
           least: float) -> dict[str, Any]:
    """An example whose parts are moved each by its own function; `corners` moves points [..., 2] of (x, y)."""
    out = {'image': image(example['image'])}
    height, width = out['image'].shape[:2]
    if 'boxes' in example:
        points = corners(example['boxes'].reshape(-1, 2, 2))
        boxes = jnp.concatenate([points.min(1), points.max(1)], -1)  # a flip exchanges left and right
        out |= _cut(boxes, example['valid'], height, width, least)
    if 'segments' in example:
        out['segments'] = segments(example['segments'])
    return out


def random_flip(p: float = 0.5) -> Augment:
    """A horizontal flip, with probability p."""
    def fn(example, rng):
        width = example['image'].shape[1]
        flips = augment.flips(rng, p)
        turn = lambda x: jnp.where(flips, x[:, ::-1], x)
        mirror = lambda points: jnp.where(flips, jnp.array([width, 0.0]) + points * jnp.array([-1.0, 1.0]), points)
        return _moved(example, turn, turn, mirror, 0.0)
    return _each(fn)


def random_crop(padding: int, fill: float = 0.0, ignore: int = IGNORE, least: float = LEAST) -> Augment:
    """A window of the image's own size out of the image padded with `padding` pixels on every side."""
    def fn(example, rng):
        y, x = augment.corner(rng, padding)
        image = lambda a: augment.window(a, y, x, padding, fill)
        segments = lambda a: augment.window(a[..., None], y, x, padding, ignore)[..., 0]
        return _moved(example, image, segments, lambda points: points + padding - jnp.stack([x, y]), least)
    return _each(fn)


def scale(low: float, high: float, fill: float = 0.0, ignore: int = IGNORE, least: float = LEAST) -> Augment:
    """A scaling about the centre by the factor U(low, high); above 1 magnifies. Segments take the nearest pixel."""
    def fn(example, rng):
        height, width = example['image'].shape[:2]
        factor = augment.factor(rng, low, high)
        centre = jnp.array([width / 2, height / 2])

        def segments(labels):
            at = [jnp.floor((jnp.arange(n) + 0.5 - n / 2) / factor + n / 2).astype(jnp.int32) for n in (height, width)]
            inside = [(a >= 0) & (a < n) for a, n in zip(at, (height, width), strict=True)]
            near = labels[jnp.clip(at[0], 0, height - 1)[:, None], jnp.clip(at[1], 0, width - 1)[None]]
            return jnp.where(inside[0][:, None] & inside[1][None], near, ignore).astype(labels.dtype)

        image = lambda a: augment.warp(a, jnp.eye(2) / factor, jnp.zeros(2), fill)
        return _moved(example, image, segments, lambda points: centre + factor * (points - centre), least)
    return _each(fn)


def random_resized_crop(size: int, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3), least: float = LEAST) -> Augment:
    """A random part of the image (Szegedy et al. 2015, section 6) in [size, size]; the whole where ten draws do not fit.

    Shrinking averages, as Pillow's bilinear resize does; segments take the nearest pixel.
    """
    def fn(example, rng):
        y, x, h, w = augment.part(rng, example['image'].shape[:2], area, ratio)
        by = jnp.stack([size / h, size / w])

        def segments(labels):
            rows, columns = (jnp.floor(start + (jnp.arange(size) + 0.5) * side / size).astype(jnp.int32)
                             for start, side in ((y, h), (x, w)))
            return labels[rows[:, None], columns[None]]

        image = lambda a: jax.image.scale_and_translate(a, (size, size, a.shape[-1]), (0, 1), by, -by * jnp.stack([y, x]),
                                                        'linear')
        return _moved(example, image, segments, lambda points: (points - jnp.stack([x, y])) * by[::-1], least)
    return _each(fn)
