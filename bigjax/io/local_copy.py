"""Local copies of files of an object store, in the user's cache, for readers that need a file or read it more than once."""
import contextlib
import os
import pathlib
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Container, Iterable

from bigjax.errors import UserError
from bigjax.io import storage, uri
from bigjax.io.text import printable

UNFINISHED = '.part'  # the ending of a copy that is being written
UNFINISHED_MAX_AGE_S = 86400.0  # after which an unfinished copy was given up


def fetched(path) -> pathlib.Path:
    """A local file with the contents of a path: the file itself, or a copy in a temporary folder."""
    if not uri.remote(path):
        return path
    folder = pathlib.Path(tempfile.mkdtemp(prefix='bigjax-'))
    (folder / path.name).write_bytes(storage.read(path))
    return folder / path.name


def copied(path, only: Container[str] | None = None) -> pathlib.Path:
    """A local copy of a file or folder of a store, in the user's cache. Only files that are missing or of another version are
    fetched. Several processes may call it at once.

    Args:
      only: names in the folder; the others are neither fetched nor removed.

    Raises:
      UserError: the path does not exist, an object has a name that no file can have, or the copy cannot be written.
    """
    if not uri.remote(path):
        return path
    listed, root = {name: about for name, about in storage.files(path).items() if only is None or name in only}, cache(path)
    if only is None:
        listed |= {'': one} if (one := storage.facts(path)) else {}
    if not listed and only is None:
        raise UserError(f'{path}: it does not exist; check the path', code='storage/not-found')
    _check_names(path, listed)
    if only is None and '' not in listed:
        for mine, about in storage.files(root).items():
            if mine not in listed and not (mine.endswith(UNFINISHED) and time.time() - about.when < UNFINISHED_MAX_AGE_S):
                (root / mine).unlink(missing_ok=True)
    storage.each(lambda name: _fetch(path / name if name else path, listed[name], root / name), listed)
    return root


def _check_names(path, names: Iterable[str]) -> None:
    """Raises a UserError where objects have names that files below a folder cannot have; '' is the path itself."""
    folders = {folder for name in names if name for folder in ('', *map(str, pathlib.PurePosixPath(name).parents))}
    for name in names:
        parts = name.split('/')
        if name and not {'..', '.', ''}.isdisjoint(parts):
            why = 'no name of a file below it'
        elif '\0' in name or any('\ud800' <= sign <= '\udfff' for sign in name):
            why = 'no name that a disk takes'
        elif any(len(part.encode()) > 255 for part in parts):
            why = 'a name of more than the 255 bytes that a disk takes'
        elif name in folders:
            why = 'a file and a folder in one, which no disk holds'
        else:
            continue
        raise UserError(f'{path}: {printable(name) or "it"} is {why}; rename it', code='storage/name')


def cache(path) -> pathlib.Path:
    """The place of the local copy of a path in a store."""
    return _copies() / storage.key(path) if uri.remote(path) else path


def _copies() -> pathlib.Path:
    return user_cache() / 'store'


def user_cache() -> pathlib.Path:
    """The folder of bigjax in the user's cache."""
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'bigjax'


def _fetch(path, about: storage.Facts, target: pathlib.Path) -> None:
    """Copies one object. The copy's mtime encodes the generation, which tells later whether it is current."""
    with contextlib.suppress(OSError):
        mine = os.stat(target)
        if (mine.st_size, mine.st_mtime_ns) == (about.size, _stamp(about)) and stat.S_ISREG(mine.st_mode):
            return
    beside = target.with_name(f'.{uuid.uuid4().hex}{UNFINISHED}')
    try:
        _make_way(target)
        with open(beside, 'xb') as file:
            about = storage.read_parts(path, about, lambda: (file.seek(0), file.truncate(), file.write)[-1])
        os.utime(beside, ns=(_stamp(about), _stamp(about)))
        os.replace(beside, target)
    except OSError as error:
        if isinstance(error, storage.StorageUnavailable):
            raise
        if error.errno is None:  # the store's answer
            raise UserError(f'{path}: it was removed while it was copied; run the same command again',
                            code='storage/changed') from error
        raise UserError(f'{target}: {error.strerror}; it was to be the copy of {path}; fix that, or choose another folder '
                        'for copies with the variable XDG_CACHE_HOME', code='storage/cache') from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _stamp(about: storage.Facts) -> int:
    """Nanoseconds that identify a version of an object; generations count microseconds."""
    return int(about.generation) * 1000 % 2**62 if about.generation.isdigit() else round(about.when * 1e9)


def _make_way(target: pathlib.Path) -> None:
    """Makes the folder of a copy; an object may have become a folder, or the reverse."""
    for folder in target.parents:
        if folder == _copies():
            break
        if folder.is_file():
            folder.unlink(missing_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
