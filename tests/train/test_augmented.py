"""The sheet of augmented examples: rows of one image and its variations, on the scale of the eye."""
import numpy as np
import pytest

from bigjax.data import augment, images
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data
from bigjax.train import augmented

N, H, W = 12, 10, 14
SOURCE = ArraySource({'image': np.random.default_rng(0).integers(0, 256, (N, H, W, 3)).astype(np.uint8),
                      'label': np.arange(N, dtype=np.int32)})
RAW = SOURCE.arrays['image'][:augmented.ROWS] / 255


def views(data, width):
    """[ROWS, COLUMNS, H, W, C] of a sheet."""
    strips = augmented.sheet(data, 0)[augmented.NAME]
    assert strips.shape[2] == augmented.COLUMNS * (width + 1) - 1 and (strips[:, :, width] == 1).all()
    return np.stack([strips[:, :, k * (width + 1):k * (width + 1) + width] for k in range(augmented.COLUMNS)], 1)


def test_rows_begin_with_the_image_and_go_on_with_its_variations():
    data = Data(SOURCE, {}, preprocess=augment.normalize([0.4, 0.5, 0.6], 0.2), augment=augment.random_flip())
    sheet = views(data, W)
    np.testing.assert_allclose(sheet[:, 0], RAW, atol=1e-4)
    same, flipped = ([[np.allclose(view, want, atol=1e-4) for view in row[1:]] for row, want in zip(sheet, to, strict=True)]
                     for to in (RAW, RAW[:, :, ::-1]))
    assert (np.array(same) ^ np.array(flipped)).all() and 10 < np.sum(flipped) < 46


def test_a_transform_of_the_host_is_drawn_anew():
    crop = lambda e, rng, train: images.cropped(e, rng, train, size=8)
    data = Data(SOURCE, {}, transform=crop, preprocess=augment.to_float())
    rows = views(data, 8).reshape(augmented.ROWS, augmented.COLUMNS, -1)
    assert all(len(np.unique(row, axis=0)) >= 7 for row in rows)


@pytest.mark.parametrize('data', [
    Data(SOURCE, {}), Data(ArraySource({'x': np.zeros((4, 3))}), {}, augment=lambda b, r: b),
    Data(SOURCE, {}, preprocess=lambda b: {**b, 'image': b['image'].reshape(-1, H * W * 3)}, augment=lambda b, r: b)],
    ids=['not varied', 'no images', 'images as rows'])
def test_no_sheet(data):
    assert augmented.sheet(data, 0) == {}
