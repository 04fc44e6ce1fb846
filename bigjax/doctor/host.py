"""The checks of `bigjax.doctor` that look at the machine: devices and their holders, memory, disks, clocks, folders."""
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

import jax

from bigjax.distributed import accelerators as visible
from bigjax.distributed.accelerators import one_line
from bigjax.doctor.together import Together, several
from bigjax.errors import UserError
from bigjax.io import storage
from bigjax.plan.report import gib

OK, WARNING, FAILED = 'ok', 'warning', 'FAILED'
ROOT = pathlib.Path('/')
ALONE = ('tpu',)  # devices that one process has at a time
SKEW, BROKEN = 5.0, 60.0  # seconds between two clocks
SHARED_SECONDS = 4.0  # in which a file system shows what another host has written
ANSWER_SECONDS, MEETING_SECONDS = 4.0, 8.0  # in which another process answers; at the first question
PLACE = re.compile(r'\s--(coordinator|processes|process|start_timeout)[= ]\S+')


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at, how it is ('ok', 'warning', 'FAILED'), and in a line what, where and the mend."""

    name: str
    status: str
    text: str

    def __str__(self) -> str:
        return f'{self.status:7}  {self.name:16}  {one_line(self.text, 1000)}'


def described(error: BaseException) -> str:
    """'AssertionError', 'ValueError: not a picture'."""
    text = one_line(str(error))
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def own_host(joined) -> bool:
    """Whether the accelerators of this host are this process's alone."""
    return joined.local_devices is None and joined.processes in (1, joined.hosts)


def accelerators(shown: Mapping[str, Sequence[str]], asked: str, alone: bool = True,
                 environ: Mapping[str, str] = os.environ) -> Check:
    """Whether JAX computes on the accelerators that show, and on all of them.

    Args:
      shown: {kind: device files}, of `bigjax.distributed.accelerators.accelerators`.
      asked: what --platform says.
      alone: no other process of this command is on this host.
    """
    try:
        visible.refuse_cpu(asked)
        devices = jax.local_devices()
    except UserError:
        raise
    except Exception as error:
        raise UserError(_not_started(error, asked, environ)) from None
    kind, files = next(iter(shown.items()), ('', ()))
    there = ', '.join(file for files in shown.values() for file in files) or 'none shows'
    text = f'{there}; JAX computes on {devices[0].platform}'
    if alone and devices[0].platform != 'cpu' and len(devices) < len(files):
        hiding = visible.HIDING.get(kind, '')
        why = (f'{hiding}={environ[hiding]} in the environment hides the others; unset it' if environ.get(hiding) else
               "free or mend the others, the system's log tells of them")
        return Check('accelerators', WARNING, f'{text}, {len(devices)} of {len(files)}; {why}')
    return Check('accelerators', OK, text)


def _not_started(error: Exception, asked: str, environ: Mapping[str, str]) -> str:
    """What JAX says of devices that it cannot start, and the mend."""
    named = asked or environ.get('JAX_PLATFORMS', '')
    by = f'--platform={asked}' if asked else f'JAX_PLATFORMS={named} in the environment' if named else 'the best there is'
    get = visible.GET.get('cuda' if named.split(',')[0] == 'gpu' else named.split(',')[0], '')
    mend = [f'unset JAX_PLATFORMS if it is there by mistake, or {visible.ON_PURPOSE}' if named and not asked else
            visible.ON_PURPOSE, *([get] if get else [])]
    return f"JAX cannot start its devices ({by}): {described(error)}; {', or '.join(reversed(mend))}"


def holders(shown: Mapping[str, Sequence[str]], root: pathlib.Path = ROOT, own: int | None = None) -> Check:
    """Which processes have an accelerator open, as far as this user may see; those of the same command do not count.

    Args:
      shown: {kind: device files}, of `bigjax.distributed.accelerators.accelerators`.
      own: the number of this process.
    """
    files = {file: kind for kind, kinds in shown.items() for file in kinds}
    if not files:
        return Check('holders', OK, 'no accelerator to hold')
    own = os.getpid() if own is None else own
    mine, found, hidden = _command(root / f'proc/{own}'), {}, 0
    for process in sorted((root / 'proc').glob('[0-9]*'), key=lambda p: int(p.name)):
        opened, command = _open(process), _command(process)
        hidden += opened is None and bool(command)  # the system's own threads have no command, and hold nothing
        for file in (opened or set()) & set(files):
            if int(process.name) != own and PLACE.sub('', command) != PLACE.sub('', mine):
                found.setdefault((process.name, _user(process), command), []).append(file)
    unseen = _unseen(root, hidden, files)
    if not found:
        return Check('holders', OK, f"no other process that this user may see has {', '.join(files)} open{unseen}")
    lines = [f"{', '.join(sorted(held))} is held by pid {pid} of {user}: {one_line(command, 80)}"
             for (pid, user, command), held in found.items()]
    more = f'; and {len(lines) - 3} more' if len(lines) > 3 else ''
    alone = any(files[file] in ALONE for held in found.values() for file in held)
    return Check('holders', FAILED if alone else WARNING, f"{'; '.join(lines[:3])}{more}; end it, or wait for it{unseen}")


def _open(process: pathlib.Path) -> set[str] | None:
    """The files that a process has open; none where it has ended, None where they may not be seen: it is another user's."""
    found = set()
    try:
        for fd in (process / 'fd').iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(fd))
    except PermissionError:
        return None
    except OSError:
        pass  # it has ended
    return found


def _unseen(root: pathlib.Path, hidden: int, files) -> str:
    """What the search for holders could not see, '' where that is nothing."""
    with contextlib.suppress(OSError):
        mounts = (root / 'proc/mounts').read_text()
        if re.search(r'^\S+ /proc proc \S*hidepid=(2|4|invisible|ptraceable)', mounts, re.MULTILINE):
            return f"; processes of other users are hidden here (sudo fuser -v {' '.join(files)} shows them)"
    if not hidden:
        return ''
    return (f"; {hidden} process{'es' if hidden > 1 else ''} of other users could not be looked into (sudo fuser -v "
            f"{' '.join(files)} shows them)")


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
    """Free bytes of this machine, or of the control groups (a container, a job) where they have fewer; None where untold."""
    try:
        fields = dict(re.findall(r'^(\w+):\s+(\d+) kB', (root / 'proc/meminfo').read_text(), re.MULTILINE))
        free = int(fields['MemAvailable']) * 1024
    except (OSError, KeyError):
        return None
    return min([free, *_groups(root)])


GROUPS = {  # control groups of version 2 and 1: the line of /proc/self/cgroup, and limit, use and page cache of a group
    r'^0::/(.*)$': ('sys/fs/cgroup', 'memory.max', 'memory.current', 'inactive_file'),
    r'^\d+:(?:\w+,)*memory(?:,\w+)*:/(.*)$': (
        'sys/fs/cgroup/memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')}


def _groups(root: pathlib.Path) -> list[int]:
    """Free bytes of every control group that this process is in and that has a limit: SLURM sets that of a task's parents."""
    found = []
    for line, (place, limit, used, cached) in GROUPS.items():
        with contextlib.suppress(OSError):
            inner = re.search(line, (root / 'proc/self/cgroup').read_text(), re.MULTILINE)
            path = pathlib.PurePath(inner[1] if inner else '')
            for group in (path, *path.parents):  # a container may be told the path of its host
                with contextlib.suppress(OSError, ValueError):  # no such group here, or no limit ('max')
                    there = root / place / group
                    free = int((there / limit).read_text()) - int((there / used).read_text())
                    found.append(free + _cache_of(there, cached))
    return found


def _cache_of(group: pathlib.Path, name: str) -> int:
    """Bytes of files that the system drops before a limit is reached, and counts as used."""
    with contextlib.suppress(OSError):
        told = re.search(rf'^{name} (\d+)$', (group / 'memory.stat').read_text(), re.MULTILINE)
        return int(told[1]) if told else 0
    return 0


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
    if storage.remote(folder):
        size = gib(need) if need else 'an unknown size'
        return Check('disk', OK, f'the checkpoints in {folder} need {size}, an object store tells no end of its room')
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


def workdir(folder, together: Together, answer: float = ANSWER_SECONDS, seconds: float = SHARED_SECONDS) -> list[Check]:
    """Whether all processes can write a folder and see each other there, and how far its clock is from this machine's.

    Args:
      answer: seconds to wait for the others' words.
      seconds: to wait until the others' files show.
    """
    probe = lambda i, token: folder / f'.doctor-{token}-{i}'
    token, error, skew = secrets.randbits(30) + 1, None, 0.0
    made = [] if storage.remote(folder) else [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    before = time.time()
    try:
        storage.make(folder)
        written = storage.facts(_probe(probe(together.process, token))).when
        skew = min(0.0, written - before) + max(0.0, written - time.time())
    except (OSError, UserError) as problem:
        error = problem
    others = together.ask('written', 0 if error else token, answer)
    unseen, until = {i: probe(i, t) for i, t in others.items() if t}, time.monotonic() + seconds
    while (unseen := {i: p for i, p in unseen.items() if not storage.exists(p)}) and time.monotonic() < until:
        time.sleep(0.1)
    together.ask('looked', 0, seconds + answer)
    try:
        if error is None:
            storage.remove_file(probe(together.process, token))
    except OSError as problem:
        error = problem
    together.ask('removed', 0, answer)
    for place in made:  # nothing of this stays
        with contextlib.suppress(OSError):
            place.rmdir()
    return [*_written(folder, together.process, together.processes, set(others), error, sorted(unseen)),
            *([] if error or unseen else [between('disk clock', skew, f'of the file system of {folder}', 'this machine')])]


def _written(folder, process: int, processes: int, answered: set[int], error, unseen: Sequence[int]) -> list[Check]:
    """What is to say of a workdir, and of those who said nothing of it."""
    found = []
    if silent := set(range(processes)) - answered:
        found.append(Check('workdir', FAILED, f'{folder}: {several(silent)} did not say in time that it can be written; look '
                                              'at what is printed there, and at the file system of that host'))
    if error is not None:
        why = getattr(error, 'strerror', None) or error
        found.append(Check('workdir', FAILED, f'{folder}: it cannot be written ({why}); choose another --workdir'))
    elif unseen:
        found.append(Check('workdir', FAILED, f'{folder}: process {process} does not see the files of {several(unseen)}; it '
                                              'has to be on a file system that all hosts share'))
    elif not silent:
        seen = '' if processes == 1 else f', and all {processes} processes see it'
        found.append(Check('workdir', OK, f'{folder}: it can be written{seen}'))
    return found


def clocks(together: Together, seconds: float = MEETING_SECONDS, now: Callable[[], float] = time.time) -> Check:
    """The clocks of the processes, which all tell them at the same moment, to a second."""
    together.ask('ready', 0, seconds)
    times = together.ask('clocks', int(now()), seconds)
    if silent := set(range(together.processes)) - set(times):
        return Check('clocks', FAILED, f'{several(silent)} did not tell the time within {seconds:.0f} s; look at what is '
                                       'printed there')
    worst = max(times, key=lambda i: abs(times[i] - times[0]))
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
