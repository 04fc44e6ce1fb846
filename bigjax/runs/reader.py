"""Reads the records that `bigjax.runs.writer` wrote, and checks the kind of every field.

A record may come from another machine, or from a disk that was full; pages and tables rely on the kinds.
"""
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from bigjax.errors import UserError
from bigjax.io import storage
from bigjax.io.safe_read import shallow
from bigjax.io.text import first_line

CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # they move a cursor, or no file can hold them
LARGEST = 1e100  # the sums and squares of larger numbers may overflow


def number(value: Any) -> bool:
    """A finite number, or none."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST)


def deviation(value: Any) -> bool:
    """A finite number that is not negative, or none."""
    return number(value) and (value is None or value >= 0)


def text(value: Any) -> bool:
    """A line of text, or none."""
    return value is None or (isinstance(value, str) and not CONTROL.search(value))


def _kind(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: value is None or isinstance(value, kinds)


def _fields(checks: Mapping[str, Callable], needed: tuple[str, ...] = ()) -> Callable[[Any], bool]:
    """A dict whose fields, where they are there, pass."""
    return lambda value: isinstance(value, dict) and all(key in value and value[key] is not None for key in needed) and all(
        check(value[key]) for key, check in checks.items() if key in value)


SUMMARY = _fields({'mean': number, 'std': deviation, 'members': lambda v: isinstance(v, list) and all(map(number, v))})
EXPECTED = _fields({'metric': text, 'value': number, 'tolerance': deviation, 'std': deviation, 'runs': number, 'source': text,
                    'better': lambda v: v in (None, 'higher', 'lower'), 'measured': number, 'spread': deviation},
                   ('metric', 'value', 'tolerance', 'source', 'ok'))
_seconds = lambda v: isinstance(v, dict) and all(map(deviation, v.values()))
FIELDS = {
    'experiment': lambda v: isinstance(v, str) and len(v) <= 100 and re.fullmatch(r'[\w-]+(\.[\w-]+)*', v), 'variant': text,
    'status': lambda v: isinstance(v, str) and text(v), 'config': lambda v: isinstance(v, dict), 'info': _kind(dict),
    'command': _kind(str), 'error': _kind(str), 'started': text, 'versions': _kind(dict),
    'seconds': _seconds, 'starts': deviation, 'damaged': _kind(list),
    'saved': lambda v: isinstance(v, dict) and all(map(_seconds, v.values())),
    'git': lambda v: v is None or _fields({'sha': text})(v),
    'devices': lambda v: v is None or _fields({'kind': text, 'platform': text, 'count': number})(v),
    **dict.fromkeys(('population', 'parameters', 'steps', 'wall_seconds', 'steps_per_second'), deviation),
    'final': lambda v: v is None or (isinstance(v, dict) and all(text(k) and SUMMARY(s) and {'mean', 'std', 'members'} <= set(s)
                                                                for k, s in v.items())),
    'expected': lambda v: v is None or (isinstance(v, list) and all(map(EXPECTED, v)))}


def read_run(workdir) -> dict:
    """The run.json of a workdir.

    Raises:
      UserError: there is none, it is not one of a run, or a field is not of its kind.
    """
    path = storage.place(workdir) / 'run.json'
    try:
        run = json.loads(storage.read(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f'{workdir}: got a folder without run.json, expected the --workdir of a run',
                        code='workdir/no-run') from None
    except storage.StorageUnavailable:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f'{path}: got no readable run record ({first_line(error)}); fix: remove it or fetch it again',
                        code='workdir/unreadable') from None
    if not isinstance(run, dict) or not {'experiment', 'status', 'config'} <= set(run):
        raise UserError(f'{path}: got JSON without experiment, status or config, expected a run record',
                        code='workdir/unreadable')
    wrong = next((key for key, check in FIELDS.items() if key in run and not check(run[key])), None)
    if wrong or not shallow(run):
        raise UserError(f"{path}: got {wrong or 'contents'} that no run has; fix: remove it or fetch it again",
                        code='workdir/unreadable')
    return run


def read_metrics(workdir) -> list[dict]:
    """metrics.jsonl as one dict per step, in the order of the steps, [] where there is none; only numbers are kept.

    Raises:
      UserError: the file cannot be read.
    """
    path, merged = storage.place(workdir) / 'metrics.jsonl', {}
    try:
        lines = lines_of(path)
    except storage.StorageUnavailable:
        raise
    except (OSError, RecursionError) as error:
        raise UserError(f'{path}: got a file that cannot be read ({first_line(error)}); fix: remove it or fetch it again',
                        code='workdir/unreadable') from None
    for line in lines:
        if 0 <= line['step'] < 2**53:
            merged.setdefault(line['step'], {}).update({k: v for k, v in line.items() if _metric(k, v)})
    return [merged[step] for step in sorted(merged)]


def lines_of(path) -> list[dict]:
    """The complete lines of a metrics file; [] where there is none."""
    try:
        text = storage.text(path)
    except FileNotFoundError:
        return []
    found = []
    for written in text.split('\n'):  # str.splitlines would also split at characters that names may hold
        try:
            line = json.loads(written)
        except ValueError:
            continue
        if isinstance(line, dict) and type(line.get('step')) is int:
            found.append(line)
    return found


def _metric(name: str, value: Any) -> bool:
    if name.endswith('/members'):
        return isinstance(value, list) and all(map(number, value))
    return bool(name and text(name)) and (deviation if name.endswith('/std') else number)(value)
