"""RandAugment's operations against Pillow's, and how they are drawn."""
import collections

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from bigjax.data import randaugment as ra

CLOUDS = np.random.default_rng(0).normal(size=(40, 56, 3)).cumsum(0).cumsum(1) * 3 + [90, 120, 60]
PICTURE = CLOUDS.clip(3, 240).astype(np.uint8)


def op(name, level):
    return lambda image: ra.OPERATIONS[name](image, level, np.random.default_rng(0))


@pytest.mark.parametrize(('mine', 'pillow', 'off'), [
    (ra.autocontrast, ImageOps.autocontrast, 1), (ra.equalize, ImageOps.equalize, 0), (op('invert', 1), ImageOps.invert, 0),
    (lambda x: ra.posterize(x, 3), lambda x: ImageOps.posterize(x, 3), 0),
    (lambda x: ra.solarize(x, 100), lambda x: ImageOps.solarize(x, 100), 0),
    (op('color', 1), lambda x: ImageEnhance.Color(x).enhance(1.9), 1),
    (op('color', 0.2), lambda x: ImageEnhance.Color(x).enhance(0.46), 1),
    (op('contrast', 1), lambda x: ImageEnhance.Contrast(x).enhance(1.9), 1),
    (op('brightness', 0.3), lambda x: ImageEnhance.Brightness(x).enhance(0.64), 1),
    (lambda x: ra.sharpness(x, 1.9), lambda x: ImageEnhance.Sharpness(x).enhance(1.9), 2),
    (lambda x: ra.sharpness(x, 0.0), lambda x: x.filter(ImageFilter.SMOOTH), 1)],
    ids=['autocontrast', 'equalize', 'invert', 'posterize', 'solarize', 'color', 'color_less', 'contrast', 'brightness',
         'sharpness', 'smooth'])
def test_what_pillow_gives(mine, pillow, off):
    expected = np.asarray(pillow(Image.fromarray(PICTURE)))
    np.testing.assert_allclose(mine(PICTURE).astype(int), expected, atol=off)  # Pillow rounds some, we cut off


def test_rotation_is_pillow_s_but_for_pixels_at_the_border_of_two():
    expected = np.asarray(Image.fromarray(PICTURE).rotate(30, fillcolor=(128,) * 3))
    assert np.mean(ra.rotate(PICTURE, 30) == expected) > 0.97


@pytest.mark.parametrize(('name', 'axis'), [('translate_x', 1), ('translate_y', 0)])
def test_translation_moves_whole_pixels_either_way(name, axis):
    seen = set()
    for seed in range(20):
        out = ra.OPERATIONS[name](PICTURE, 0.05, np.random.default_rng(seed))  # five pixels
        for shift in (5, -5):
            moved = np.roll(PICTURE, shift, axis)
            edge = [slice(None)] * 2
            edge[axis] = slice(0, 5) if shift > 0 else slice(-5, None)
            moved[tuple(edge)] = 128
            seen |= {shift} if np.array_equal(out, moved) else set()
    assert seen == {5, -5}


@pytest.mark.parametrize(('name', 'row'), [('shear_x', True), ('shear_y', False)])
def test_shearing_leaves_the_middle_and_moves_the_ends_apart(name, row):
    stripes = np.zeros((41, 41, 1), np.uint8)
    stripes[:, 20] = 255
    out = ra.OPERATIONS[name](stripes if row else stripes.transpose(1, 0, 2), 1.0, np.random.default_rng(0))
    where = np.argmax((out if row else out.transpose(1, 0, 2))[..., 0] == 255, axis=1)
    assert where[20] == 20 and abs(int(where[0]) - int(where[40])) == 12  # 0.3 x 40


def test_cutout_is_one_grey_square_inside_the_picture():
    out = ra.cutout(np.zeros((100, 100, 3), np.uint8), 20, np.random.default_rng(3))
    rows, columns = np.nonzero(out.any((1, 2)))[0], np.nonzero(out.any((0, 2)))[0]
    assert set(np.unique(out)) == {0, 128} and 20 <= len(rows) <= 40 and 20 <= len(columns) <= 40
    assert (out[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1] == 128).all()


def test_solarize_add_raises_the_dark_half():
    levels = np.array([0, 127, 128, 250], np.uint8).reshape(1, 4, 1)
    assert ra.solarize_add(levels, 110).ravel().tolist() == [110, 237, 128, 250]
    assert ra.solarize_add(levels, 200).ravel().tolist() == [200, 255, 128, 250]


@pytest.mark.parametrize('channels', [1, 3])
def test_every_operation_keeps_shape_and_type(channels):
    picture = PICTURE[..., :channels].copy()
    for name, operation in ra.OPERATIONS.items():
        out = operation(picture, 1.0, np.random.default_rng(0))
        assert out.shape == picture.shape and out.dtype == np.uint8, name


def test_operations_are_drawn_alike_and_by_the_generator_alone(monkeypatch):
    drawn = collections.Counter()
    for name in ra.OPERATIONS:
        monkeypatch.setitem(ra.OPERATIONS, name, lambda image, level, rng, name=name: (drawn.update([(name, level)]), image)[1])
    rng = np.random.default_rng(0)
    for _ in range(1000):
        ra.randaugment(PICTURE, rng, layers=2, magnitude=10)
    assert len(drawn) == 16 and {level for _, level in drawn} == {1.0}
    assert sum(drawn.values()) == 2000 and min(drawn.values()) > 85 and max(drawn.values()) < 170  # 125 ± 4 deviations
