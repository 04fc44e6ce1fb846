"""Files of a run, in a folder of the file system or in gs://BUCKET/FOLDER of an object store that every host reaches.

All modules use these functions for both. In a store a missing file is reported only where the store has answered so; any other
failure is retried, or raises (`bigjax.io.retry`). A file is replaced whole or not at all.

The arrays of checkpoints take another way: Orbax writes them itself, each host its own, by TensorStore's client.
"""
import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bigjax.errors import UserError
from bigjax.io import uri
from bigjax.io.retry import (
    StorageUnavailable,
    credentials,
    given_up,
    is_transient,
    refusal,
    retry,
    retry_s,
    silence_s,
    translate,
    translating,
)
from bigjax.io.text import first_line, printable
from bigjax.io.uri import SCHEME, remote

__all__ = ['SCHEME', 'StorageUnavailable', 'given_up', 'is_transient', 'remote', 'retry', 'retry_s', 'translate', 'translating']

PART = 32 << 20  # bytes that are read at a time
THREADS = 8
TRIES = 5  # of reading what is replaced meanwhile


class Facts(NamedTuple):
    """File metadata: size in bytes, mtime (Unix seconds), and the object's generation ('' for local files)."""

    size: int
    when: float
    generation: str = ''


def place(name):
    """A path to work with; in a store an `etils.epath.Path`, which joins and prints as a `pathlib.Path` does.

    Raises:
      UserError: as `uri.named`; a local path that the system cannot have (too long, a link to itself, the home of no user); a
        package for the store is not installed, or there are no credentials for it.
    """
    text = uri.named(name)
    if not remote(text):
        return _local(text)
    _store()
    from etils import epath
    return epath.Path(text)


def _local(text: str) -> pathlib.Path:
    try:
        path = pathlib.Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.stat(path)
    except RuntimeError as error:  # ~NAME of a user that there is not
        raise UserError(f'{printable(text)}: got a path without a home ({first_line(error)}); fix: write the whole path',
                        code='storage/name') from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise UserError(f'{printable(text)}: got a path that no file can have ({error.strerror}); fix: choose another',
                        code='storage/name') from error
    return path


def absolute(name):
    """`place`, independent of the working directory."""
    path = place(name)
    return path if remote(path) else path.resolve()


@functools.cache
def _store():
    """gcsfs, configured so that epath and Orbax, which use it too, see the current contents and never hang."""
    if importlib.util.find_spec('gcsfs') is None:
        raise UserError(f"{SCHEME}… needs gcsfs: pip install 'bigjax[gcs]'", code='storage/missing-package')
    for name, value in (('EPATH_USE_TF', '0'),  # otherwise epath takes another client where TensorFlow is installed
                        ('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false'),
                        ('TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS', str(max(1, round(silence_s())))),
                        ('TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES', '1')):
        os.environ.setdefault(name, value)
    import aiohttp
    import fsspec.config
    limits = aiohttp.ClientTimeout(total=None, sock_connect=silence_s() / 2, sock_read=silence_s())
    for name in ('gs', 'gcs'):
        fsspec.config.conf.setdefault(name, {}).update(use_listings_cache=False, consistency='md5', requests_timeout=limits)
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it prints a traceback for every failure that is retried here
    try:
        return fsspec.filesystem('gcs')
    except Exception as error:
        if isinstance(error, ValueError | KeyError | OSError) or refusal(SCHEME, error):  # a broken file of credentials
            raise credentials(f'{SCHEME}…', first_line(error)) from error
        raise


def facts(path) -> Facts | None:
    """The metadata of a file, None where there is none."""
    if not remote(path):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Facts(found.st_size, found.st_mtime)
    try:
        found = retry(lambda: _store().info(str(path)), path)
    except FileNotFoundError:
        return None
    return _facts(found) if found['type'] == 'file' else None


def _facts(about: dict) -> Facts:
    return Facts(about['size'], about['mtime'].timestamp(), about.get('generation') or '')


def exists(path) -> bool:
    """Whether there is a file, or a folder with something in it."""
    return bool(facts(path) or children(path)) if remote(path) else path.exists()


def children(folder) -> list[str]:
    """The names directly in a folder, sorted; [] where it does not exist."""
    if not remote(folder):
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
    try:
        found = retry(lambda: _store().ls(str(folder), detail=False), folder)
    except FileNotFoundError:
        return []
    inside = key(folder) + '/'
    return sorted(name.removeprefix(inside).rstrip('/') for name in found if name.startswith(inside) and name != inside)


def files(folder) -> dict[str, Facts]:
    """{relative path: metadata} for every file below a folder, sorted; a link to a folder and a special file count as files.

    A file that another process removes meanwhile is left out.
    """
    if not remote(folder):
        return dict(sorted(_below(folder)))
    inside = key(folder) + '/'
    try:
        listed = retry(lambda: _store().find(str(folder), detail=True), folder)
    except FileNotFoundError:
        return {}
    return {name.removeprefix(inside): _facts(about) for name, about in sorted(listed.items())
            if name.startswith(inside) and not name.endswith('/')}


def _below(folder) -> Iterable[tuple[str, Facts]]:
    for root, folders, names in os.walk(folder):
        for name in (*names, *(f for f in folders if os.path.islink(os.path.join(root, f)))):
            path = pathlib.Path(root, name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = path.stat() if path.is_file() else path.lstat()
                yield path.relative_to(folder).as_posix(), Facts(found.st_size, found.st_mtime)


def read(path) -> bytes:
    """The contents of a file.

    Raises:
      FileNotFoundError: there is none.
    """
    return retry(lambda: _store().cat_file(str(path)), path) if remote(path) else path.read_bytes()


def text(path) -> str:
    """The contents of a file as text; bytes that are not UTF-8 are replaced."""
    return read(path).decode('utf-8', 'replace')


def write(path, data: bytes) -> None:
    """Replaces a file atomically; a link is replaced by the file."""
    if not remote(path):
        _replace(path, data)
        return
    try:
        retry(lambda: _store().pipe_file(str(path), data), path)
    except FileNotFoundError:
        raise UserError(f'{path}: there is no such bucket; create it, or name another', code='storage/no-bucket') from None


def _replace(path: pathlib.Path, data: bytes) -> None:
    beside = path.with_name(f'.{path.name}.{os.getpid()}.{threading.get_ident()}.tmp')
    try:
        beside.unlink(missing_ok=True)
        with open(beside, 'xb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure may keep the new name and lose the data
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def regular(path) -> bool:
    """Whether a path is a file and not a link to one."""
    return remote(path) or (path.is_file() and not path.is_symlink())


def make(folder) -> None:
    """Makes a folder; a store has no folders."""
    if not remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def sha256(path) -> tuple[int, str]:
    """(bytes, hex digest) of a file, read in parts.

    Raises:
      OSError: there is none, or it is no file.
    """
    if remote(path):
        digest = None

        def begin():
            nonlocal digest
            digest = hashlib.sha256()
            return digest.update

        return read_parts(path, facts(path), begin).size, digest.hexdigest()
    if not os.path.isfile(path):  # reading a pipe would hang
        raise FileNotFoundError(f'{path}: there is no such file')
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
        return file.tell(), digest


def remove(folder, first: str = '') -> None:
    """Removes a folder with its contents, the file `first` before the others; a missing folder is no error."""
    if not remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    names = sorted(files(folder), key=lambda name: name != first)
    for part in (names[:1], names[1:]):
        each(lambda name: remove_file(folder / name), part)


def remove_file(path) -> None:
    """Removes one file; in a store a missing one is no error."""
    if not remote(path):
        path.unlink()
        return
    with contextlib.suppress(FileNotFoundError):  # an earlier try may have removed it, its answer lost
        retry(lambda: _store().rm_file(str(path)), path)


def move(folder, target, last: str = '') -> None:
    """Moves a folder to a free place; in a store file by file, so a folder without its file `last` is incomplete."""
    if not remote(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, target)
        return
    names = sorted(files(folder), key=lambda name: name == last)
    copy = lambda name: retry(lambda: _store().cp_file(str(folder / name), str(target / name)), folder / name)
    for part in (names[:-1], names[-1:]):
        each(copy, part)
    remove(folder, first=last)


def each(call: Callable, items: Iterable) -> None:
    """Calls a function for every item, `THREADS` at a time."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, items))


def read_parts(path, about: Facts | None, begin: Callable[[], Callable[[bytes], object]]) -> Facts:
    """Passes one version of an object, in parts, to the function that `begin` returns; restarts where it is replaced meanwhile.

    Returns:
      The metadata of the version that was read.

    Raises:
      FileNotFoundError: there is none.
    """
    for _ in range(TRIES):
        if about is None:
            break
        take, version = begin(), {'generation': about.generation} if about.generation else {}
        try:
            for start in range(0, about.size, PART):
                stop = min(about.size, start + PART)
                take(retry(lambda a=start, b=stop, v=version: _store().cat_file(str(path), a, b, **v), path))
            return about
        except FileNotFoundError:  # this version was removed
            about = facts(path)
    if about is not None:
        raise UserError(f'{path}: it is replaced repeatedly while it is read; wait until its writer is done',
                        code='storage/changed')
    raise FileNotFoundError(f'{path}: there is none')


def key(path) -> str:
    """The name of an object with its bucket."""
    return str(path).removeprefix(SCHEME).rstrip('/')
