"""The checks of the verb `doctor` that look at the machine: packages, devices, memory, disks, folders."""
import contextlib
import dataclasses
import os
import pathlib
import platform
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import jax

from bigjax.distributed import accelerators as visible
from bigjax.errors import UserError
from bigjax.io import storage
from bigjax.io.text import gib, printable

OK, WARNING, FAILED = 'ok', 'warning', 'FAILED'
ROOT = pathlib.Path('/')
TIGHT = 0.7  # share of the free memory from which on an estimate without activations is a warning


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the answer: the name of the check, its status ('ok', 'warning', 'FAILED'), what was found and the fix."""

    name: str
    status: str
    text: str

    def __str__(self) -> str:
        return f'{self.status:7}  {self.name:16}  {" ".join(self.text.split())[:1000]}'


def described(error: BaseException) -> str:
    """'AssertionError', 'ValueError: not an image'."""
    text = visible.one_line(str(error))
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def packages(seconds: float = 10.0) -> Check:
    """The versions of Python and JAX, and what `pip check` reports."""
    text = f'python {platform.python_version()}, jax {jax.__version__}'
    try:
        done = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return Check('packages', OK, text)
    conflicts = [line for line in done.stdout.splitlines() if ' has requirement ' in line or ' requires ' in line]
    if conflicts:
        return Check('packages', WARNING, f'{text}; pip check: {printable("; ".join(conflicts))}')
    return Check('packages', OK, text)


def own_host(joined) -> bool:
    """Whether this process alone uses the accelerators of its host."""
    return joined.local_devices is None and joined.processes in (1, joined.hosts)


def accelerators(shown: Mapping[str, Sequence[str]], asked: str, alone: bool = True,
                 environ: Mapping[str, str] = os.environ) -> Check:
    """Whether JAX computes on the accelerators of this machine, and on all of them.

    Args:
      shown: {kind: device files}, from `bigjax.distributed.accelerators.accelerators`.
      asked: the value of --platform.
      alone: no other process of this command is on this host.
    """
    try:
        visible.require_accelerator(asked)
        devices = jax.local_devices()
    except UserError:
        raise
    except Exception as error:
        raise UserError(visible.not_started(error, asked, environ), code='accelerator/none') from None
    kind, files = next(iter(shown.items()), ('', ()))
    found = ', '.join(file for files in shown.values() for file in files) or 'no accelerator'
    text = f'{found}; JAX computes on {devices[0].platform}'
    if alone and devices[0].platform != 'cpu' and len(devices) < len(files):
        hiding = visible.HIDING.get(kind, '')
        why = (f'{hiding}={environ[hiding]} in the environment hides the others; unset it' if environ.get(hiding) else
               "see the system's log for the others")
        return Check('accelerators', WARNING, f'{text}, {len(devices)} of {len(files)}; {why}')
    return Check('accelerators', OK, text)


def host_memory(root: pathlib.Path = ROOT) -> int | None:
    """Free bytes of this machine, or of its container where that has fewer; None where the system does not show them."""
    try:
        fields = dict(re.findall(r'^(\w+):\s+(\d+) kB', (root / 'proc/meminfo').read_text(), re.MULTILINE))
        free = int(fields['MemAvailable']) * 1024
    except (OSError, KeyError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ('max')
        group = root / 'sys/fs/cgroup'
        cached = re.search(r'^inactive_file (\d+)$', (group / 'memory.stat').read_text(), re.MULTILINE)
        used = int((group / 'memory.current').read_text()) - (int(cached[1]) if cached else 0)
        free = min(free, int((group / 'memory.max').read_text()) - used)
    return free


def room(name: str, place: str, need: Mapping[str, int], free: int | None, fix: str) -> Check:
    """Whether the bytes {part: bytes} are free in a place; the sum is a lower bound, so it warns from `TIGHT` on."""
    whole = sum(need.values())
    text = f"{place} needs at least {gib(whole)} ({', '.join(f'{part} {gib(n)}' for part, n in need.items() if n)})"
    if free is None:
        return Check(name, OK, f'{text}; the free memory is not known')
    text += f', {gib(free)} is free'
    if whole > free:
        return Check(name, FAILED, f'{text}; {fix}')
    return Check(name, WARNING, f'{text}, which may not be enough; {fix}') if whole > TIGHT * free else Check(name, OK, text)


def disk(folder: pathlib.Path, need: int, usage: Callable = shutil.disk_usage) -> Check:
    """Whether `need` bytes of checkpoints fit into the file system of a folder, which need not exist yet."""
    size = gib(need) if need else 'an unknown size'
    if storage.remote(folder):
        return Check('disk', OK, f'the checkpoints in {folder} need {size}; an object store has no known limit')
    free = usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    text = f'the checkpoints in {folder} need {size}, {gib(free)} is free'
    if need > free:
        return Check('disk', FAILED, f'{text}; free some, choose another --workdir, or --config.checkpoint_keep=1')
    return Check('disk', OK, text)


def cache(folder: str | None) -> Check:
    """Whether compiled programs can be kept in a folder; None where the cache is off."""
    if not folder:
        return Check('cache', WARNING, 'compiled programs are not kept, so every start compiles; fix: --compile_cache=DIR')
    try:
        _probe(pathlib.Path(folder) / f'.doctor-{secrets.randbits(30)}').unlink()
    except OSError as error:
        return Check('cache', WARNING, f'{folder}: compiled programs cannot be kept there ({error.strerror}), so every start '
                                       'compiles; fix: --compile_cache=DIR')
    return Check('cache', OK, f'compiled programs are kept in {folder}')


def workdir(folder) -> Check:
    """Whether this process can write a folder. A folder that the check has made is removed again."""
    made = [] if storage.remote(folder) else [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    try:
        storage.make(folder)
        storage.remove_file(_probe(folder / f'.doctor-{secrets.randbits(30)}'))
        return Check('workdir', OK, f'{folder}: it can be written')
    except (OSError, UserError) as error:
        why = getattr(error, 'strerror', None) or error
        return Check('workdir', FAILED, f'{folder}: it cannot be written ({why}); choose another --workdir')
    finally:
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()


def _probe(path):
    """Writes a small file as a checkpoint is written: beside, to the disk itself, then renamed; to a store, directly."""
    if storage.remote(path):
        storage.write(path, b'probe')
        return path
    beside = path.with_name(f'{path.name}.tmp')
    try:
        with open(beside, 'wb') as file:
            file.write(b'probe')
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    return path
