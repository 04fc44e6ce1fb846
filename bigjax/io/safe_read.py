"""Safe reading of files from elsewhere: announced sizes are checked before memory is allocated.

No reader of bigjax executes what it reads: no pickle, no eval, no class that a file names.
"""
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Container

import numpy as np

from bigjax.errors import UserError
from bigjax.io.text import first_line, printable

MAX_UNPACKED, MAX_RATIO = 256 << 20, 200  # bytes that any packed file may unpack to; above that, times its own size
MAX_DEPTH = 40  # of nested JSON


def content(path: str | os.PathLike, record: str = '') -> bytes:
    """The bytes of a regular file; `record` names the example in messages.

    Raises:
      UserError: the file is missing, unreadable, or a device or pipe, which may never end.
    """
    where = f'{printable(path)} ({record})' if record else path
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise UserError(f'{where}: it is not a regular file; name one', code='data/not-a-file')
        return pathlib.Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise UserError(f'{where}: {getattr(error, "strerror", None) or error}; check the path',
                        code='data/unreadable') from error


def beside(folder: str | os.PathLike, name: str, record: str) -> pathlib.Path:
    """The file that a record of a table in `folder` names.

    Raises:
      UserError: it is not in that folder; otherwise a record could expose any file of this machine.
    """
    path = pathlib.Path(folder) / name
    try:
        inside = path.resolve().is_relative_to(pathlib.Path(folder).resolve())
    except (OSError, ValueError, RuntimeError):  # a name too long, with a null character, in a circle: reading it raises
        inside = '..' not in path.parts and not pathlib.Path(name).is_absolute()
    if not inside:
        raise UserError(f'{printable(path)} ({record}): outside the folder of the table; put the images beside the table',
                        code='data/outside')
    return path


def check_unpacked(where: str, size: int, packed: int, fix: str) -> None:
    """Raises a UserError where `packed` bytes announce more than data does: a decompression bomb."""
    if size > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise UserError(f'{where}: {packed:,} bytes unpack to {size:,} or more, over {MAX_RATIO} times as many; {fix}',
                        code='data/too-large')


def parsed(text: str | bytes):
    """The value of a JSON text.

    Raises:
      ValueError: it is not JSON, or deeper than `shallow` allows.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError('nested too deeply') from None
    if not shallow(value):
        raise ValueError('nested too deeply')
    return value


def shallow(value) -> bool:
    """Whether lists and dicts are nested no deeper than recursion over them may go."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [x for v in level if isinstance(v, dict | list) for x in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return True
    return False


def archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive; pickled objects are refused.

    Raises:
      UserError: as `archive_shapes` and `archive_member`.
    """
    return {name: archive_member(path, name) for name in archive_shapes(path)}


def archive_shapes(path: str | os.PathLike, skip: Container[str] = ()) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{name: (shape, dtype)} of a NumPy archive, of which no array is read.

    Args:
      skip: members that are no arrays.

    Raises:
      UserError: not an archive, a damaged or incomplete one (names the array), a header that announces other bytes than
        follow it, or more than `check_unpacked` allows.
    """
    shapes, name = {}, ''
    try:
        with zipfile.ZipFile(path) as members:
            announced = sum(member.file_size for member in members.infolist())
            check_unpacked(str(path), announced, os.path.getsize(path), 'write it again with numpy.savez')
            for member in members.infolist():
                if member.filename in skip:
                    continue
                name = member.filename.removesuffix('.npy')
                # other methods of compression have no bound on the size that they unpack to
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError('a compression that numpy does not use')
                with members.open(member) as file:
                    shapes[name] = _header(file, member.file_size)
    except FileNotFoundError as error:
        raise UserError(f'{path}: there is no such file; check the path', code='data/unreadable') from error
    except UserError:
        raise
    except Exception as error:  # zipfile, its decompressors and NumPy's header raise many kinds
        raise _damaged(path, name, error) from error
    return shapes


def archive_member(path: str | os.PathLike, name: str) -> np.ndarray:
    """One array of a NumPy archive that `archive_shapes` has checked; pickled objects are refused.

    Raises:
      UserError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as members:
            filename = f'{name}.npy' if f'{name}.npy' in members.NameToInfo else name
            with members.open(filename) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # also checks the sum of the last block
                    raise ValueError('bytes after its end')
    except Exception as error:
        raise _damaged(path, name, error) from error
    return array


def _damaged(path, name: str, error: Exception) -> UserError:
    what = f'array {printable(name)} is damaged' if name else 'not a complete .npz file'
    return UserError(f'{path}: {what} ({first_line(error)}); write it again with numpy.savez', code='data/damaged')


def _header(file, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of a .npy file of `size` bytes; ValueError where they are not those of the bytes that follow."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError('an array of named fields')
    shape, _, dtype = readers[version](file)
    if not dtype.hasobject and (min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell()):
        raise ValueError(f'{list(shape)} of {dtype} announced, and {size - file.tell()} bytes there')
    return shape, dtype
