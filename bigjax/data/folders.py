"""Folders of images or sounds, one sub-folder per class, with or without a folder per split above them."""
import collections
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigjax.data import audio, encoded, images
from bigjax.errors import UserError
from bigjax.io.text import printable

SPLITS = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation', 'dev', 'eval', 'evaluation'),
          'test': ('test', 'testing')}  # our name: the names of a folder or a file, in any case


def split_of(name: str) -> str:
    """The split of a folder's or a file's name, or ''."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), '')


def hidden(name: str) -> bool:
    """Whether a file or folder is left out for its name: .git, .ipynb_checkpoints, ._photo.jpg and __MACOSX of a Mac."""
    return name.startswith('.') or name == '__MACOSX'


PROBED = 100  # files that decide whether a folder holds images or sounds


def holds_sounds(root: pathlib.Path) -> bool:
    """Whether most of the first images and sounds below a folder are sounds."""
    found = []
    for _, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not hidden(name))
        found += [audio.is_audio(name) for name in sorted(names) if not hidden(name) and (
            audio.is_audio(name) or images.is_image(name))]
        if len(found) >= PROBED:
            break
    return sum(found[:PROBED]) > len(found[:PROBED]) / 2


def walk(root: pathlib.Path, sounds: bool = False) -> tuple[list[pathlib.Path], collections.Counter]:
    """(images, or sounds, below a folder in alphabetical order, {what was left out: number of files}).

    Links are followed, each folder once. A file is an image or a sound by its ending, an image without one by its first bytes.
    """
    found, left_out, seen = [], collections.Counter(), set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        left_out['hidden'] += sum(_count(os.path.join(place, name)) for name in folders if hidden(name))
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in names:
            path, ending = pathlib.Path(place, name), os.path.splitext(name)[1].lower()
            if hidden(name):
                left_out['hidden'] += 1
            elif path.is_file() and (audio.is_audio(name) if sounds else
                                     images.is_image(name) or (not ending and images.looks_like_image(path))):
                found.append(path)
            else:
                left_out[ending if path.is_file() else 'broken links or devices'] += 1
    return sorted(found), left_out


def _count(folder: str) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


class FolderSource:
    """A folder of images, one sub-folder per class: {'image': uint8 [H, W, 3], 'label': int32}.

    Classes are the sub-folders in alphabetical order, records their images in alphabetical order, also those of deeper
    folders. Only names are read at the start; an image is read and decoded at `source[i]`.

    Args:
      path: the folder.
      image_size: both sides of every image; None keeps each as it is.
      classes: the class names, where they are known (those of the training folder).
      sounds: list sounds in the place of images, for `bigjax.data.audio.AudioSource`.

    Attributes:
      encoded: images stay encoded (`bigjax.data.encoded`), for a transform that crops them.
      classes: names. files: paths. labels: int32 [N]. left_out: {what: number of files}.

    Raises:
      UserError: no such folder, no sub-folders, no images, a class that `classes` does not name.
    """

    def __init__(self, path: str | os.PathLike, image_size: int | None = None, classes: Sequence[str] | None = None,
                 sounds: bool = False):
        self.path, self.image_size, self.encoded = pathlib.Path(path), image_size, False
        if not self.path.is_dir():
            raise UserError(f'folder:{path}: there is no such folder; fix: check the path', code='data/no-folder')
        inside = [p for p in sorted(self.path.iterdir()) if not hidden(p.name)]
        found = [p.name for p in inside if p.is_dir()]
        what, is_one = ('sounds', audio.is_audio) if sounds else ('images', images.is_image)
        loose = [p.name for p in inside if p.is_file() and is_one(p.name)]
        if not found:
            raise UserError(f'folder:{path}: got {len(loose)} {what} and no sub-folders, expected one sub-folder per class; '
                            f'fix: put the {what} of each class in {path}/CLASS/', code='data/no-classes')
        self.classes = list(found if classes is None else classes)
        strange = [name for name in found if name not in self.classes]
        if strange:
            shown = ', '.join(self.classes[:10])
            raise UserError(f'folder:{path}: got the sub-folder {printable(strange[0])}, expected one of the '
                            f'{len(self.classes)} classes {printable(shown)}; fix: rename or remove it',
                            code='data/unknown-class')
        unseen = [p for p in self.path.iterdir() if hidden(p.name)]
        self.left_out = collections.Counter({'outside the class folders': len(loose), 'hidden': sum(
            _count(p) if p.is_dir() else 1 for p in unseen)})
        files, places = [], {}
        for name in found:
            twin = places.setdefault(os.path.realpath(self.path / name), name)
            if twin != name:
                raise UserError(f'folder:{path}: got the sub-folders {printable(twin)} and {printable(name)} that are one '
                                'folder, expected other images in each class; fix: remove the link', code='data/two-classes')
            of_class, left_out = walk(self.path / name, sounds)
            self.left_out.update(left_out)
            if not of_class:
                raise UserError(f'folder:{path}: got no {what} in the sub-folder {printable(name)}, expected some; fix: '
                                'fill it or remove it', code=f'data/no-{what}')
            files += [(str(file), self.classes.index(name)) for file in of_class]
        self.files = [file for file, _ in files]
        self.labels = np.array([label for _, label in files], np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = f'record {index} of folder:{self.path}'
        return {'image': encoded.read(self.files[index], record, self.image_size, self.encoded), 'label': self.labels[index]}

    def __repr__(self) -> str:
        return f'FolderSource({str(self.path)!r}, {len(self)} images, {len(self.classes)} classes)'


def open_folder(place: str | os.PathLike, image_size: int | None = None) -> tuple[dict[str, Any], list[str], list[str]]:
    """({split: source}, classes, notes) of a folder of classes, or of a folder with a folder of classes per split.

    A folder called train is a split where it has sub-folders, and a class where it has not.

    Raises:
      UserError: as `FolderSource`; two folders of one split; splits without a training one.
    """
    root = pathlib.Path(place)
    parts, notes = split_folders(root), []
    sounds = holds_sounds(parts.get('train', root))
    train = FolderSource(parts.get('train', root), image_size, sounds=sounds)
    sources = {'train': train, **{split: FolderSource(path, image_size, train.classes, sounds)
                                  for split, path in parts.items() if split != 'train'}}
    if parts:
        others = [p.name for p in sorted(root.iterdir()) if p.is_dir() and not hidden(p.name) and p not in parts.values()]
        if others:
            notes.append(f'{printable(", ".join(others))} (not a split)')
    left_out = sum((source.left_out for source in sources.values()), collections.Counter())
    kind = 'sounds' if sounds else 'images'
    notes += [f'{count:,} {what}' if what else f'{count:,} without an ending that are not {kind}'
              for what, count in sorted(left_out.items()) if count]
    if sounds:
        sources = {split: audio.AudioSource(found.files, {'label': found.labels}, f'folder:{found.path}')
                   for split, found in sources.items()}
    return sources, train.classes, notes


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """{split: its folder}, {} where the folders are classes.

    Raises:
      UserError: two folders of one split, or no training one.
    """
    found: dict[str, pathlib.Path] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        split = split_of(path.name)
        if split and path.is_dir() and any(p.is_dir() and not hidden(p.name) for p in path.iterdir()):
            if split in found:
                raise UserError(f'folder:{root}: got the folders {found[split].name} and {path.name}, expected one for '
                                f'{split}; fix: rename or remove one', code='data/two-splits')
            found[split] = path
    if found and 'train' not in found:
        names = ', '.join(path.name for path in found.values())
        raise UserError(f'folder:{root}: got {names} without a training folder, expected train beside it; fix: add or rename '
                        'it', code='data/no-train')
    return found
