"""Boxes and masks move with their image: a box drawn into the image is found where the moved box is."""
import jax
import numpy as np
import pytest
from PIL import Image

from bigjax.data import augment, boxes
from tests.refused import refused

B, H, W = 40, 48, 64
RNG = np.random.default_rng(0)


def drawn():
    """White rectangles on black, their boxes (the last one is padding), and segments of the same shape."""
    image, given = np.zeros((B, H, W, 1), np.float32), np.zeros((B, 2, 4), np.float32)
    for b in range(B):
        x, y = RNG.integers(8, 24), RNG.integers(8, 16)
        x1, y1 = x + RNG.integers(8, 30), y + RNG.integers(8, 24)
        given[b, 0] = x, y, x1, y1
        image[b, y:y1, x:x1] = 1
    return {'image': image, 'boxes': given, 'valid': np.array([[True, False]] * B), 'segments': image[..., 0].astype(np.int32),
            'label': np.arange(B)}


GIVEN = drawn()


def extent(plane):
    """(x0, y0, x1, y1) of what is white, zeros where nothing is."""
    ys, xs = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    return (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1) if len(xs) else (0, 0, 0, 0)


MOVES = {'flip': (boxes.random_flip(), augment.random_flip(), 0), 'crop': (boxes.random_crop(12), augment.random_crop(12), 0),
         'scale': (boxes.scale(0.6, 1.9), augment.scale(0.6, 1.9), 1.01),
         'part': (boxes.random_resized_crop(40, (0.2, 1.0)), None, 1.01)}


@pytest.mark.parametrize('name', MOVES)
def test_a_box_is_where_its_rectangle_is(name):
    move, alone, off = MOVES[name]
    key = jax.random.key(1)
    out = jax.tree.map(np.asarray, jax.jit(move)(GIVEN, key))
    assert not out['valid'][:, 1].any() and not out['boxes'][:, 1].any() and out['label'].shape == (B,)
    if alone is not None:
        np.testing.assert_allclose(out['image'], jax.jit(alone)({'image': GIVEN['image']}, key)['image'], atol=1e-6)
    moved = 0
    for b in range(B):
        if out['valid'][b, 0]:
            np.testing.assert_allclose(out['boxes'][b, 0], extent(out['image'][b, ..., 0] > 0.5), atol=off)
            np.testing.assert_allclose(out['boxes'][b, 0], extent(out['segments'][b] == 1), atol=off)
        moved += not np.array_equal(out['boxes'][b, 0], GIVEN['boxes'][b, 0])
    assert moved > B / 4
    size = out['image'].shape[1] * out['image'].shape[2]
    ignored = (out['segments'] == boxes.IGNORE).sum((1, 2)) / size
    assert (ignored > 0).any() == (name in ('crop', 'scale')) and set(np.unique(out['segments'])) <= {0, 1, boxes.IGNORE}


def test_a_box_that_is_mostly_outside_is_no_longer_valid():
    batch = {'image': np.zeros((200, 20, 20, 1), np.float32), 'boxes': np.tile(np.float32([[[0, 0, 8, 8]]]), (200, 1, 1))}
    out = jax.tree.map(np.asarray, jax.jit(boxes.random_crop(8, least=0.5))(batch, jax.random.key(0)))
    whole = out['boxes'][:, 0]
    area = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1]) / 64
    assert (area[out['valid'][:, 0]] >= 0.5).all() and not area[~out['valid'][:, 0]].any()
    assert 0.2 < out['valid'].mean() < 0.95


def test_the_part_of_an_image_is_pillow_s():
    image = RNG.uniform(0, 1, (6, H, W, 1)).astype(np.float32)
    key = jax.random.key(4)
    out = jax.jit(boxes.random_resized_crop(24))({'image': image}, key)['image']
    for b, r in enumerate(jax.random.split(key, 6)):
        y, x, h, w = (float(v) for v in augment.part(r, (H, W)))
        assert 0 <= y <= H - h and 0 <= x <= W - w and h == int(h)
        want = Image.fromarray(image[b, ..., 0]).resize((24, 24), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
        np.testing.assert_allclose(out[b, ..., 0], np.asarray(want), atol=2e-3)


def test_parts_have_the_areas_and_ratios_asked_for():
    keys = jax.random.split(jax.random.key(0), 2000)
    y, x, h, w = (np.asarray(v) for v in jax.vmap(lambda r: augment.part(r, (300, 400)))(keys))
    share, ratio = h * w / (300 * 400), w / h
    assert 0.07 < share.min() < 0.1 and share.max() > 0.9 and (ratio > 0.74).all() and (ratio < 1.35).all()
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= 300).all() and (x + w <= 400).all()


@pytest.mark.parametrize(('box', 'code'), [
    ((4, 4, 2, 8), 'swapped'), ((4, 4, 4, 8), 'empty'), ((4, 4, 65, 8), 'outside'), ((-1, 4, 6, 8), 'outside'),
    ((np.nan, 4, 6, 8), 'not-finite')])
def test_a_bad_box_is_named(box, code):
    good = (0, 0, W, H)
    boxes.check(np.array([good, good]), H, W, 'a.jpg')
    with refused(f'data/box-{code}', 'a.jpg', 'box 1'):
        boxes.check(np.array([good, box]), H, W, 'a.jpg')
    with refused('data/box-shape', 'a.jpg'):
        boxes.check(np.zeros((3, 5)), H, W, 'a.jpg')
