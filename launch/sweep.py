"""The verb `sweep`: many runs of one experiment, which differ in some values of its config.

    python -m launch sweep run --on=local:2 --grid=optimizer.lr=0.1,0.01 --grid=seed=0,1 -- python -m experiments.X --workdir=D
    python -m launch sweep table D [--metric=test/accuracy] [--to=FOLDER]

`run` again does what is missing, after a kill, too. Without --grid the arms are those of the experiment's own `sweep()`.
"""
import importlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from bigjax import metrics, sweep
from bigjax.errors import UserError
from bigjax.io import atomic
from bigjax.io.text import printable
from bigjax.io.text import table as table_of
from bigjax.report.charts import Series, chart, legend
from bigjax.report.html import escape, section, table_html
from bigjax.report.page import page
from bigjax.runs.reader import read_run
from bigjax.runs.summary import spread
from launch import arms as workers
from launch import commands
from launch.engines import base as engines
from launch.lines import say
from launch.outcome import DONE, NO


def run(options, names: Sequence[str], command: Sequence[str]) -> int:
    """What is missing of a sweep, on any engine; then its table."""
    if not command:
        raise UserError(f"no command after --; write for example {commands.EXAMPLE.replace('run', 'sweep run')}")
    arms = arms_of(options.grid, command)
    work, root = workers.plan(arms, command, options.together), workers.folder_of(command)
    missing = [each for each in work if not workers.finished(each.folder)]
    say(f'{len(arms)} arms in {len(work)} runs, {len(work) - len(missing)} of them done')
    if missing or options.dry_run:
        inner = [command[0], '-m', 'launch.arms', f'--arms={json.dumps(arms)}', *(['--together'] if options.together else []),
                 '--', *command]
        job = commands.new_job(options, inner)
        shares = min(len(work), options.parallel or engines.engine(job).shares(len(work)))
        code = commands.start(commands.new_job(options, inner, array=shares), detach=options.detach, dry_run=options.dry_run)
        if code != DONE or options.dry_run or options.detach:
            return code
    return show(root, options.metric, options.to)


def show(root, metric: str = '', to: str = '') -> int:
    """Prints the table, best configuration first, and draws it; exit 4 where runs are missing."""
    record, rows = read(pathlib.Path(root).expanduser())
    metric = metric or choose(rows)
    head, lines, best = lines_of(rows, metric)
    print(table_of([printable(cell) for cell in head], [[printable(cell) for cell in line] for line in lines]))
    missing = [sweep.name(row['arm']) for row in rows if row['run'] is None or row['run']['status'] not in workers.FINISHED]
    print(f'{len(rows) - len(missing)} of {len(rows)} arms done' + (f"; missing: {', '.join(missing[:5])}" if missing else '')
          + (f' and {len(missing) - 5} more' if len(missing) > 5 else ''))
    if best:
        print(f'best {metric}: {best}')
    out = pathlib.Path(to or root).expanduser() / 'sweep.html'
    atomic.write_text(out, draw(record, rows, metric))
    print(out)
    return NO if missing else DONE


def arms_of(grids: Sequence[str], command: Sequence[str]) -> list[sweep.Arm]:
    """Those of --grid, else those of the experiment.

    Raises:
      UserError: a grid is not KEY=VALUE,…, two arms are the same, or there are none.
    """
    values: dict[str, list] = {}
    for text in grids:
        key, equals, choices = text.partition('=')
        if not equals or not choices or key in values:
            raise UserError(f'--grid={text}: write KEY=VALUE,VALUE,… once for each key: --grid=optimizer.lr=0.1,0.01')
        values[key] = [_number(choice) for choice in choices.split(',')]
    arms = sweep.grid(values) if values else _own(command)
    names = [sweep.name(arm) for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f'the arm {twice[0]} is there twice; leave one out')
    return arms


def _number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _own(command) -> list[sweep.Arm]:
    from launch.job import Job
    experiment = Job('', '', tuple(command)).experiment
    module = importlib.import_module(f'experiments.{experiment}') if experiment else None
    if module is None or not hasattr(module, 'sweep'):
        raise UserError(f'{experiment or command[0]} offers no sweep(); say what to vary with --grid=KEY=VALUE,VALUE,…')
    return [dict(arm) for arm in module.sweep()]


def read(root: pathlib.Path) -> tuple[dict, list[dict]]:
    """(sweep.json, a row for each arm: {'arm', 'run' or None, 'slice': its members or None}).

    Raises:
      UserError: there is no sweep in the folder, or it is damaged.
    """
    try:
        record = json.loads((root / 'sweep.json').read_text())
        work = workers.plan(record['arms'], record['command'], record['together'])
    except FileNotFoundError:
        raise UserError(f'{root}: no sweep in it (no sweep.json); name the --workdir of a sweep') from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{root}/sweep.json: cannot be read ({error})') from None
    rows = []
    for each in work:
        folder = root / each.folder.name
        run = read_run(folder) if (folder / 'run.json').exists() else None
        for k, place in enumerate(each.arms):
            mine = slice(k * each.members, (k + 1) * each.members) if each.members else None
            rows.append({'arm': record['arms'][place], 'run': run, 'slice': mine, 'place': place})
    return record, sorted(rows, key=lambda row: row['place'])


def values(row: Mapping, metric: str) -> list[float]:
    """The final values of one arm, one a seed."""
    found = ((row['run'] or {}).get('final') or {}).get(metric)
    members = [] if found is None else list(found.get('members') or [found['mean']])
    return members if row['slice'] is None else members[row['slice']]


def choose(rows: Sequence[Mapping]) -> str:
    """The first metric that the paper reports, else the first final one that is no count and no loss, else any."""
    runs = [row['run'] for row in rows if row['run']]
    published = [e['metric'] for run in runs for e in run.get('expected') or []]
    final = [name for run in runs for name in run.get('final') or {} if not name.endswith('/examples')]
    judged = [name for name in final if metrics.better(name) == 'higher']
    return next(iter([*published, *judged, *final]), '')


def lines_of(rows: Sequence[Mapping], metric: str) -> tuple[list[str], list[list[str]], str]:
    """(head, a line for each configuration, seeds taken together, the best first; the best in words)."""
    groups: dict[str, list] = {}
    for row in rows:
        key = sweep.name({k: v for k, v in row['arm'].items() if k != 'seed'})
        groups.setdefault(key, []).append(row)
    keys = list(dict.fromkeys(k for row in rows for k in row['arm'] if k != 'seed'))
    scored = []
    for name, members in groups.items():
        found = [v for row in members for v in values(row, metric) if v is not None and np.isfinite(v)]
        done = sum(row['run'] is not None and row['run']['status'] in workers.FINISHED for row in members)
        mean = float(np.mean(found)) if found else None
        std = float(np.std(found, ddof=1)) if len(found) > 1 else None
        scored.append((mean, [*(str(members[0]['arm'].get(k, '–')) for k in keys), spread(mean, std), str(len(found)),
                              f'{done}/{len(members)}'], name))
    sign = -1 if metrics.better(metric) == 'higher' else 1
    scored.sort(key=lambda row: (row[0] is None, sign * (row[0] or 0.0)))
    best = f'{scored[0][2]}, {scored[0][1][len(keys)]}' if scored and scored[0][0] is not None else ''
    return [*keys, metric or 'metric', 'values', 'arms done'], [line for _, line, _ in scored], best


def draw(record: Mapping, rows: Sequence[Mapping], metric: str) -> str:
    """The page: the table, and the metric over each key that has numbers, one curve for each choice of the others."""
    head, lines, best = lines_of(rows, metric)
    figures = []
    numeric = lambda v: isinstance(v, int | float) and not isinstance(v, bool)
    for key in dict.fromkeys(k for row in rows for k in row['arm'] if k != 'seed'):
        choices = sorted({row['arm'][key] for row in rows if numeric(row['arm'].get(key))})
        if len(choices) < 2:
            continue
        curves: dict[str, dict] = {}
        for row in rows:
            other = sweep.name({k: v for k, v in row['arm'].items() if k not in ('seed', key)})
            if numeric(row['arm'].get(key)):
                curves.setdefault(other, {}).setdefault(row['arm'][key], []).extend(values(row, metric))
        log = choices[0] > 0 and choices[-1] / choices[0] > 30
        place = (lambda v: float(np.log10(v))) if log else float
        series = []
        for other, points in curves.items():
            if at := [v for v in sorted(points) if points[v]]:
                spreads = [float(np.std(points[v], ddof=1)) if len(points[v]) > 1 else 0.0 for v in at]
                means = [float(np.mean(points[v])) for v in at]
                series.append(Series(other, [place(v) for v in at], means, spreads, len(series)))
        if series:
            label = f'log10({key})' if log else key
            names = legend(series) if len(series) > 1 else ''
            drawn = chart(series, x_label=label)
            figures.append(f'<figure><figcaption>{escape(metric)}</figcaption>{names}{drawn}</figure>')
    cells = [[escape(cell) for cell in line] for line in lines]
    body = section('Configurations', table_html([escape(cell) for cell in head], cells))
    body += section('Over one key', ''.join(figures)) if figures else ''
    done = sum(row['run'] is not None and row['run']['status'] in workers.FINISHED for row in rows)
    verdict = ('done' if done == len(rows) else 'running', f'{done} of {len(rows)} arms done; best: {best or "none yet"}.')
    return page('Sweep', verdict, escape(' '.join(record['command'])), body)


def verb(options, names: Sequence[str], command: Sequence[str]) -> int:
    """`sweep run`, `sweep table DIR`."""
    what, *rest = names or ['']
    if what == 'run' and not rest:
        return run(options, names, command)
    if what == 'table' and len(rest) == 1 and not command:
        return show(rest[0], options.metric, options.to)
    raise UserError("write 'sweep run --on=… -- COMMAND', or 'sweep table DIR'")


