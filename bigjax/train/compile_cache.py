"""Compiled programs: how many and for how long, the cache that outlives the process, and a watch over recompilation."""
import hashlib
import os
import pathlib
import platform
import threading
from collections.abc import Callable

import jax

from bigjax import compat
from bigjax.distributed import hardware
from bigjax.errors import UserError
from bigjax.io import uri
from bigjax.io.local_copy import user_cache
from bigjax.sharding import tree_paths

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
MIN_COMPILE_S = 0.1  # programs that compile faster are not worth a file


class StrictError(Exception):
    """A warning, under --strict."""


class Stats(threading.local):
    """Counts what this thread has compiled: `programs`, of which `hits` came from the cache, in `seconds`.

    JAX calls every listener of the process; a function compiles in the thread that calls it.
    """

    def __init__(self):
        self.programs, self.hits, self.seconds = 0, 0, 0.0

    def duration(self, event: str, seconds: float, **_) -> None:
        """A listener of JAX's durations."""
        if event == compat.COMPILE_SECONDS_EVENT:
            self.programs += 1
            self.seconds += seconds

    def event(self, event: str, **_) -> None:
        """A listener of JAX's events."""
        self.hits += event == compat.CACHE_HIT_EVENT

    def since(self, programs: int = 0, hits: int = 0, seconds: float = 0.0) -> dict:
        """The counts since they stood at these numbers, for run.json."""
        return {'programs': self.programs - programs, 'hits': self.hits - hits, 'seconds': round(self.seconds - seconds, 3)}


def describe(done: dict) -> str:
    """`Stats.since` in a line."""
    place = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
    kept = f", {done['hits']} of them found in {place}" if place else ', kept nowhere (--compile_cache)'
    return f"compiled {done['programs']} programs in {done['seconds']:.1f} s{kept}"


STATS = Stats()
compat.register_event_duration_secs_listener(STATS.duration)
compat.register_event_listener(STATS.event)


def enable(folder: str) -> None:
    """Makes JAX keep compiled programs in a folder for later runs ('': the user's cache; 'off': nowhere).

    JAX_COMPILATION_CACHE_DIR, where it is set, is the default's place.

    Raises:
      UserError: the folder that was named cannot be written, or is in a store, on which every compilation would wait.
    """
    if folder == 'off':
        jax.config.update('jax_enable_compilation_cache', False)
        return
    name, asked = ('--compile_cache', folder) if folder else (VARIABLE, os.environ.get(VARIABLE, ''))
    if uri.remote(path := uri.named(asked)):
        raise UserError(f"{name}: got '{path}', expected a folder of this machine, as every compilation would wait for a "
                        'store; fix: name one, or --compile_cache=off', code='compile-cache/remote')
    place = pathlib.Path(path).expanduser() if asked else default()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder:
            raise UserError(f"--compile_cache: got '{folder}', which cannot be made ({error.strerror}); fix: name another "
                            "folder, or 'off'", code='compile-cache/unwritable') from None
        return  # the default is optional: a home that cannot be written is no reason to stop
    jax.config.update('jax_compilation_cache_dir', str(place))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_COMPILE_S)


def default() -> pathlib.Path:
    """The default folder: one per kind of processor, as a home may be shared by several machines.

    JAX's cache key leaves the processor out, and code for one may hold instructions that another lacks.
    """
    if own := os.environ.get(VARIABLE):
        return pathlib.Path(own).expanduser()
    kind = hashlib.sha1(hardware.processor('flags', 'Features').encode()).hexdigest()[:8]
    return user_cache() / f'{platform.machine()}-{kind}'


class Watch:
    """Warns through `say` of functions that are compiled a second time and the like, or raises `StrictError` where `strict`."""

    def __init__(self, say: Callable[[str], None] = print, strict: bool = False):
        self.say, self.strict = say, strict

    def __call__(self, name: str, fn: Callable) -> 'Watched':
        return Watched(name, fn, self)

    def warn(self, text: str) -> None:
        """Warns of something that a careful run should not have.

        Raises:
          StrictError: where `strict`.
        """
        if self.strict:
            raise StrictError(f'{text}; without --strict this is a warning')
        self.say(f'warning: {text}')


class Watched:
    """A jitted function that should compile for its first arguments only; `lower` and `trace` as the function's own."""

    def __init__(self, name: str, fn: Callable, watch: Watch):
        self._name, self._fn, self._watch, self._first = name, fn, watch, None
        self.lower, self.trace = fn.lower, fn.trace

    def __call__(self, *args):
        before = STATS.programs
        out = self._fn(*args)
        if STATS.programs > before:
            self._compiled(args)
        return out

    def _compiled(self, args) -> None:
        now = signature(args)
        if self._first is None:
            self._first = now
            return
        text = f'{self._name} was compiled again: {difference(self._first, now)}'
        self._first = now
        self._watch.warn(f'{text}; every new shape costs a compilation')


def signature(args) -> dict[str, str]:
    """{path: dtype, shape and sharding}, on which a compiled function depends; donated arrays have them, too."""
    found = {}
    for path, x in tree_paths.leaves(args):
        where = getattr(getattr(x, 'sharding', None), 'spec', '')
        found[path] = (
            f'{x.dtype}{list(x.shape)} {where}'.strip() if hasattr(x, 'dtype') else type(x).__name__)
    return found


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    """The first three arguments that changed, by path."""
    changed = [f"argument {key} was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"
               for key in {**before, **after} if before.get(key) != after.get(key)]
    more = f' and {len(changed) - 3} more' if len(changed) > 3 else ''
    return '; '.join(changed[:3]) + more if changed else ('with the same shapes and places, so something that it closes over '
                                                         'or a JAX setting has changed')
