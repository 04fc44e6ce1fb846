"""Checkpoints from the outside, on any machine and without the code of their model.

    python -m bigjax.checkpoint ls DIR             the checkpoints of a run: step, size, when, good or damaged
    python -m bigjax.checkpoint verify DIR         every file against what was written, in every row of a table's folder; exit
                                                   4 where one differs
    python -m bigjax.checkpoint cat DIR [REGEX]    the arrays whose path matches: shape, dtype, mean, deviation, min, max
    python -m bigjax.checkpoint diff DIR DIR       the arrays in which two differ, and by how much

DIR is a workdir (a folder, or gs://BUCKET/FOLDER), its checkpoints folder, or one checkpoint; of several the newest good one
is taken.
"""
import datetime
import re

import numpy as np

from bigjax.errors import DONE, NO, UserError, command
from bigjax.io import array_diff, storage, subcommands


def folders(path) -> list:
    """The checkpoints that a path names, oldest first, finished or not.

    Raises:
      UserError: there is none.
    """
    from bigjax.checkpoint import manager, manifest
    path = storage.place(path)
    if storage.children(path / manager.NAME) or storage.facts(path / manifest.NAME):
        return [path]
    base = path / manager.FOLDER if storage.children(path / manager.FOLDER) else path
    found = [base / name for name in sorted((n for n in storage.children(base) if n.isdigit()), key=int)]
    if not found:
        raise UserError(f'{path}: got no checkpoint there; fix: name the workdir of a run that has saved one, or a checkpoint',
                        code='checkpoint/none')
    return found


def ls(path: str) -> int:
    """Prints the checkpoints of a run."""
    from bigjax.checkpoint import manifest
    from bigjax.io.text import table
    rows = []
    for folder in folders(path):
        files = storage.files(folder).values()
        size, when = sum(f.size for f in files), max((f.when for f in files), default=0)
        if files:  # else it was removed meanwhile
            rows.append([folder.name, f'{size / 2**20:.1f} MiB', f'{datetime.datetime.fromtimestamp(when):%Y-%m-%d %H:%M:%S}',
                         manifest.fault(folder, deep=False) or 'finished'])
    print(table(['step', 'size', 'written', ''], rows))
    return DONE


def verify(path: str) -> int:
    """Compares every file of every checkpoint with its manifest.

    A run may be going on: a checkpoint that it removes meanwhile is passed over, and the newest may be unfinished.
    """
    from bigjax.checkpoint import manifest
    bad = 0
    for run in runs(path):
        found = folders(run)
        for folder in found:
            fault = manifest.fault(folder)
            if fault and not manifest.sealed(folder):
                if not storage.children(folder):
                    continue
                if folder == found[-1] and len(found) > 1:
                    print(f'{folder}: unfinished: it is being written, or the run was stopped while it was')
                    continue
            bad += bool(fault)
            print(f'{folder}: {fault or "good"}')
    return NO if bad else DONE


def runs(path) -> list:
    """The folder itself, or the rows of a table's folder that have checkpoints."""
    from bigjax.checkpoint import manager
    path = storage.place(path)
    if storage.children(path / manager.FOLDER):
        return [path]
    return [path / name for name in storage.children(path) if storage.children(path / name / manager.FOLDER)] or [path]


def cat(path: str, pattern: str = '') -> int:
    """Prints the arrays whose path matches."""
    from bigjax.checkpoint import manager
    from bigjax.io.text import table
    try:
        matches = re.compile(pattern).search
    except re.error as error:
        raise UserError(f"got the pattern '{pattern}', expected a regular expression ({error})",
                        code='checkpoint/regex') from None
    rows = []
    for name, x in sorted(manager.arrays(manager.newest(path)).items()):
        if matches(name):
            rows.append([name, str(list(x.shape)), str(x.dtype), *_figures(np.asarray(x))])
    if not rows:
        raise UserError(f"{path}: got '{pattern}', which matches no array's path; fix: leave it out to show all",
                        code='checkpoint/no-match')
    print(table(['', 'shape', 'dtype', 'mean', 'std', 'min', 'max'], rows))
    return DONE


def _figures(x: np.ndarray) -> list[str]:
    if not x.size:
        return ['', '', '', '']
    values = np.abs(x) if np.iscomplexobj(x) else x.astype(np.float64)
    return [f'{f(values):.6g}' for f in (np.mean, np.std, np.min, np.max)]


def diff(first: str, second: str) -> int:
    """Prints the arrays in which two checkpoints differ; bit for bit."""
    from bigjax.checkpoint import manager
    ours, theirs = (manager.arrays(manager.newest(p)) for p in (first, second))
    differences = array_diff.lines(ours, theirs, first, second)
    print(array_diff.shown(differences, len(ours)))
    return NO if differences else DONE


VERBS = {'ls': (ls, 1, 1), 'verify': (verify, 1, 1), 'cat': (cat, 1, 2), 'diff': (diff, 2, 2)}


@command('bigjax.checkpoint')
def main(argv: list[str]) -> int:
    """One command; returns its exit code."""
    return subcommands.run('checkpoint', __doc__, VERBS, argv)
