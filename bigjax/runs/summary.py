"""The outcome of a run: means and spreads, measured beside expected, in words and tables."""
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.errors import UserError
from bigjax.experiment import Expected
from bigjax.io import storage
from bigjax.io.text import clock, table
from bigjax.runs.reader import FINISHED, read_metrics, read_run


def summarise(members: Sequence[float]) -> dict:
    """{'mean', 'std' (of a sample, n - 1; None for one), 'members'}; nine digits, which is every bit of a float32."""
    short = lambda v: float(f'{float(v):.9g}')
    values = np.atleast_1d(np.asarray(members, np.float64))
    with np.errstate(invalid='ignore'):  # inf - inf
        std = short(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': short(np.mean(values)), 'std': std, 'members': [short(v) for v in values]}


def judge(final: Mapping[str, Mapping], expected: Iterable[Expected | Mapping]) -> list[dict]:
    """Compares measured with expected: the fields of `Expected` with 'measured' (a mean), 'spread' (its std) and 'ok'.

    Args:
      final: {metric: {'mean', 'std', …}}; a metric that is not there is measured None, and not ok.
    """
    rows = []
    for e in expected:
        row = {key: e[key] if isinstance(e, Mapping) else getattr(e, key)
               for key in ('metric', 'value', 'tolerance', 'std', 'runs', 'source', 'better')}
        found = final.get(row['metric'])
        measured = None if found is None else found['mean']
        ok = False
        if measured is not None and math.isfinite(measured):
            off = {'higher': row['value'] - measured, 'lower': measured - row['value'],
                   None: abs(measured - row['value'])}[row['better']]
            ok = off <= row['tolerance'] + 1e-9 * max(1.0, abs(row['value']))  # 0.97 is within 0.03 of 0.94
        rows.append({**row, 'measured': measured, 'spread': None if found is None else found['std'], 'ok': ok})
    return rows


def number(value: Any) -> str:
    """Four digits that matter; whole numbers as they are; '–' for what is not there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return '–'
    if isinstance(value, str | bool):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f'{int(value):,}'
    if 1e-3 <= abs(value) < 1e5:
        return f'{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}'
    return f'{value:.3e}'


def spread(mean: float | None, std: float | None) -> str:
    """'0.9432 ± 0.0043': the deviation to two digits, the mean to the same place."""
    if mean is None or not std or not math.isfinite(std):
        return number(mean)
    place = 1 - math.floor(math.log10(std))
    return f'{mean:,.{max(0, place)}f} ± {std:,.{max(0, place)}f}' if place < 7 else f'{mean:.3e} ± {std:.1e}'


def paper(row: Mapping) -> str:
    """The published number of a row of `judge` as it was published, with its spread and how it is compared."""
    sign = {'higher': '≥ ', 'lower': '≤ ', None: ''}[row.get('better')]
    runs = f' ({row["runs"]} runs)' if row.get('runs') else ''
    deviation = f' ± {row["std"]:g}' if row.get('std') else ''
    return f'{sign}{row["value"]:,.10g}{deviation}{runs}'


def differences(run: Mapping) -> Mapping[str, list[str]]:
    """{config key: [its value in the run, its value in the paper]}; {} where the run has the paper's setup."""
    return (run.get('info') or {}).get('differs') or {}


def other_setup(differs: Mapping[str, list[str]], most: int = 3) -> str:
    """'steps 40 (paper: 6000), batch_size 8 (paper: 100)' of the first keys that differ."""
    shown = [f'{key} {ours} (paper: {paper})' for key, (ours, paper) in list(differs.items())[:most]]
    return ', '.join([*shown, *([f'{len(differs) - most} more'] if len(differs) > most else [])])


def judged_table(name: str, rows: Mapping[str, tuple[Mapping, list, Mapping]]) -> str:
    """Measured beside expected, {row: (final metrics, judged, differences)}, for the terminal; all metrics where nothing was
    expected."""
    lines = []
    for row, (final, judged, differs) in rows.items():
        for e in judged:
            mark = "not the paper's setup" if differs else 'within tolerance' if e['ok'] else 'MISSED'
            lines.append([row or name, e['metric'], spread(e['measured'], e['spread']), paper(e), mark, e['source']])
        if not judged:
            lines += [[row or name, metric, spread(s['mean'], s['std']), '–', '', ''] for metric, s in final.items()]
    notes = [f"{row or name}: not the paper's setup: {other_setup(differs)}" for row, (_, judged, differs) in rows.items()
             if judged and differs]
    return '\n'.join([table(['', 'metric', 'measured', 'paper', '', 'source'], lines), *notes])


def seconds(value: float | None) -> str:
    """'42 s', '3:07', '1:02:09'."""
    return '–' if value is None else f'{value:.0f} s' if value < 60 else clock(value)


def device(run: Mapping) -> str:
    """'cpu x 8', 'NVIDIA H100'."""
    devices = run.get('devices') or {}
    count = devices.get('count') or 1
    name = devices.get('kind') or devices.get('platform') or '–'
    return name if count == 1 else f'{count} x {name}'


def commit(run: Mapping) -> str:
    """Ten digits of the commit, with '+' where files had changed since."""
    git = run.get('git') or {}
    return (git.get('sha') or '–')[:10] + ('+' if git.get('dirty') else '')


def title(run: Mapping) -> str:
    """'mnist1d cnn'."""
    return ' '.join(filter(None, (run['experiment'].rsplit('.', 1)[-1], run.get('variant'))))


def verdict(run: Mapping) -> tuple[str, str]:
    """(kind, one line) where the kind is 'match', 'miss', 'done', 'running' or 'failed'."""
    status, rows = run.get('status'), run.get('expected') or []
    if status == 'running':
        return 'running', f'Running, at step {run.get("steps", 0):,}.'
    if status not in FINISHED:
        return 'failed', f'{str(status).capitalize()}: {run.get("error") or "no word why"}'
    if not rows:
        return 'done', 'Done; nothing was published to compare it with.'
    missed = [row for row in rows if not row['ok']]
    shown = '; '.join(f'{row["metric"]} {spread(row["measured"], row["spread"])}, published {paper(row)}'
                      for row in (missed or rows)[:2])
    if differs := differences(run):
        return 'done', f"Done; not the paper's setup: {other_setup(differs)}. {shown}."
    if missed:
        return 'miss', f'Misses what was published: {shown}.'
    return 'match', f'Matches what was published: {shown}.'


def _places(folder, levels: int = 2) -> list[str]:
    """The sub-folders that are runs; where there is none, those one level below, as in a folder of tables."""
    names = storage.children(folder)
    found = [name for name in names if storage.exists(folder / name / 'run.json')]
    if found or levels < 2:
        return found
    return [f'{name}/{below}' for name in names for below in _places(folder / name, levels - 1)]


def runs_in(folder) -> dict[str, dict]:
    """{name of the sub-folder: its run record}, of a table or of a folder of tables; {'': record} of a run's own folder.

    Raises:
      UserError: it holds none.
    """
    def read(path):
        run = read_run(path)
        if run['status'] == 'running' and (lines := read_metrics(path)):
            run['steps'] = lines[-1]['step']  # run.json is not written at every step
        return run

    folder = storage.place(folder)
    if storage.exists(folder / 'run.json'):
        return {'': read(folder)}
    found = {name: read(folder / name) for name in _places(folder)}
    if not found:
        raise UserError(f'{folder}: no run in it (neither run.json nor */run.json); name the --workdir of a run',
                        code='runs/none')
    return dict(sorted(found.items(), key=lambda item: item[1].get('started') or ''))
