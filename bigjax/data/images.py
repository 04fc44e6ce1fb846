"""Images: encoded bytes to RGB arrays and back, sizes and crops."""
import io
import math
import os

import numpy as np

from bigjax.data import lost_parts
from bigjax.data.resize import resize
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

EXTENSIONS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm',
              '.gif')
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'PPM')  # of Pillow; its other readers start programs or are rare
STARTS = (b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'RIFF', b'BM', b'II*\0', b'MM\0*', b'GIF8', b'P5', b'P6')
LIGHT, DARK = 192, 64  # mean grey levels of a border above and below which the ground of a drawing is light or dark
DRAWINGS = 64  # images whose ground is looked at
BLEND_VALUES = 1 << 22  # values that are blended together, in double precision


def decode(data: bytes, where: str, image_size: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3] RGB of an encoded image, turned by its EXIF orientation; grey becomes three channels, transparency white.

    Args:
      data: JPEG, PNG, WebP, BMP, TIFF, GIF (the first frame) or PNM.
      where: the file and the record, for the message.
      image_size: both sides of the result, see `resize`.

    Raises:
      UserError: not an image, one that is cut short, or one that announces more pixels than `safe_read.check_unpacked` allows.
    """
    from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header alone
            safe_read.check_unpacked(where, 4 * math.prod(image.size), len(data), 'replace or remove it')
            if lost_parts.found(image, data):
                raise ValueError('a part of it is zeros')
            pixels = upright(image)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds
        why = 'of no format that is read' if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise UserError(f'{where}: got {len(data)} bytes that are not an image, or a damaged one ({why}); fix: replace or '
                        'remove it', code='data/image') from error
    return resize(pixels, image_size)


def upright(image) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a Pillow image, turned by its EXIF orientation and over white.

    Raises:
      ValueError: pixels that are neither 8 nor 16 bits wide.
    """
    from PIL import ImageOps
    kind, image = image.format, ImageOps.exif_transpose(image)
    if image.mode.startswith(('I', 'F')):  # one channel of 16 bits; Pillow gives those of a PNM as 32
        if image.mode == 'F' or (image.mode == 'I' and kind != 'PPM'):
            raise ValueError(f'pixels of kind {image.mode}')
        grey = np.asarray(image).astype(np.uint16)[..., None]
        opaque = grey != image.info.get('transparency', -1)
        return rgb(np.concatenate([grey, opaque * np.uint16(65535)], axis=-1))
    transparent = 'A' in image.getbands() or 'transparency' in image.info
    return rgb(np.asarray(image.convert('RGBA' if transparent else 'RGB')))


def rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of an image [H, W], [H, W, 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)], over white.

    uint16 is scaled to uint8.
    """
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[-1] in (2, 4):
        image = np.concatenate([_over_white(rows) for rows in np.array_split(image, -(-image.size // BLEND_VALUES) or 1)])
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    return np.ascontiguousarray(image)


def _over_white(image: np.ndarray) -> np.ndarray:
    alpha = image[..., -1:] / 255.0
    return (image[..., :-1] * alpha + 255.0 * (1 - alpha)).round().astype(np.uint8)


def border(image: np.ndarray) -> float:
    """The mean level of the outermost pixels."""
    return float(np.concatenate([image[0].ravel(), image[-1].ravel(), image[:, 0].ravel(), image[:, -1].ravel()]).mean())


def ground(drawings: np.ndarray) -> str:
    """The ground that grey images [N, H, W, 1] are drawn on, by the first ones: 'dark', 'light', or '' where it is neither."""
    borders = np.array([border(np.asarray(image)) for image in drawings[:DRAWINGS]])
    return 'dark' if np.mean(borders < DARK) > 0.9 else 'light' if np.mean(borders > LIGHT) > 0.9 else ''


def random_resized_crop(image, rng: np.random.Generator, size: int, area=(0.05, 1.0), ratio=(3 / 4, 4 / 3)):
    """[size, size, C]: a random part of the image (Szegedy et al. 2015, section 6), the whole where ten draws do not fit.

    Args:
      image: an array [H, W, C], or a `bigjax.data.encoded.Encoded`.
    """
    height, width = image.shape[:2]
    log_ratio = [math.log(end) for end in ratio]
    for _ in range(10):
        wanted, aspect = rng.uniform(*area) * height * width, math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return resize(part(image, top, left, h, w), size, quick=True)
    return resize(np.asarray(image), size, quick=True)


def part(image, top: int, left: int, height: int, width: int) -> np.ndarray:
    """[height, width, C] of an image, which may still be encoded."""
    if hasattr(image, 'crop'):
        return image.crop(top, left, height, width)
    return image[top:top + height, left:left + width]


def central_crop(image, size: int, shorter: int) -> np.ndarray:
    """[size, size, C]: the middle of the image after its shorter side was made `shorter` pixels."""
    height, width = image.shape[:2]
    side = max(1, min(height, width) * size // shorter)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(part(image, top, left, side, side), size)


def resized_middle(image, size: int, shorter: int, method: str) -> np.ndarray:
    """[size, size, C]: the middle of the image after its shorter side was made `shorter` pixels, as PyTorch's programs do it.

    Args:
      image: an array [H, W, C], or a `bigjax.data.encoded.Encoded`.
      method: a name of Pillow's filters, 'BILINEAR' or 'BICUBIC'; the whole image is filtered, with antialiasing.

    Raises:
      UserError: no such filter, or a middle that is larger than the image; 'data/resize'.
    """
    from PIL import Image
    filters = Image.Resampling.__members__
    if method not in filters or size > shorter:
        raise UserError(f'resize: got {printable(repr(method))} to {shorter} pixels and {size} of the middle, expected one of '
                        f'{", ".join(filters)} and at most {shorter}; fix: config.method, config.image_size',
                        code='data/resize')
    height, width = image.shape[:2]
    factor = shorter / min(height, width)
    sides = (shorter, int(factor * height)) if width <= height else (int(factor * width), shorter)
    pixels = Image.fromarray(np.asarray(image)).resize(sides, filters[method])
    left, top = (round((side - size) / 2) for side in sides)
    return np.asarray(pixels.crop((left, top, left + size, top + size)))


def cropped(example, rng: np.random.Generator, train: bool, *, size: int, area=(0.05, 1.0)) -> dict:
    """The usual transform of ImageNet: 'image' is a random part of a training image, the middle 7/8 of another."""
    image = example['image']
    crop = random_resized_crop(image, rng, size, area) if train else central_crop(image, size, size * 256 // 224)
    return {**example, 'image': crop}


def encode_png(image: np.ndarray) -> bytes:
    """The PNG of uint8 [H, W, 1 (grey) or 3 (RGB)]."""
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, 'PNG')
    return out.getvalue()


def is_image(name: str) -> bool:
    """Whether the ending of a name is one of an image."""
    return name.lower().endswith(EXTENSIONS)


def looks_like_image(path: str | os.PathLike) -> bool:
    """Whether a file begins as an image does."""
    try:
        with open(path, 'rb') as file:
            return file.read(16).startswith(STARTS)
    except OSError:
        return False


def read_image(path: str | os.PathLike, record: str, image_size: int | None = None) -> np.ndarray:
    """The image of a file; `record` names the example in messages.

    Raises:
      UserError: names the file and the record.
    """
    return decode(safe_read.content(path, record), f'{printable(path)} ({record})', image_size)
