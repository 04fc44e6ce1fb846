"""Pictures: encoded bytes to RGB arrays, and folders of them."""
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from bigjax.data import headers
from bigjax.data.resize import resize
from bigjax.errors import UserError
from bigjax.io import safe_read

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm')
ROWS = 1 << 22  # numbers that are blended together, in double precision


def _cv2():
    try:
        import cv2
    except ImportError as error:
        raise UserError('reading pictures needs OpenCV: pip install opencv-python-headless') from error
    cv2.setNumThreads(0)  # the input pipeline has its own threads
    return cv2


def whole(data: bytes) -> bool:
    """Whether a JPEG or PNG reaches its own end mark; decoders fill in what is missing with grey, without a word.

    In a JPEG the mark FF D9 cannot occur inside the scan, where every FF is escaped; the segments before it, which may
    hold a thumbnail with an end mark of its own, are stepped over.
    """
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        return _whole_png(data)
    if data[:2] != b'\xff\xd8':
        return True
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    return data.find(b'\xff\xd9', at) >= 0  # no marker followed: the scan has begun


def _whole_png(data: bytes) -> bool:
    """Whether the chunks follow one another to the last: decoders give memory to what a chunk announces, up to 2 GiB."""
    at = 8
    while at + 12 <= len(data):
        kind, at = data[at + 4:at + 8], at + 12 + int.from_bytes(data[at:at + 4], 'big')
        if kind == b'IEND':
            return at <= len(data)
    return False


def decode(data: bytes, where: str, image_size: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3] RGB of an encoded picture; grey becomes three equal channels, transparency white.

    Args:
      data: JPEG, PNG, WebP, BMP, TIFF, GIF or PNM.
      where: the file and the record, for the message.
      image_size: both sides of the result (area averaging to shrink, linear to enlarge; the aspect is not kept).

    Raises:
      UserError: not a picture, one that is cut short, or one that announces more than `untrusted.check_unpacked` allows.
    """
    cv2 = _cv2()
    bgr, size = None, headers.size(data)
    if size and whole(data):
        safe_read.check_unpacked(where, 4 * math.prod(size), len(data), 'replace or remove it')
        # IMREAD_COLOR turns a JPEG upright by its EXIF orientation; only UNCHANGED keeps transparency
        jpeg = data[:2] == b'\xff\xd8'
        try:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_UNCHANGED)
        except cv2.error:
            bgr = None
    if bgr is None or bgr.dtype not in (np.uint8, np.uint16) or bgr.shape[2:] > (4,):
        raise UserError(f'{where}: not a picture, or a damaged one ({len(data)} bytes): replace or remove it')
    colour = bgr.ndim == 3 and bgr.shape[-1] >= 3
    return resize(rgb(bgr[..., [2, 1, 0, *range(3, bgr.shape[-1])]] if colour else bgr), image_size)


def rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of a picture [H, W], [H, W, 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)], over white.

    uint16 is scaled to uint8.
    """
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[-1] in (2, 4):
        image = np.concatenate([_over_white(rows) for rows in np.array_split(image, -(-image.size // ROWS) or 1)])
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    return np.ascontiguousarray(image)


def _over_white(image: np.ndarray) -> np.ndarray:
    alpha = image[..., -1:] / 255.0
    return (image[..., :-1] * alpha + 255.0 * (1 - alpha)).round().astype(np.uint8)


def random_resized_crop(image: np.ndarray, rng: np.random.Generator, size: int, area=(0.05, 1.0), ratio=(3 / 4, 4 / 3)):
    """[size, size, C]: a random part of the picture (Szegedy et al. 2015, section 6), the whole where ten draws do not fit."""
    height, width = image.shape[:2]
    for _ in range(10):
        wanted, aspect = rng.uniform(*area) * height * width, np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(wanted * aspect)), round(np.sqrt(wanted / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return resize(image[top:top + h, left:left + w], size)
    return resize(image, size)


def central_crop(image: np.ndarray, size: int, shorter: int) -> np.ndarray:
    """[size, size, C]: the middle of the picture after its shorter side was made `shorter` pixels."""
    height, width = image.shape[:2]
    side = min(height, width) * size // shorter
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top:top + side, left:left + side], size)


def cropped(example, rng: np.random.Generator, train: bool, *, size: int, area=(0.05, 1.0)) -> dict:
    """The usual transform of ImageNet: 'image' is a random part of a training picture, the middle 7/8 of another."""
    image = example['image']
    crop = random_resized_crop(image, rng, size, area) if train else central_crop(image, size, size * 256 // 224)
    return {**example, 'image': crop}


def encode_png(image: np.ndarray) -> bytes:
    """PNG of uint8 [H, W, 1 (grey) or 3 (RGB)]."""
    return _cv2().imencode('.png', image[..., ::-1])[1].tobytes()


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


class FolderSource:
    """A folder of pictures, one sub-folder a class: {'image': uint8 [H, W, 3], 'label': int32}.

    Classes are the sub-folders in alphabetical order, records their pictures in alphabetical order, also those of
    deeper folders. Only names are read at the start; a picture is read and decoded at `source[i]`.

    Args:
      path: the folder.
      image_size: both sides of every picture; None keeps each as it is.
      classes: the class names, where they are known (those of the training folder).

    Attributes:
      classes: names. files: paths. labels: int32 [N].

    Raises:
      UserError: no such folder, no sub-folders, no pictures, a class that `classes` does not name.
    """

    def __init__(self, path: str | os.PathLike, image_size: int | None = None, classes: Sequence[str] | None = None):
        self.path, self.image_size = pathlib.Path(path), image_size
        if not self.path.is_dir():
            raise UserError(f'folder:{path}: there is no such folder: check the path')
        found = sorted(p.name for p in self.path.iterdir() if p.is_dir() and not p.name.startswith('.'))
        if not found:
            loose = 'pictures but ' if any(is_image(p.name) for p in self.path.iterdir()) else ''
            raise UserError(f'folder:{path}: {loose}no sub-folders in it: put the pictures of each class '
                            f'in one, {path}/CLASS/…')
        self.classes = list(found if classes is None else classes)
        strange = [name for name in found if name not in self.classes]
        if strange:
            raise UserError(f'folder:{path}: sub-folder {strange[0]} is not one of the {len(self.classes)} classes '
                            f'{", ".join(self.classes[:10])}: rename or remove it')
        files = [(file, self.classes.index(name)) for name in found
                 for file in sorted((self.path / name).rglob('*')) if is_image(file.name) and file.is_file()]
        if not files:
            raise UserError(f'folder:{path}: no pictures in its sub-folders: put .jpg or .png files in {found[0]}')
        empty = [name for name in found if all(label != self.classes.index(name) for _, label in files)]
        if empty:
            raise UserError(f'folder:{path}: sub-folder {empty[0]} holds no pictures: fill it or remove it')
        self.files = [str(file) for file, _ in files]
        self.labels = np.array([label for _, label in files], np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {'image': read_image(self.files[index], f'record {index} of folder:{self.path}', self.image_size),
                'label': self.labels[index]}

    def __repr__(self) -> str:
        return f'FolderSource({str(self.path)!r}, {len(self)} pictures, {len(self.classes)} classes)'


def read_image(path: str | os.PathLike, record: str, image_size: int | None = None) -> np.ndarray:
    """The picture of a file; `record` tells the message which example it is.

    Raises:
      UserError: names the file and the record.
    """
    return decode(safe_read.content(path, record), f'{safe_read.printable(path)} ({record})', image_size)
