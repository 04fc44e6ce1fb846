"""The artifacts of a run beside its numbers: text, images, confusion matrices, one file each in `artifacts/`."""
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.data.images import encode_png
from bigjax.errors import UserError
from bigjax.experiment import Confusion
from bigjax.io import atomic, storage
from bigjax.io.safe_read import parsed
from bigjax.io.text import first_line

FOLDER = 'artifacts'


def save(workdir, name: str, value: Any):
    """Writes one artifact and returns its path.

    Text becomes .txt, images [N, H, W, C] (float in 0..1 or uint8; C is 1 or 3) one .png grid, a `Confusion` and
    any other data .json. An existing file is replaced at once; so is a link, and not its target.

    Raises:
      UserError: the folder is a link, which may lead anywhere.
    """
    folder = storage.place(workdir) / FOLDER
    if _link(folder):
        raise UserError(f'{folder}: got a link, expected a folder, as a run writes only in its workdir; fix: remove it',
                        code='artifacts/link')
    storage.make(folder)
    stem = folder / (re.sub(r'[^\w .,=+-]', '_', name).lstrip('.')[:100] or 'unnamed')  # a name may come from the data
    if isinstance(value, str):
        path = stem.with_name(stem.name + '.txt')
        atomic.write_text(path, value)
    elif np.ndim(value) == 4 and np.shape(value)[-1] in (1, 3):
        path = stem.with_name(stem.name + '.png')
        storage.write(path, encode_png(grid(value)))
    else:
        if isinstance(value, Confusion):
            value = {'kind': 'confusion', 'classes': list(map(str, value.classes)), 'counts': np.asarray(value.counts)}
        path = stem.with_name(stem.name + '.json')
        atomic.write_json(path, value)
    return path


def load(workdir) -> dict[str, Any]:
    """{name: str, bytes of a PNG, `Confusion`, or plain data}, in alphabetical order; {} where there are none.

    A damaged confusion matrix is plain data. Links are left out: they may lead anywhere.

    Raises:
      UserError: a file that cannot be read, or not as JSON.
    """
    found = {}
    folder = storage.place(workdir) / FOLDER
    for path in (folder / name for name in ([] if _link(folder) else storage.children(folder))):
        if path.suffix not in ('.txt', '.png', '.json') or not storage.regular(path):
            continue
        try:
            data = storage.read(path) if path.suffix == '.png' else storage.text(path)
            found[path.stem] = _confusion(parsed(data)) if path.suffix == '.json' else data
        except (OSError, ValueError) as error:
            raise UserError(f'{path}: got a file that cannot be read ({first_line(error)}); fix: remove it',
                            code='artifacts/unreadable') from None
    return found


def _link(path) -> bool:
    return not storage.remote(path) and path.is_symlink()


def _confusion(value: Any) -> Any:
    """A `Confusion` where the data is one, else the data."""
    if not isinstance(value, dict) or value.get('kind') != 'confusion':
        return value
    counts, classes = value.get('counts'), value.get('classes')
    square = isinstance(classes, list) and isinstance(counts, list) and len(counts) == len(classes) and all(
        isinstance(row, list) and len(row) == len(classes) for row in counts)
    if not square or not all(isinstance(n, int | float) and 0 <= n < 2**53 for row in counts for n in row):
        return value
    return Confusion(np.asarray(counts), classes)


def merge(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One artifact per name for a population: confusion counts are summed, otherwise the first member's is kept."""
    merged = {}
    for artifacts in members:
        for name, value in artifacts.items():
            if name not in merged:
                merged[name] = value
            elif isinstance(value, Confusion):
                merged[name] = Confusion(np.asarray(merged[name].counts) + np.asarray(value.counts), value.classes)
    return merged


def grid(images) -> np.ndarray:
    """[N, H, W, C] -> one uint8 image [h, w, C], near square, with a pixel of white between the images."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.round(np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
    n, h, w, c = images.shape
    columns = int(np.ceil(np.sqrt(n * h / w)))
    rows = -(-n // columns)
    canvas = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1, c), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = divmod(i, columns)
        canvas[y * (h + 1):y * (h + 1) + h, x * (w + 1):x * (w + 1) + w] = image
    return canvas
