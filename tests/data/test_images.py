"""Decoding images: colours, transparency, orientation, and every damaged image by name."""
import io
import struct

import cv2
import numpy as np
import pytest
from made_up import encode, smooth
from PIL import Image

from bigjax.data import images
from tests.refused import refused


@pytest.mark.parametrize('kind, close', [('.jpg', 6), ('.png', 0), ('.webp', 6), ('.bmp', 0)])
def test_decode_gives_back_the_image(kind, close):
    out = images.decode(encode(smooth(), kind), 'here')
    assert out.dtype == np.uint8 and out.shape == (24, 30, 3)
    assert np.abs(out.astype(int) - smooth()).mean() <= close  # swapped channels differ by 40


def test_decode_grey_alpha_and_16_bits_to_rgb():
    grey = smooth()[..., 0]
    np.testing.assert_array_equal(images.decode(encode(grey, '.png'), 'here'), np.repeat(grey[..., None], 3, -1))
    rgb, alpha = smooth(), np.tile(np.linspace(0, 255, 30).astype(np.uint8), (24, 1))
    bgra = np.concatenate([rgb[..., ::-1], alpha[..., None]], -1)
    over_white = rgb * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    assert np.abs(images.decode(encode(bgra, '.png'), 'here') - over_white).max() <= 0.5 + 1e-9
    deep = (rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(images.decode(cv2.imencode('.png', deep)[1].tobytes(), 'here'), rgb)
    jpeg = cv2.imencode('.jpg', grey)[1].tobytes()
    assert images.decode(jpeg, 'here').shape == (24, 30, 3)


def test_resize():
    out = images.decode(encode(smooth(40, 40), '.png'), 'here', 20)
    want = smooth(40, 40).reshape(20, 2, 20, 2, 3).mean((1, 3))  # area averaging
    assert out.shape == (20, 20, 3) and np.abs(out - want).max() <= 1
    assert images.resize(smooth()[..., :1], 50).shape == (50, 50, 1)



def pillow(image, kind, **options):
    out = io.BytesIO()
    (image if hasattr(image, 'save') else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def blended(rgb, alpha):
    """Over white, in float64."""
    a = alpha[..., None] / 255
    return rgb * a + 255 * (1 - a)


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('grey', [False, True])
def test_transparency_is_white_in_every_format_once(kind, grey):
    rgb, alpha = smooth(), np.tile(np.linspace(0, 255, 30).astype(np.uint8), (24, 1))
    rgb = np.repeat(rgb[..., :1], 3, -1) if grey else rgb
    image = np.dstack([rgb[..., :1] if grey else rgb, alpha])
    if kind == 'WEBP' and grey:
        image = np.dstack([rgb, alpha])
    data = pillow(image, kind, **({'lossless': True, 'exact': True} if kind == 'WEBP' else {}))
    assert np.abs(images.decode(data, 'here') - blended(rgb, alpha)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize('mode, key', [('L', 7), ('RGB', (1, 2, 3)), ('P', 0), ('I;16', 700)])
def test_a_transparent_colour_of_a_png_is_white(mode, key):
    values = np.full((4, 4), 100 if mode != 'I;16' else 100 * 257, np.uint8 if mode != 'I;16' else np.uint16)
    values[0, 0] = key if mode in ('L', 'I;16') else 0
    image = Image.fromarray(values if mode in ('L', 'I;16') else np.repeat(values[..., None], 3, -1))
    if mode == 'RGB':
        image.putpixel((0, 0), key)
    if mode == 'P':
        image = image.convert('P', palette=Image.Palette.ADAPTIVE, colors=2)
        key = image.getpixel((0, 0))
    out = images.decode(pillow(image, 'PNG', transparency=key), 'here')
    assert (out[0, 0] == 255).all() and np.abs(out[1:].astype(int) - 100).max() <= 1


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_format_is_turned_by_its_orientation(kind, orientation):
    """EXIF 2.32, section 4.6.4.1.A: rows and columns of the stored image by tag 274."""
    image = smooth(24, 32)
    exif = Image.Exif()
    exif[274] = orientation
    turned = {1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.swapaxes(0, 1),
              6: image[::-1].swapaxes(0, 1), 7: image[::-1, ::-1].swapaxes(0, 1), 8: image.swapaxes(0, 1)[::-1]}[orientation]
    lossless = {'JPEG': {'quality': 95}, 'WEBP': {'lossless': True}}.get(kind, {})
    out = images.decode(pillow(image, kind, exif=exif, **lossless), 'here')
    assert out.shape == turned.shape and np.abs(out.astype(int) - turned).mean() <= 6  # JPEG halves the colours


def test_the_first_frame_of_a_gif_and_grey_of_16_bits():
    frames = [Image.fromarray(smooth(seed=i)) for i in (0, 1)]
    out = images.decode(pillow(frames[0], 'GIF', save_all=True, append_images=frames[1:]), 'here')
    assert np.abs(out.astype(int) - smooth()).mean() < 12  # 256 colours
    grey = smooth()[..., 0]
    for kind in ('.png', '.tiff', '.pgm'):
        deep = cv2.imencode(kind, grey.astype(np.uint16) * 257)[1].tobytes()
        np.testing.assert_array_equal(images.decode(deep, 'here')[..., 1], grey)


def thumbnailed(jpeg):
    """The JPEG with an EXIF-like segment that holds an end mark of its own."""
    payload = b'Exif\0\0' + b'\xff\xd8thumbnail\xff\xd9'
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(payload) + 2) + payload + jpeg[2:]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1:]


@pytest.mark.parametrize('make', [
    lambda: encode(smooth())[:-400], lambda: thumbnailed(encode(smooth()))[:-300],
    lambda: encode(smooth(), '.png')[:-200], lambda: b'', lambda: b'not an image', lambda: encode(smooth())[:20],
    lambda: encode(smooth(), '.webp')[:-200], lambda: flipped(encode(smooth(), '.png'), 200),
    lambda: pillow(smooth(), 'TIFF')[:-200], lambda: pillow(np.zeros((4, 4), np.float32), 'TIFF')],
    ids=['cut jpeg', 'cut, with a thumbnail', 'cut png', 'empty', 'text', 'header only', 'cut webp', 'flipped png', 'cut tiff',
         'floats'])
def test_damaged_image_is_named(make):
    with refused('data/image', 'a/b.jpg (record 5): ') as caught:
        images.decode(make(), 'a/b.jpg (record 5)')
    assert ' object at 0x' not in str(caught.value)


def noisy(size=200):
    rng = np.random.default_rng(0)
    return (smooth(size, size) + rng.normal(0, 20, (size, size, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('optimize', [False, True])
@pytest.mark.parametrize('image', [noisy(), noisy()[..., 0]], ids=['colour', 'grey'])
def test_a_jpeg_with_lost_sectors_is_named(image, optimize):
    data = pillow(image, 'JPEG', optimize=optimize)
    for at in range(len(data) // 3, len(data) - 1500, 3000):
        with refused('data/image', 'here'):
            images.decode(data[:at] + bytes(1024) + data[at + 1024:], 'here')


@pytest.mark.parametrize('options', [{}, {'optimize': True}, {'progressive': True}, {'comment': bytes(2000)}])
@pytest.mark.parametrize('value', [0, 127, 255])
def test_flat_images_are_not_taken_for_damaged(options, value):
    for shape in ((1200, 1200, 3), (1200, 1200)):
        image = np.full(shape, value, np.uint8)
        image[:8] = noisy(1200)[:8] if len(shape) == 3 else noisy(1200)[:8, :, 0]
        assert images.decode(pillow(image, 'JPEG', **options), 'here').shape == (1200, 1200, 3)


PACKED = {'lossy webp': ('WEBP', {'quality': 80}), 'lossless webp': ('WEBP', {'lossless': True}),
          'deflated tiff': ('TIFF', {'compression': 'tiff_adobe_deflate'}), 'tiff of jpeg': ('TIFF', {'compression': 'jpeg'}),
          'lzw tiff': ('TIFF', {'compression': 'tiff_lzw'}), 'png': ('PNG', {}), 'gif': ('GIF', {})}


@pytest.mark.parametrize('kind', PACKED)
def test_every_packed_format_with_a_lost_part_is_named(kind):
    """A hole or a tail of zeros, as a disk or a download leaves it, and a file that is cut short."""
    data = pillow(noisy(), PACKED[kind][0], **PACKED[kind][1])
    assert images.decode(data, 'here').shape == (200, 200, 3)
    middle, pixels = len(data) // 2, len(data) * 9 // 10
    for damaged in (data[:middle] + bytes(2048) + data[middle + 2048:], data[:pixels], data[:middle],
                    data[:pixels - 1024] + bytes(1024) + data[pixels:]):
        with refused('data/image', 'here'):
            images.decode(damaged, 'here')


@pytest.mark.parametrize('kind', PACKED)
@pytest.mark.parametrize('value', [0, 255])
def test_flat_images_of_every_format_are_whole(kind, value):
    """Their compressed pixels may be zeros."""
    image = np.full((1500, 1500, 3), value, np.uint8)
    image[:8, :200] = noisy()[:8]
    assert images.decode(pillow(image, PACKED[kind][0], **PACKED[kind][1]), 'here').shape == (1500, 1500, 3)


def test_whole_images_with_an_inner_end_mark_or_more_bytes_are_read():
    for data in (thumbnailed(encode(smooth())), encode(smooth()) + b'trailing bytes',
                 cv2.imencode('.jpg', smooth(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()):
        assert images.decode(data, 'here').shape == (24, 30, 3)


def test_png_of_grey_and_colour_come_back():
    for image in (smooth(), smooth()[..., :1]):
        np.testing.assert_array_equal(images.decode(images.encode_png(image), 'here'), np.broadcast_to(image, (24, 30, 3)))


@pytest.mark.parametrize('mode', ['CMYK', 'P', '1', 'L', 'LA', 'YCbCr'])
def test_images_of_every_mode_look_as_they_do_to_a_person(mode):
    """CMYK and YCbCr JPEGs, and PNGs of a palette, of bits and of grey."""
    seen = Image.fromarray(smooth())
    stored = seen.convert(mode)
    data = pillow(stored, 'JPEG' if mode in ('CMYK', 'YCbCr') else 'PNG')
    want = np.asarray(stored.convert('L').convert('RGB') if mode == 'LA' else stored.convert('RGB')).astype(int)
    out = images.decode(data, 'here')
    assert out.shape == (24, 30, 3) and np.abs(out - want).mean() <= (6 if mode in ('CMYK', 'YCbCr') else 0)
    if mode == 'CMYK':
        assert np.abs(out - smooth().astype(int)).mean() <= 6  # not inverted


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('shape', [(5, 7, 3), (1, 1, 3), (2, 300, 1)])
def test_images_smaller_than_the_crop_are_magnified(shape, train):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for seed in range(5):
        out = images.cropped({'image': image}, np.random.default_rng(seed), train, size=16)['image']
        assert out.shape == (16, 16, shape[-1]) and out.min() >= image.min() and out.max() <= image.max()
