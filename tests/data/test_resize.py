"""Resizing against averages and interpolation in double precision."""
import numpy as np
import pytest

from bigjax.data import images
from bigjax.data.resize import resize


def axis(old, new):
    """[new, old] weights in float64: areas where the axis shrinks, linear between pixel centres where it grows."""
    if new <= old:
        edge = np.arange(new + 1) * old / new
        low, high = edge[:-1, None], edge[1:, None]
        at = np.arange(old)
        return np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None) * new / old
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(old)), 0, None)


def reference(image, size):
    height, width = image.shape[:2]
    return np.einsum('ih,hwc,jw->ijc', axis(height, size[0]), image.astype(np.float64), axis(width, size[1]), optimize=True)


@pytest.mark.parametrize('shape', [(50, 2000), (2000, 50), (100, 300), (300, 100), (20, 30), (64, 40), (40, 64), (64, 128),
                                   (500, 333)])
@pytest.mark.parametrize('size', [64, (64, 64), (48, 96)])
@pytest.mark.parametrize('channels', [1, 3])
def test_each_axis_is_averaged_or_interpolated(shape, channels, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, channels)).astype(np.uint8)
    found, wanted = resize(image, size), size if isinstance(size, tuple) else (size, size)
    assert found.shape == (*wanted, channels) and found.dtype == np.uint8
    assert np.abs(found - reference(image, wanted)).max() <= 1.3  # two roundings, and OpenCV's weights of 11 bits


@pytest.mark.parametrize('axis_', [0, 1])
def test_stripes_are_averaged_where_the_other_axis_grows(axis_):
    stripes = np.tile(np.uint8([0, 255]), 1000)
    image = np.ascontiguousarray(np.broadcast_to(stripes[None, :, None], (50, 2000, 3)))
    found = resize(image if axis_ else image.swapaxes(0, 1).copy(), 64).astype(float)
    inner = found[:, 1:-1] if axis_ else found[1:-1]
    assert np.abs(inner - 127.5).max() <= 5  # 31.25 stripes to a pixel: an odd one is left over


def test_random_resized_crops_do_not_alias():
    """A crop of narrow stripes has their mean, whatever its aspect."""
    image = np.ascontiguousarray(np.broadcast_to(np.tile(np.uint8([0, 255]), 1000)[None, :, None], (60, 2000, 3)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop = images.random_resized_crop(image, rng, 32, area=(0.3, 1.0), ratio=(8, 30)).astype(float)
        assert crop.std() < 20


def test_what_has_the_size_is_returned_as_it_is():
    image = np.zeros((8, 8, 3), np.uint8)
    assert resize(image, 8) is image and resize(image, (8, 8)) is image and resize(image, None) is image
