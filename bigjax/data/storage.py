"""Where a run's files are: a folder of the file system, or gs://BUCKET/FOLDER in an object store, which every host reaches.

All modules ask here, in one way for both. Of a store the answers are strict: that something is not there is said only where the
store has said so; what fails for another reason (429, 503, a connection that is cut, no answer) is tried again with growing
pauses, and when the store stays broken for `patience()` seconds the first call to find out raises `Broken`, and every later
one at once. An object is replaced whole or not at all.

The arrays of checkpoints do not come this way: Orbax writes them itself, each host its own, by TensorStore's client.
"""
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bigjax import UserError
from bigjax.data.untrusted import first_line, printable

SCHEME = 'gs://'
SHORTEST, LONGEST = 0.5, 30.0  # seconds of a pause; gcsfs has tried six times before, with pauses of its own
SILENCE = 60  # seconds without a byte after which a connection is given up
PART = 32 << 20  # bytes that are read at a time
THREADS = 8
UNFINISHED = '.part'


class Broken(OSError):
    """The store has failed for as long as it may."""


class Facts(NamedTuple):
    """Of one file: its bytes, and when it was written (seconds since 1970)."""

    size: int
    when: float


def patience() -> float:
    """Seconds for which a store may fail (the variable BIGJAX_STORE_SECONDS)."""
    return float(os.environ.get('BIGJAX_STORE_SECONDS') or 300)


def remote(path) -> bool:
    """Whether a path is in a store."""
    return str(path).startswith(SCHEME)


def place(name):
    """A path to work with; of a store it is an `etils.epath.Path`, which joins and prints as one does.

    Raises:
      UserError: no store that is known, or what is needed for it is not installed.
    """
    text = str(name)
    if remote(text):
        _store()
        from etils import epath
        return epath.Path(text.rstrip('/'))
    if '://' in text:
        raise UserError(f'{text}: a folder of the file system, or {SCHEME}BUCKET/FOLDER; mount another kind of bucket '
                        '(mountpoint-s3, …) and name the folder')
    return pathlib.Path(name).expanduser()


def absolute(name):
    """`place`, independent of the working directory."""
    path = place(name)
    return path if remote(path) else path.resolve()


@functools.cache
def _store():
    """gcsfs, so set that epath and Orbax, which use it too, see what is there now and never wait for ever."""
    if importlib.util.find_spec('gcsfs') is None:
        raise UserError(f"{SCHEME}… needs gcsfs: pip install 'bigjax[gcs]'")
    for name, value in (('EPATH_USE_TF', '0'),  # else another client would be taken where TensorFlow happens to be
                        ('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false'),
                        ('TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS', str(SILENCE)),
                        ('TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES', '1')):
        os.environ.setdefault(name, value)
    import aiohttp
    import fsspec.config
    limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE / 2, sock_read=SILENCE)
    for name in ('gs', 'gcs'):
        fsspec.config.conf.setdefault(name, {}).update(use_listings_cache=False, consistency='md5', requests_timeout=limits)
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it prints a traceback for what is tried again here
    return fsspec.filesystem('gcs')


_given_up: list[Broken] = []


def gave_up() -> bool:
    """Whether this process has found the store broken; threads of libraries may still be waiting for it."""
    return bool(_given_up)


def insist(call: Callable[[], Any], what) -> Any:
    """What `call` returns, tried again while it fails by the store's fault.

    Raises:
      FileNotFoundError: the store says so.
      UserError: the store refuses this user.
      Broken: it went on for `patience()` seconds, here or before.
    """
    until, pause = time.monotonic() + patience(), SHORTEST
    while not _given_up:
        try:
            return call()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:
            if str(error).startswith('Forbidden') or getattr(error, 'code', None) in (401, 403, '401', '403'):
                raise UserError(f'{what}: the store refuses ({first_line(error)}); look at the credentials of this machine '
                                '(gcloud auth application-default login)') from error
            if not _theirs(error):
                raise
            left = until - time.monotonic()
            if left <= 0:
                raise _broken(what, error) from error
        time.sleep(min(left, pause * random.uniform(0.5, 1)))
        pause = min(2 * pause, LONGEST)
    raise _given_up[0]


def _broken(what, error: BaseException, how: str = '') -> Broken:
    """The store is given up by this process; returns the error that says so, in one line."""
    if not _given_up:
        how = how or f'for {patience():.0f} s (BIGJAX_STORE_SECONDS)'
        why = f'{type(error).__name__}: {first_line(error)}'
        _given_up.append(Broken(f'{what}: the store has failed {how}, at last with {why}; sealed '
                                'checkpoints are intact: run the same command again when it is back'))
    return _given_up[0]


CLIENTS = ('gcsfs', 'aiohttp', 'fsspec', 'google', 'requests', 'urllib3', 'asyncio')


def _theirs(error: BaseException) -> bool:
    """Whether an error is one of the network or of a store's client, and no mistake in the program."""
    return isinstance(error, OSError) or type(error).__module__.partition('.')[0] in CLIENTS


def blamed(path, error: BaseException) -> BaseException:
    """What a library's own client of a store fails with, after all that it has tried, as `Broken`; any other error as it is."""
    return _broken(path, error, 'all tries of its client') if _given_up or passing(path, error) else error


def passing(path, error: BaseException) -> bool:
    """Whether an error of a library is the store's fault, and the store has not been given up."""
    theirs = _theirs(error) or SCHEME in str(error) or '/storage/v1/' in str(error)  # TensorStore's: ValueErrors that name it
    return remote(path) and theirs and not isinstance(error, UserError | Broken) and not gave_up()


@contextlib.contextmanager
def blaming(path):
    """Raises what is inside raised by a library as `blamed`."""
    try:
        yield
    except Exception as error:
        if (other := blamed(path, error)) is error:
            raise
        raise other from error


def facts(path) -> Facts | None:
    """Of one file; None where there is none."""
    if not remote(path):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Facts(found.st_size, found.st_mtime)
    try:
        found = insist(lambda: _store().info(str(path)), path)
    except FileNotFoundError:
        return None
    return Facts(found['size'], found['mtime'].timestamp()) if found['type'] == 'file' else None


def exists(path) -> bool:
    """Whether there is a file, or a folder with something in it."""
    return bool(facts(path) or children(path)) if remote(path) else path.exists()


def children(folder) -> list[str]:
    """The names of what lies directly in a folder, sorted; [] where it is not there."""
    if not remote(folder):
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
    try:
        found = insist(lambda: _store().ls(str(folder), detail=False), folder)
    except FileNotFoundError:
        return []
    inside = _key(folder) + '/'
    return sorted(name.removeprefix(inside).rstrip('/') for name in found if name.startswith(inside) and name != inside)


def files(folder) -> dict[str, Facts]:
    """Every file below a folder, by its relative path, sorted."""
    if not remote(folder):
        found = ((p.relative_to(folder).as_posix(), p.stat()) for p in folder.rglob('*') if p.is_file())
        return {name: Facts(s.st_size, s.st_mtime) for name, s in sorted(found)}
    inside, listed = _key(folder) + '/', insist(lambda: _store().find(str(folder), detail=True), folder)
    return {name.removeprefix(inside): Facts(about['size'], about['mtime'].timestamp())
            for name, about in sorted(listed.items()) if name.startswith(inside) and not name.endswith('/')}


def read(path) -> bytes:
    """The contents of a file.

    Raises:
      FileNotFoundError: there is none.
    """
    return insist(lambda: _store().cat_file(str(path)), path) if remote(path) else path.read_bytes()


def text(path) -> str:
    """As `read`, decoded; what is no UTF-8 is replaced."""
    return read(path).decode('utf-8', 'replace')


def write(path, data: bytes) -> None:
    """Replaces a file."""
    if not remote(path):
        path.write_bytes(data)
        return
    try:
        insist(lambda: _store().pipe_file(str(path), data), path)
    except FileNotFoundError:
        raise UserError(f'{path}: there is no such bucket; make it, or name another') from None


def regular(path) -> bool:
    """Whether it is a file, and no link to one."""
    return remote(path) or (path.is_file() and not path.is_symlink())


def make(folder) -> None:
    """Makes a folder; stores have none."""
    if not remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def sha256(path) -> tuple[int, str]:
    """(bytes, hex digest) of a file, read in parts."""
    if not remote(path):
        with open(path, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
            return file.tell(), digest
    size, digest = (facts(path) or Facts(0, 0)).size, hashlib.sha256()
    for part in _parts(path, size):
        digest.update(part)
    return size, digest.hexdigest()


def remove(folder, first: str = '') -> None:
    """Removes a folder and all in it, and before that the file `first`; nothing is said where there is none."""
    if not remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    names = sorted(files(folder), key=lambda name: name != first)
    for part in (names[:1], names[1:]):
        _each(lambda name: remove_file(folder / name), part)


def remove_file(path) -> None:
    """Removes one file; of a store nothing is said where there is none."""
    if not remote(path):
        path.unlink()
        return
    with contextlib.suppress(FileNotFoundError):  # perhaps by a try whose answer was lost
        insist(lambda: _store().rm_file(str(path)), path)


def move(folder, target, last: str = '') -> None:
    """Moves a folder to where nothing is; in a store file by file, and a folder without its file `last` has not arrived."""
    if not remote(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, target)
        return
    names = sorted(files(folder), key=lambda name: name == last)
    copy = lambda name: insist(lambda: _store().cp_file(str(folder / name), str(target / name)), folder / name)
    for part in (names[:-1], names[-1:]):
        _each(copy, part)
    remove(folder, first=last)


def _each(call, items) -> None:
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, items))


def fetched(path) -> pathlib.Path:
    """A file as one of this machine: itself, or a copy in the temporary folder."""
    if not remote(path):
        return path
    folder = pathlib.Path(tempfile.mkdtemp(prefix='bigjax-'))
    (folder / path.name).write_bytes(read(path))
    return folder / path.name


def copied(path) -> pathlib.Path:
    """A file or folder of a store as one of this machine: a copy in the user's cache, of which only what is missing, of another
    size or older is fetched. Several processes may ask at once.

    Raises:
      UserError: there is nothing, or a name that is no path below it.
    """
    listed = files(path) or ({'': one} if (one := facts(path)) else {})
    if not listed:
        raise UserError(f'{path}: there is nothing; check the path')
    strange = next((name for name in listed if not {'..', '.', ''}.isdisjoint(name.split('/')) and name), None)
    if strange:
        raise UserError(f'{path}: {printable(strange)} is no name of a file below it; rename it')
    root = cache(path)
    if '' not in listed:
        for mine in files(root):
            if mine not in listed and not mine.endswith(UNFINISHED):
                (root / mine).unlink(missing_ok=True)
    _each(lambda name: _fetch(path / name if name else path, listed[name], root / name), listed)
    return root


def cache(path) -> pathlib.Path:
    """Where this machine keeps its copy of what is in a store."""
    home = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    return home / 'bigjax' / 'store' / _key(path)


def _fetch(path, about: Facts, target: pathlib.Path) -> None:
    mine = facts(target)
    if mine and mine.size == about.size and mine.when >= about.when - 1:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f'.{target.name}.{os.getpid()}.{threading.get_ident()}{UNFINISHED}')
    try:
        with open(beside, 'wb') as file:
            for part in _parts(path, about.size):
                file.write(part)
        os.utime(beside, (about.when, about.when))
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _parts(path, size: int):
    """The contents of an object, a part at a time."""
    for start in range(0, size, PART):
        yield insist(lambda start=start: _store().cat_file(str(path), start, min(size, start + PART)), path)


def _key(path) -> str:
    return str(path).removeprefix(SCHEME).rstrip('/')
