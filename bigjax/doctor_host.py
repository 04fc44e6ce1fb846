"""The checks of `bigjax.doctor` that look at the machine: packages, holders of a device, memory, disks, clocks, folders."""
import contextlib
import dataclasses
import os
import pathlib
import pwd
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence

from bigjax import UserError
from bigjax.data import storage
from bigjax.parallel.visible import PLUGINS, one_line
from bigjax.plan.report import gib

OK, WARNING, FAILED = 'ok', 'warning', 'FAILED'
ROOT = pathlib.Path('/')
CORE = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'absl-py', 'ml-collections', 'numpy')  # what training imports
SHOWN = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
ALONE = ('tpu',)  # devices that one process has at a time
SKEW, BROKEN = 5.0, 60.0  # seconds between two clocks
SHARED_SECONDS = 5.0  # in which a file system shows what another host has written
PLACE = re.compile(r'\s--(coordinator|processes|process|start_timeout)[= ]\S+')


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at, how it is ('ok', 'warning', 'FAILED'), and in a line what, where and the mend."""

    name: str
    status: str
    text: str

    def __str__(self) -> str:
        return f'{self.status:7}  {self.name:16}  {one_line(self.text, 1000)}'


def versions(packages: Mapping[str, str], requires: Sequence[str], python: str) -> Check:
    """The libraries against each other, and against what the package asks for.

    Args:
      packages: {distribution: version}.
      requires: lines such as 'jax>=0.10.2,<0.13', with markers; none where the package is not installed.
      python: the version of Python.
    """
    from packaging.requirements import Requirement
    wanted = [r for r in map(Requirement, ('numpy>=2', *requires)) if r.marker is None or r.marker.evaluate({'extra': ''})]
    wrong = []
    for r in {r.name: r for r in wanted}.values():
        name = r.name.lower().replace('_', '-')
        have = packages.get(name)
        if have is None and name in CORE:
            wrong.append(f"{name} is not installed; pip install '{r.name}{r.specifier}'")
        elif have is not None and not r.specifier.contains(have, prereleases=True):
            wrong.append(f"{name} {have} is outside {r.specifier}; pip install '{r.name}{r.specifier}'")
    jax, jaxlib = packages.get('jax'), packages.get('jaxlib')
    if jax != jaxlib:
        wrong.append(f"jax {jax} with jaxlib {jaxlib}; pip install 'jaxlib=={jax}'")
    for name, have in packages.items():
        if re.fullmatch(f"{PLUGINS['cuda']}|{PLUGINS['rocm']}", name) and have != jaxlib:
            wrong.append(f"{name} {have} with jaxlib {jaxlib}; pip install '{name}=={jaxlib}'")
    if wrong:
        return Check('versions', FAILED, '; '.join(wrong))
    text = ', '.join([f'python {python}', *(f'{name} {packages[name]}' for name in SHOWN if name in packages)])
    if not requires:
        return Check('versions', WARNING, f'{text}; bigjax itself is not installed, so its bounds were not compared: '
                                          'pip install -e . in its folder')
    return Check('versions', OK, text)


def holders(shown: Mapping[str, Sequence[str]], root: pathlib.Path = ROOT, own: int | None = None) -> Check:
    """Which processes have an accelerator open, as far as this user may see; those of the same command do not count.

    Args:
      shown: {kind: device files}, of `bigjax.parallel.visible.accelerators`.
      own: the number of this process.
    """
    files = {file: kind for kind, kinds in shown.items() for file in kinds}
    if not files:
        return Check('holders', OK, 'no accelerator to hold')
    own = os.getpid() if own is None else own
    mine, found = _command(root / f'proc/{own}'), {}
    for process in sorted((root / 'proc').glob('[0-9]*'), key=lambda p: int(p.name)):
        for file in _open(process) & set(files):
            command = _command(process)
            if int(process.name) != own and PLACE.sub('', command) != PLACE.sub('', mine):
                found.setdefault((process.name, _user(process), command), []).append(file)
    if not found:
        return Check('holders', OK, f"no other process that this user may see has {', '.join(files)} open")
    lines = [f"{', '.join(sorted(held))} is held by pid {pid} of {user}: {one_line(command, 80)}"
             for (pid, user, command), held in found.items()]
    more = f'; and {len(lines) - 3} more' if len(lines) > 3 else ''
    alone = any(files[file] in ALONE for held in found.values() for file in held)
    return Check('holders', FAILED if alone else WARNING, f"{'; '.join(lines[:3])}{more}; end it, or wait for it")


def _open(process: pathlib.Path) -> set[str]:
    """The files that a process has open; none where it has ended, or is another user's."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in (process / 'fd').iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(fd))
    return found


def _command(process: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return (process / 'cmdline').read_text(errors='replace').replace('\0', ' ').strip()
    return ''


def _user(process: pathlib.Path) -> str:
    number = process.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)  # of a container


def host_memory(root: pathlib.Path = ROOT) -> int | None:
    """Free bytes of this machine, or of the control group (a container, a job) where it has fewer; None where untold."""
    try:
        fields = dict(re.findall(r'^(\w+):\s+(\d+) kB', (root / 'proc/meminfo').read_text(), re.MULTILINE))
        free = int(fields['MemAvailable']) * 1024
    except (OSError, KeyError):
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):  # no control groups, or no limit ('max')
        inner = re.search(r'^0::/(.*)$', (root / 'proc/self/cgroup').read_text(), re.MULTILINE)
        group = root / 'sys/fs/cgroup' / (inner[1] if inner else '')
        return min(free, int((group / 'memory.max').read_text()) - int((group / 'memory.current').read_text()))
    return free


def room(name: str, place: str, need: Mapping[str, int], free: int | None, mend: str) -> Check:
    """Whether what is needed, {part: bytes}, is free somewhere; the sum is the least, so from 70 % on it is a warning."""
    whole = sum(need.values())
    text = f"{place} needs at least {gib(whole)} ({', '.join(f'{part} {gib(n)}' for part, n in need.items() if n)})"
    if free is None:
        return Check(name, OK, f'{text}; how much is free is not told here')
    text += f', {gib(free)} is free'
    if whole > free:
        return Check(name, FAILED, f'{text}; {mend}')
    return Check(name, WARNING, f'{text}, which may not be enough; {mend}') if whole > 0.7 * free else Check(name, OK, text)


def disk(folder: pathlib.Path, need: int, usage: Callable = shutil.disk_usage) -> Check:
    """Whether `need` bytes of checkpoints fit into the file system of a folder, which need not exist yet."""
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = usage(place).free
    text = f"the checkpoints in {folder} need {gib(need) if need else 'an unknown size'}, {gib(free)} is free"
    if need > free:
        return Check('disk', FAILED, f'{text}; free some, choose another --workdir, or --config.checkpoint_keep=1')
    return Check('disk', OK, text)


def cache(folder: str | None) -> Check:
    """Whether compiled programs can be kept in a folder; None where they are kept nowhere."""
    if not folder:
        return Check('cache', WARNING, 'compiled programs are kept nowhere, every start compiles anew; --compile_cache=DIR')
    try:
        _probe(pathlib.Path(folder) / f'.doctor-{secrets.randbits(30)}').unlink()
    except OSError as error:
        return Check('cache', WARNING, f'{folder}: compiled programs cannot be kept there ({error.strerror}), every start '
                                       'compiles anew; --compile_cache=DIR names another folder')
    return Check('cache', OK, f'compiled programs are kept in {folder}')


def _probe(path):
    """Writes a small file as a checkpoint is written: beside, to the disk itself, then renamed; to a store, at once."""
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


def workdir(folder, process: int, processes: int, gather: Callable[[int], list[int]],
            seconds: float = SHARED_SECONDS) -> list[Check]:
    """Whether all processes can write a folder and see each other there, and how far its clock is from this machine's.

    Args:
      gather: gives a number of this process, and gets those of all; all processes call it equally often.
      seconds: to wait until the others' files show.
    """
    token, error, skew = gather(secrets.randbits(30))[0], None, 0.0
    names = [folder / f'.doctor-{token}-{i}' for i in range(processes)]
    made = [] if storage.remote(folder) else [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    before = time.time()
    try:
        storage.make(folder)
        written = storage.facts(_probe(names[process])).when
        skew = min(0.0, written - before) + max(0.0, written - time.time())
    except (OSError, UserError) as problem:
        error = problem
    there = [i for i, fine in enumerate(gather(int(error is None))) if fine]
    unseen, until = there, time.monotonic() + seconds
    while (unseen := [i for i in unseen if not storage.exists(names[i])]) and time.monotonic() < until:
        time.sleep(0.1)
    gather(0)  # all have looked
    try:
        if error is None:
            storage.remove_file(names[process])
    except OSError as problem:
        error = problem
    gather(0)  # all are gone
    for place in made:  # nothing of this stays
        with contextlib.suppress(OSError):
            place.rmdir()
    if error is not None:
        why = getattr(error, 'strerror', None) or error
        return [Check('workdir', FAILED, f'{folder}: it cannot be written ({why}); choose another --workdir')]
    if unseen:
        return [Check('workdir', FAILED, f"{folder}: process {process} does not see the files of process "
                                         f"{', '.join(map(str, unseen))}; it has to be on a file system that all hosts share")]
    seen = '' if processes == 1 else f', and all {processes} processes see it'
    return [Check('workdir', OK, f'{folder}: it can be written{seen}'),
            between('disk clock', skew, f'of the file system of {folder}', 'this machine')]


def clocks(gather: Callable[[int], list[int]], now: Callable[[], float] = time.time) -> Check:
    """The clocks of the processes, which all ask at the same moment, to a second."""
    gather(0)
    times = gather(int(now()))
    worst = max(range(len(times)), key=lambda i: abs(times[i] - times[0]))
    if worst == 0:
        return Check('clocks', OK, f'those of {len(times)} processes are the same, to a second')
    return between('clocks', times[worst] - times[0], f'of process {worst}', 'process 0')


def between(name: str, skew: float, whose: str, other: str) -> Check:
    """How far a clock is ahead of another, in seconds."""
    if abs(skew) <= SKEW:
        return Check(name, OK, f'the clock {whose} is that of {other}, within {SKEW:.0f} s')
    text = (f"the clock {whose} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {other}; synchronise them, for "
            'example by chrony')
    return Check(name, FAILED if abs(skew) > BROKEN else WARNING, text)
