"""Atomic writes of small files: written beside the target, then renamed over it; a line is appended whole or not at all."""
import contextlib
import errno
import json
import os
import pathlib
from typing import Any

from bigjax.io import storage
from bigjax.io.nested import plain


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a file atomically; a reader, a kill or a full disk never leaves half of it.

    Raises:
      OSError: the system's error, with the file's name; the old file is intact.
    """
    try:
        storage.write(path, text.encode())
    except storage.StorageUnavailable:
        raise
    except OSError as error:
        raise explained(error, path) from error


def append(path: pathlib.Path, line: str) -> None:
    """Appends one line to a file, or nothing: on a full disk the file stays as it was."""
    data = memoryview(line.encode() + b'\n')
    with open(path, 'ab', buffering=0) as file:  # a buffer would be written once more when the file is closed
        size = file.tell()
        try:
            while data:
                data = data[file.write(data):]
        except OSError as error:
            os.truncate(path, size)
            raise explained(error, path) from error


def tidy(folder: pathlib.Path) -> None:
    """Removes the temporary files that a kill during `write_text` has left. Only the single writer of a folder may call it."""
    for left in folder.glob('.*.tmp'):
        left.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Returns when a file would survive a power failure; a missing file is no error."""
    with contextlib.suppress(FileNotFoundError), open(path, 'rb') as file:
        os.fsync(file.fileno())


def explained(error: OSError, path) -> OSError:
    """The same error; for a full disk with the file and the fix in one line."""
    if error.errno == errno.ENOSPC:
        return OSError(errno.ENOSPC, f'No space left on device for {path}; free some and run the same command again')
    return error


def dumps(value: Any, **options) -> str:
    """Strict JSON: a number that is not finite becomes null, NumPy arrays and tuples become lists."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, **options)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `dumps` to a file, one key per line."""
    write_text(path, dumps(value, indent=1) + '\n')
