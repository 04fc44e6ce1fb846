"""Small files that are whole or not there: written beside, then moved into place."""
import contextlib
import errno
import json
import math
import os
import pathlib
from typing import Any

from bigjax.io import storage


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces the file at once; a reader, a kill or a full disk never leaves half of it.

    Raises:
      OSError: as the system says, with the file's name; the file that stood there is intact.
    """
    try:
        storage.write(path, text.encode())
    except storage.Broken:
        raise
    except OSError as error:
        raise explained(error, path) from error


def tidy(folder: pathlib.Path) -> None:
    """Removes what a kill in the middle of `write_text` has left; for the one who alone writes there."""
    for left in folder.glob('.*.tmp'):
        left.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Returns when a file is on the disk; a machine that loses its power keeps it. Nothing is said where there is none."""
    with contextlib.suppress(FileNotFoundError), open(path, 'rb') as file:
        os.fsync(file.fileno())


def explained(error: OSError, path) -> OSError:
    """The same error, in one line that says what to do when the disk is full."""
    if error.errno == errno.ENOSPC:
        return OSError(errno.ENOSPC, f'No space left on device for {path}; free some and run the same command again')
    return error


def dumps(value: Any, **options) -> str:
    """JSON that any reader takes: a number that is not finite is null, numpy and tuples are plain."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, **options)


def write_json(path: pathlib.Path, value: Any) -> None:
    """`dumps` into a file, one key a line, with the newline at the end."""
    write_text(path, dumps(value, indent=1) + '\n')


def plain(value: Any) -> Any:
    """Dicts, lists, numbers, text, booleans and None, as JSON gives them back."""
    if hasattr(value, 'tolist'):  # numpy and JAX
        value = value.tolist()
    if isinstance(value, dict) or hasattr(value, 'items'):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | bool | int) or value is None else str(value)
