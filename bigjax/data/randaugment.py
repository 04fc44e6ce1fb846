"""RandAugment of single images on the host, Cubuk et al. 2020: some operations of one strength, drawn at random.

The sixteen operations and their ranges are those of the authors' TensorFlow code for EfficientNet, which ViT recipes use:
a magnitude of 10 is the full range. `level` is magnitude / 10. Uncovered pixels are grey of 128. One difference:
contrast is about the mean grey level, as in Pillow; theirs divides the number of pixels by 256.

Images are uint8 [H, W, 3] (or one channel, where colour does nothing).
"""
from collections.abc import Callable

import cv2
import numpy as np

GREY = 128
TRANSLATE, CUTOUT = 100, 40  # pixels at level 1, as for images of 224


def randaugment(image: np.ndarray, rng: np.random.Generator, layers: int = 2, magnitude: float = 10) -> np.ndarray:
    """`layers` operations, each drawn from all, one after the other."""
    for name in rng.choice(list(OPERATIONS), layers):
        image = OPERATIONS[name](image, magnitude / 10, rng)
    return image


def autocontrast(image: np.ndarray) -> np.ndarray:
    """The image with each channel stretched to 0 … 255."""
    low, high = (f(image, axis=(0, 1)).astype(np.float32) for f in (np.min, np.max))
    scale = 255 / np.where(high > low, high - low, 255)
    stretched = np.clip(image * scale - low * scale, 0, 255)
    return np.where(high > low, stretched, image).astype(np.uint8)


def equalize(image: np.ndarray) -> np.ndarray:
    """The image with each channel's histogram as equal as a table of grey levels can make it (Pillow's rule)."""
    out = np.empty_like(image)
    for c in range(image.shape[-1]):
        counts = np.bincount(image[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        table = np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255) if step else np.arange(256)
        out[..., c] = table.astype(np.uint8)[image[..., c]]
    return out


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """The image with the highest bits of each value alone."""
    return image & np.uint8(256 - 2**(8 - bits)) if bits else np.zeros_like(image)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """The image with values from the threshold on inverted."""
    return np.where(image < threshold, image, 255 - image)


def solarize_add(image: np.ndarray, amount: int, threshold: int = 128) -> np.ndarray:
    """The image with values under the threshold raised."""
    return np.where(image < threshold, np.minimum(image.astype(np.int32) + amount, 255), image).astype(np.uint8)


def blend(a: np.ndarray, b: np.ndarray, factor: float) -> np.ndarray:
    """a + factor (b - a), clipped to 0 … 255."""
    return np.clip(a + np.float32(factor) * (b.astype(np.float32) - a), 0, 255).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """The luma of ITU-R 601-2, [H, W, 1]."""
    if image.shape[-1] == 1:
        return image
    return (image.astype(np.int64) @ np.array([19595, 38470, 7471]) + 2**15 >> 16)[..., None].astype(np.uint8)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend of the smoothed image (0) and the image (1), sharper above it; the border keeps its pixels."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = cv2.filter2D(image, -1, kernel).reshape(image.shape)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        smooth[edge] = image[edge]
    return blend(smooth, image, factor)


def affine(image: np.ndarray, matrix: list, shift: list) -> np.ndarray:
    """The pixel at o is the given one's at M (o - c) + c + shift, in (x, y); c is the centre. The nearest pixel is taken."""
    height, width, channels = image.shape
    m, centre = np.array(matrix, np.float64), np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre + np.array(shift) - m @ centre
    out = cv2.warpAffine(image, np.column_stack([m, offset]), (width, height),
                         flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
                         borderValue=(GREY,) * channels)
    return out.reshape(image.shape)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """A rotation about the centre, counterclockwise."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return affine(image, [[c, -s], [s, c]], [0, 0])


def cutout(image: np.ndarray, half: int, rng: np.random.Generator) -> np.ndarray:
    """A grey square of side 2·half about a uniform pixel, cut at the border (DeVries & Taylor 2017)."""
    y, x = (int(rng.integers(n)) for n in image.shape[:2])
    out = image.copy()
    out[max(0, y - half):y + half, max(0, x - half):x + half] = GREY
    return out


def _signed(value: float, rng) -> float:
    return value if rng.random() < 0.5 else -value


OPERATIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    'autocontrast': lambda image, level, rng: autocontrast(image),
    'equalize': lambda image, level, rng: equalize(image),
    'invert': lambda image, level, rng: 255 - image,
    'rotate': lambda image, level, rng: rotate(image, _signed(30 * level, rng)),
    'posterize': lambda image, level, rng: posterize(image, int(4 * level)),
    'solarize': lambda image, level, rng: solarize(image, int(256 * level)),
    'solarize_add': lambda image, level, rng: solarize_add(image, int(110 * level)),
    'color': lambda image, level, rng: blend(grey(image), image, 1.8 * level + 0.1),
    'contrast': lambda image, level, rng: blend(
        np.full_like(image, int(grey(image).mean() + 0.5)), image, 1.8 * level + 0.1),
    'brightness': lambda image, level, rng: blend(np.zeros_like(image), image, 1.8 * level + 0.1),
    'sharpness': lambda image, level, rng: sharpness(image, 1.8 * level + 0.1),
    'shear_x': lambda image, level, rng: affine(image, [[1, _signed(0.3 * level, rng)], [0, 1]], [0, 0]),
    'shear_y': lambda image, level, rng: affine(image, [[1, 0], [_signed(0.3 * level, rng), 1]], [0, 0]),
    'translate_x': lambda image, level, rng: affine(image, [[1, 0], [0, 1]], [_signed(TRANSLATE * level, rng), 0]),
    'translate_y': lambda image, level, rng: affine(image, [[1, 0], [0, 1]], [0, _signed(TRANSLATE * level, rng)]),
    'cutout': lambda image, level, rng: cutout(image, int(CUTOUT * level), rng),
}
