"""Crops of encoded images are crops of the decoded image, bit for bit, by either library."""
import io

import numpy as np
import pytest
from made_up import smooth
from PIL import Image

from bigjax.data import encoded, images
from tests.refused import refused


def jpeg(image, **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, 'JPEG', **options)
    return out.getvalue()


def photo(height=101, width=86):
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    return (smooth(height, width) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(params=['simplejpeg', 'opencv'])
def library(request, monkeypatch):
    if request.param == 'simplejpeg':
        pytest.importorskip('simplejpeg')
    else:
        monkeypatch.setattr(encoded, '_simplejpeg', lambda: None)
    return request.param


KINDS = {'444': dict(subsampling=0), '422': dict(subsampling=1), '420': dict(subsampling=2),
         'restarts': dict(restart_marker_rows=1), 'progressive': dict(progressive=True),
         'comment': dict(comment=b'\xff\xc0' * 9), 'coarse': dict(quality=5)}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('grey', [False, True])
def test_every_crop_is_that_of_the_whole_image(kind, grey, library, capfd):
    data = jpeg(photo()[..., 0] if grey else photo(), **KINDS[kind])
    whole, rng = images.decode(data, 'here'), np.random.default_rng(1)
    assert encoded.frame(data)[:2] == whole.shape[:2]
    for _ in range(25):
        h, w = rng.integers(1, 102), rng.integers(1, 87)
        top, left = rng.integers(102 - h), rng.integers(87 - w)
        image = encoded.Encoded(data, 'here')
        assert image.shape == whole.shape
        np.testing.assert_array_equal(image.crop(top, left, h, w), whole[top:top + h, left:left + w])
    assert capfd.readouterr().err == ''


def test_what_is_no_plain_upright_jpeg_is_decoded_whole(library):
    exif = Image.Exif()
    exif[encoded.ORIENTATION] = 6
    png = images.encode_png(photo())
    cmyk = io.BytesIO()
    Image.fromarray(photo()).convert('CMYK').save(cmyk, 'JPEG')
    for data in (jpeg(photo(), exif=exif), png, cmyk.getvalue(), jpeg(photo()) + b'more'):
        whole, image = images.decode(data, 'here'), encoded.Encoded(data, 'here')
        assert image.shape == whole.shape
        np.testing.assert_array_equal(image.crop(3, 5, 40, 30), whole[3:43, 5:35])
    exif[encoded.ORIENTATION] = 1
    image = encoded.Encoded(jpeg(photo(), exif=exif), 'here')
    image.crop(3, 5, 40, 30)
    assert '_pixels' not in image.__dict__  # upright: it was not decoded by Pillow


@pytest.mark.parametrize('damage', [
    lambda d: d[:-300], lambda d: d[:len(d) // 2] + bytes(1024) + d[len(d) // 2 + 1024:], lambda d: b'',
    lambda d: d[:40] + d[-2:]], ids=['cut', 'zeros', 'empty', 'header'])
def test_a_damaged_image_is_named_whatever_part_is_read(damage, library, capfd):
    with refused('data/image', 'a.jpg (record 5)'):
        encoded.Encoded(damage(jpeg(photo(), quality=95)), 'a.jpg (record 5)').crop(0, 0, 4, 4)


def test_an_array_to_numpy_and_to_crops():
    data = jpeg(photo())
    image, whole = encoded.Encoded(data, 'here'), images.decode(data, 'here')
    np.testing.assert_array_equal(np.asarray(image), whole)
    np.testing.assert_array_equal(np.stack([image, image])[1], whole)
    for train in (True, False):
        a, b = (images.cropped({'image': i}, np.random.default_rng(3), train, size=32)['image'] for i in (image, whole))
        np.testing.assert_array_equal(a, b)
        assert a.shape == (32, 32, 3)
