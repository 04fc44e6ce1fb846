"""Images that stay encoded until a part of them is wanted: of a JPEG only the rows down to the end of that part are decoded.

Most of the time of a training crop is the decoding. libjpeg reads from the top, so a copy whose header announces fewer rows
ends where the crop ends. The pixels are those of `bigjax.data.images.decode`, bit for bit, whichever library decodes them:
simplejpeg where it is installed (the extra `jpeg`), else OpenCV, which has to decode every row, and Pillow for whatever is no
plain, upright, whole JPEG, which also names a damaged one.
"""
import functools
import io
import os
from typing import NamedTuple

import numpy as np

from bigjax.data import images, lost_parts
from bigjax.io import safe_read
from bigjax.io.text import printable

BASELINE, PROGRESSIVE = (0xC0, 0xC1), (0xC2,)  # kinds of frames (ITU T.81, table B.1) that all three libraries decode
END = b'\xff\xd9'
MORE_ROWS = 2  # below a part: the colours of its last row are interpolated between rows of half the resolution
ORIENTATION = 274  # the tag of EXIF


class Frame(NamedTuple):
    """The frame header of a JPEG: sizes in pixels, the place of the height in the file."""

    height: int
    width: int
    at: int
    kind: int
    exif: bool


def frame(data: bytes) -> Frame | None:
    """The frame of a JPEG of one or three components of eight bits, None of any other file."""
    if not data.startswith(b'\xff\xd8\xff'):
        return None
    at, exif = 2, False
    while at + 10 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in BASELINE + PROGRESSIVE:
            height, width = int.from_bytes(data[at + 5:at + 7], 'big'), int.from_bytes(data[at + 7:at + 9], 'big')
            plain = data[at + 4] == 8 and data[at + 9] in (1, 3) and height and width
            return Frame(height, width, at + 5, kind, exif) if plain else None
        if kind in (0xDA, 0xFF) or (0xC3 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            return None
        exif |= kind == 0xE1
        at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    return None


class Encoded:
    """The encoded image of an example, an array [H, W, 3] of uint8 to NumPy.

    Args:
      data: the file, in a format of `bigjax.data.images`.
      where: the file and the record, for messages.
    """

    ndim, dtype = 3, np.dtype(np.uint8)

    def __init__(self, data: bytes, where: str):
        self.data, self.where = data, where

    @functools.cached_property
    def _plain(self) -> Frame | None:
        """The frame of a JPEG that is upright and whole, else None."""
        found = frame(self.data)
        if found is None or not self.data.endswith(END) or lost_parts.in_jpeg(self.data):
            return None
        safe_read.check_unpacked(self.where, 4 * found.height * found.width, len(self.data), 'replace or remove it')
        return None if found.exif and _orientation(self.data) != 1 else found

    @functools.cached_property
    def _pixels(self) -> np.ndarray:
        return images.decode(self.data, self.where)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the upright image."""
        plain = self._plain
        return (plain.height, plain.width, 3) if plain else self._pixels.shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._pixels if dtype is None else self._pixels.astype(dtype)

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3], a part of the image.

        Raises:
          UserError: as `bigjax.data.images.decode`.
        """
        plain = self._plain
        rows = None if plain is None or '_pixels' in self.__dict__ else _rows(self.data, plain, top + height)
        rows = self._pixels if rows is None else rows
        return rows[top:top + height, left:left + width]


def read(path: str | os.PathLike, record: str, image_size: int | None = None, stays: bool = False) -> np.ndarray | Encoded:
    """The image of a file, decoded, or encoded where it `stays` so; `record` names the example in messages.

    Raises:
      UserError: names the file and the record.
    """
    if not stays:
        return images.read_image(path, record, image_size)
    return Encoded(safe_read.content(path, record), f'{printable(path)} ({record})')


def _orientation(data: bytes) -> int:
    from PIL import Image
    try:
        with Image.open(io.BytesIO(data), formats=('JPEG',)) as image:
            return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's readers raise many kinds; the image is then decoded by Pillow, which names it
        return 0


@functools.cache
def _simplejpeg():
    """The library, or None."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def decoder() -> str:
    """The library that decodes plain JPEGs, for records of speed."""
    return 'simplejpeg' if _simplejpeg() else 'OpenCV'


def _rows(data: bytes, plain: Frame, end: int) -> np.ndarray | None:
    """RGB of the first `end` rows, or more, of a JPEG; None where it is not decoded without a complaint."""
    library = _simplejpeg()
    if library is None:
        return _by_opencv(data, plain)
    cut = plain.kind in BASELINE and end + MORE_ROWS < plain.height
    if cut:
        data = b''.join((data[:plain.at], int(end + MORE_ROWS).to_bytes(2, 'big'), memoryview(data)[plain.at + 2:]))
    try:
        return library.decode_jpeg(data, strict=not cut)  # what follows the announced rows is complained of
    except ValueError:
        return None


def _by_opencv(data: bytes, plain: Frame) -> np.ndarray | None:
    import cv2
    cv2.setNumThreads(0)  # the input pipeline has its own threads
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[:2] != (plain.height, plain.width):
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
