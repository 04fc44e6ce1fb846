"""The arrays of a file by name, each read when it is asked for: what every reader of this room returns."""
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

ALIGNED = 64  # bytes
SHOWN = 4  # names per list in a message


class Tensor(NamedTuple):
    """One array of a file.

    Attributes:
      shape, dtype: what the file announces, checked against its size before anything is read.
      read: reads the array from the file; the caller owns the memory.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


Tensors = Mapping[str, Tensor]


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array that JAX takes on a CPU without a copy: one that begins at a multiple of `ALIGNED` bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start:start + size].view(dtype).reshape(shape)


def settled(array: np.ndarray, dtype) -> np.ndarray:
    """The array itself where it is contiguous and of a dtype, otherwise an aligned copy that is."""
    if array.flags.c_contiguous and array.dtype == dtype:
        return array
    out = aligned(array.shape, dtype)
    np.copyto(out, array, casting='unsafe')
    return out


def from_bytes(path, start: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The array whose bytes begin at `start` of a file, read without a memory map: mapped pages would count as memory.

    Raises:
      UserError: the file has become shorter; 'weights/damaged'.
    """
    out = aligned(shape, dtype)
    with open(path, 'rb') as file:
        file.seek(start)
        view = out.reshape(-1).view(np.uint8) if out.size else np.empty(0, np.uint8)
        if file.readinto(view) != out.nbytes:
            raise damaged(path, f'{out.nbytes:,} bytes expected at {start:,}, and the file ends before')
    return out


def sharded(folder: pathlib.Path, index: str, read: Callable[[pathlib.Path], Tensors]) -> Tensors:
    """{name: tensor} of the files that an index names, each read by `read`.

    Raises:
      UserError: the index and the files differ ('weights/damaged'), or it names a file elsewhere ('data/outside').
    """
    try:
        names = safe_read.parsed(safe_read.content(folder / index))['weight_map']
        files = sorted(set(names.values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(folder / index, f'no index of tensors: {first_line(error)}') from error
    found = {file: read(safe_read.beside(folder, str(file), index)) for file in files}
    absent = [name for name, file in names.items() if name not in found[file]]
    extra = [name for tensors in found.values() for name in tensors if name not in names]
    if absent or extra:
        raise damaged(folder / index, f'it names {listed(absent) or "all"}, and the files hold {listed(extra) or "not these"}')
    return {name: found[file][name] for name, file in names.items()}


def damaged(path: str | os.PathLike, why: str) -> UserError:
    """The error of a file that is not what it announces."""
    return UserError(f'{printable(path)}: got a file that is damaged or incomplete ({printable(why)}); fix: copy or download '
                     'it again', code='weights/damaged')


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = [printable(name) for name in names]
    return ', '.join(names[:SHOWN]) + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')
