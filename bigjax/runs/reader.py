"""Reads the records that `bigjax.runs.writer` wrote, and checks the kind of every field.

A record may come from another machine, or from a disk that was full; pages and tables rely on the kinds.
"""
import json
import re
from collections.abc import Callable
from typing import Any

from bigjax.errors import UserError
from bigjax.io import storage
from bigjax.io.safe_read import shallow
from bigjax.io.text import first_line

CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # they move a cursor, or no file can hold them
FINISHED = ('done', 'stopped early')  # the statuses of a run that ended as it was meant to
LARGEST = 1e100  # the sums and squares of larger numbers may overflow


def number(value: Any) -> bool:
    """Whether a value is a finite number, or None."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST)


def count(value: Any) -> bool:
    """Whether a value is a finite number that is not negative, or None."""
    return number(value) and (value or 0) >= 0


def text(value: Any) -> bool:
    """Whether a value is one line of text, or None."""
    return value is None or (isinstance(value, str) and not CONTROL.search(value))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: a type, a predicate, [the kind of every item], {name: the kind of a field that may be
    missing}, or {str: the kind of every value}."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(text(key) and fits(item, kind.get(key, kind.get(str, object)))
                                               for key, item in value.items())
    return isinstance(value, kind) if isinstance(kind, type) else bool(kind(value))


def _row(needed: str, kinds: dict) -> Callable[[Any], bool]:
    """A dict of these kinds in which the fields of `needed` are present and not null."""
    return lambda value: fits(value, kinds) and all(value.get(key) is not None for key in needed.split())


_summary = _row('members', {'mean': number, 'std': count, 'members': [number]})


FIELDS = {
    'experiment': lambda v: isinstance(v, str) and len(v) <= 100 and re.fullmatch(r'[\w-]+(\.[\w-]+)*', v),
    'variant': text, 'status': text, 'command': str, 'error': str, 'started': text, 'config': dict, 'info': dict,
    'versions': dict, 'damaged': list, 'git': {'sha': text}, 'devices': {'kind': text, 'platform': text, 'count': number},
    'seconds': {str: count}, 'saved': {str: {str: count}},
    **dict.fromkeys(('starts', 'population', 'parameters', 'steps', 'wall_seconds', 'steps_per_second'), count),
    'final': {str: lambda v: _summary(v) and {'mean', 'std'} <= v.keys()},
    'expected': [_row('metric value tolerance source ok', {
        'metric': text, 'value': number, 'tolerance': count, 'std': count, 'runs': number, 'source': text,
        'better': (None, 'higher', 'lower').__contains__, 'measured': number, 'spread': count})]}
"""The kinds of the fields of run.json on which pages and tables rely; a field may be null."""


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
    if not isinstance(run, dict) or any(run.get(key) is None for key in ('experiment', 'status', 'config')):
        raise UserError(f'{path}: got JSON without experiment, status or config, expected a run record',
                        code='workdir/unreadable')
    wrong = next((key for key, kind in FIELDS.items() if run.get(key) is not None and not fits(run[key], kind)), None)
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
    kind = [number] if name.endswith('/members') else count if name.endswith('/std') else number
    return bool(name) and text(name) and fits(value, kind)
