"""One damaged file after another: a reader may succeed or raise a UserError of one line, in seconds, in little memory."""
import contextlib
import faulthandler
import os
import pathlib
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings

import numpy as np

from bigjax.errors import UserError
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import Reader

SECONDS, BYTES = 5.0, 1 << 30
STUCK = 60.0  # seconds after which a library that never returns ends the process, with a traceback


class Slow(BaseException):
    """A reader took longer than it may."""


def _peak() -> int:
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def verdict(reader: Reader, path: pathlib.Path) -> str:
    """'' where a reader did with a file what it should, else what it did, with the place."""
    def late(*_):
        raise Slow

    before, began, peak = signal.signal(signal.SIGALRM, late), time.monotonic(), _peak()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(path)
        found = ''
    except UserError as error:
        found = '' if str(error).isprintable() and len(str(error)) < 2000 else f'not one line of text: {str(error)[:300]!a}'
    except (Exception, Slow) as error:
        place = traceback.extract_tb(error.__traceback__)
        inside = [f'{pathlib.Path(f.filename).name}:{f.lineno}' for f in place if 'bigjax' in f.filename.split(os.sep)]
        found = f'{type(error).__name__} at {inside[-1] if inside else place[-1].name}: {str(error)[:200]!a}'
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if not found and time.monotonic() - began > SECONDS:
        found = f'took {time.monotonic() - began:.1f} s'
    if not found and _peak() - peak > BYTES:
        found = f'took {(_peak() - peak) >> 20} MiB'
    return found


@contextlib.contextmanager
def quiet():
    """Decoders in C write of damage to stderr, and NumPy warns of it: both are left out, but not where the process dies."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    enabled = faulthandler.is_enabled()
    faulthandler.enable(kept)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield kept
    finally:
        faulthandler.disable()
        os.dup2(kept, 2)
        if enabled:
            faulthandler.enable(2)
        os.close(kept)
        os.close(nowhere)


def place(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    """The file to read, in a folder of its own; it stays there if the process dies of it."""
    (folder / 'input').mkdir(exist_ok=True)
    path = folder / 'input' / name
    path.write_bytes(data)
    return path


def seeds(reader: Reader, folder: pathlib.Path) -> dict[str, bytes]:
    """The valid files of a reader."""
    (folder / 'seeds').mkdir(parents=True, exist_ok=True)
    return dict(reader.seeds(folder / 'seeds'))


def inputs(valid: dict[str, bytes], seed: int, start: int = 0):
    """(name, damaged content) without end; a function of the seed and the place in the row."""
    names = list(valid)
    while True:
        rng = np.random.default_rng([seed, start])
        name = names[rng.integers(len(names))]
        yield name, mutate(valid[name], name, list(valid.values()), rng)
        start += 1


def smaller(reader: Reader, folder: pathlib.Path, name: str, data: bytes, seconds: float = 10.0) -> bytes:
    """The least content that is found, by leaving parts out, to go wrong at the same place."""
    kind = lambda text: text.split(': ')[0].split(' took')[0]
    wanted, until, part = kind(verdict(reader, place(folder, name, data))), time.monotonic() + seconds, len(data) // 2
    while part and time.monotonic() < until:
        at, shrunk = 0, False
        while at < len(data) and time.monotonic() < until:
            less = data[:at] + data[at + part:]
            if kind(verdict(reader, place(folder, name, less))) == wanted:
                data, shrunk = less, True
            else:
                at += part
        part = part if shrunk else part // 2
    return data


def run(reader: Reader, folder: pathlib.Path, *, seed: int, count: int | None = None, seconds: float = 1e9):
    """(inputs tried, {what went wrong: (name, content)}), at most one of a place."""
    valid, found, tried, until = seeds(reader, folder), {}, 0, time.monotonic() + seconds
    with quiet() as stderr:
        for name, data in valid.items():
            if wrong := verdict(reader, place(folder, name, data)):
                found[f'of a valid file, {wrong}'] = name, data
        for name, data in inputs(valid, seed):
            if time.monotonic() > until or tried == count:
                break
            faulthandler.dump_traceback_later(STUCK, exit=True, file=stderr)
            wrong, tried = verdict(reader, place(folder, name, data)), tried + 1
            if wrong and wrong.split(': ')[0] not in {known.split(': ')[0] for known in found}:
                found[wrong] = name, smaller(reader, folder, name, data)
    faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder / 'input', ignore_errors=True)
    return tried, found
