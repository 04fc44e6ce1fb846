"""Files of a run, in a folder of the file system or in gs://BUCKET/FOLDER of an object store that every host reaches.

All modules use these functions for both. In a store a missing file is reported only where the store has answered so; any other
failure is retried, or raises (`bigjax.io.retry`). A file is replaced whole or not at all.

The arrays of checkpoints take another way: Orbax writes them itself, each host its own, by TensorStore's client.
"""
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable
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
UNFINISHED = '.part'
TRIES = 5  # of reading what is replaced meanwhile
DAY = 86400.0  # seconds after which what is unfinished was given up


class Facts(NamedTuple):
    """File metadata: size in bytes, mtime (Unix seconds), and the object's generation ('' for local files)."""

    size: int
    when: float
    generation: str = ''


def place(name):
    """A path to work with; in a store an `etils.epath.Path`, which joins and prints as a `pathlib.Path` does.

    Raises:
      UserError: as `uri.named`; a package for the store is not installed, or there are no credentials for it.
    """
    text = uri.named(name)
    if not remote(text):
        return pathlib.Path(text).expanduser()
    _store()
    from etils import epath
    return epath.Path(text)


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
    inside = _key(folder) + '/'
    return sorted(name.removeprefix(inside).rstrip('/') for name in found if name.startswith(inside) and name != inside)


def files(folder) -> dict[str, Facts]:
    """{relative path: metadata} for every file below a folder, sorted; a link to a folder and a special file count as files.

    A file that another process removes meanwhile is left out.
    """
    if not remote(folder):
        return dict(sorted(_below(folder)))
    inside = _key(folder) + '/'
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

        return _pour(path, facts(path), begin).size, digest.hexdigest()
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
        _each(lambda name: remove_file(folder / name), part)


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
        _each(copy, part)
    remove(folder, first=last)


def _each(call, items) -> None:
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, items))


def fetched(path) -> pathlib.Path:
    """A local file with the contents of a path: the file itself, or a copy in a temporary folder."""
    if not remote(path):
        return path
    folder = pathlib.Path(tempfile.mkdtemp(prefix='bigjax-'))
    (folder / path.name).write_bytes(read(path))
    return folder / path.name


def copied(path, only: Container[str] | None = None) -> pathlib.Path:
    """A local copy of a file or folder of a store, in the user's cache. Only files that are missing or of another version are
    fetched. Several processes may call it at once.

    Args:
      only: names in the folder; the others are neither fetched nor removed.

    Raises:
      UserError: the path does not exist, an object has a name that no file can have, or the copy cannot be written.
    """
    if not remote(path):
        return path
    listed, root = {name: about for name, about in files(path).items() if only is None or name in only}, cache(path)
    if only is None:
        listed |= {'': one} if (one := facts(path)) else {}
    if not listed and only is None:
        raise UserError(f'{path}: it does not exist; check the path', code='storage/not-found')
    _check_names(path, listed)
    if only is None and '' not in listed:
        for mine, about in files(root).items():
            if mine not in listed and not (mine.endswith(UNFINISHED) and time.time() - about.when < DAY):
                (root / mine).unlink(missing_ok=True)
    _each(lambda name: _fetch(path / name if name else path, listed[name], root / name), listed)
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
    return _copies() / _key(path) if remote(path) else path


def _copies() -> pathlib.Path:
    home = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    return home / 'bigjax' / 'store'


def _fetch(path, about: Facts, target: pathlib.Path) -> None:
    """Copies one object. The copy's mtime encodes the generation, which tells later whether it is current."""
    with contextlib.suppress(OSError):
        mine = os.stat(target)
        if (mine.st_size, mine.st_mtime_ns) == (about.size, _stamp(about)) and stat.S_ISREG(mine.st_mode):
            return
    beside = target.with_name(f'.{uuid.uuid4().hex}{UNFINISHED}')
    try:
        _make_way(target)
        with open(beside, 'xb') as file:
            about = _pour(path, about, lambda: (file.seek(0), file.truncate(), file.write)[-1])
        os.utime(beside, ns=(_stamp(about), _stamp(about)))
        os.replace(beside, target)
    except OSError as error:
        if isinstance(error, StorageUnavailable):
            raise
        if error.errno is None:  # the store's answer
            raise UserError(f'{path}: it was removed while it was copied; run the same command again',
                            code='storage/changed') from error
        raise UserError(f'{target}: {error.strerror}; it was to be the copy of {path}; fix that, or choose another folder '
                        'for copies with the variable XDG_CACHE_HOME', code='storage/cache') from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _stamp(about: Facts) -> int:
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


def _pour(path, about: Facts | None, begin: Callable[[], Callable[[bytes], object]]) -> Facts:
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


def _key(path) -> str:
    return str(path).removeprefix(SCHEME).rstrip('/')
