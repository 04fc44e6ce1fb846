"""The verb `sweep`: many runs of one experiment, which differ in some values of its config.

    python -m launch sweep run --on=local:2 --grid=optimizer.lr=0.1,0.01 --grid=seed=0,1 -- python -m experiments.X --workdir=D
    python -m launch sweep table D [--metric=test/accuracy] [--to=FOLDER]

A second `run` does what is missing, also after a kill. Without --grid the arms are those of the experiment's own `sweep()`.
"""
import importlib
import json
import pathlib
import subprocess
import sys
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
from bigjax.runs.reader import FINISHED, read_run
from bigjax.runs.summary import spread
from launch import arms as workers
from launch import commands
from launch.engines import base as engines
from launch.job import Job
from launch.lines import log
from launch.outcome import DONE, NO

IMPORTABLE = "import importlib.util as u; print(*(n for n in ('launch', 'bigjax', 'jax') if u.find_spec(n) is None), 'end')"


def run(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Runs the missing runs of a sweep on any engine; then prints its table."""
    if not command:
        raise UserError(f"no command after --; fix: write for example {commands.EXAMPLE.replace('run', 'sweep run')}",
                        code='launch/no-command')
    arms = arms_of(options.grid, command)
    work, root = workers.plan(arms, command, options.together), workers.folder_of(command)
    missing = [each for each in work if not workers.finished(each.folder)]
    log(f'{len(arms)} arms in {len(work)} runs, {len(work) - len(missing)} of them done')
    if missing or options.dry_run:
        inner = [command[0], '-m', 'launch.arms', f'--arms={json.dumps(arms)}', *(['--together'] if options.together else []),
                 '--', *command]
        job = commands.new_job(options, inner)
        if job.kind == 'local' and not options.dry_run:
            check_python(command[0])
        shares = min(len(work), options.jobs or engines.engine(job).shares(len(work)))
        code = commands.start(commands.new_job(options, inner, array=shares), detach=options.detach, dry_run=options.dry_run)
        if code != DONE or options.dry_run or options.detach:
            return code
    return show(root, options.metric, options.to)


def check_python(program: str) -> None:
    """Raises UserError unless the command's Python has what each worker imports.

    The workers run under the command's own Python, which need not be the launcher's.
    """
    try:
        done = subprocess.run([program, '-c', IMPORTABLE], capture_output=True, text=True, timeout=60, check=False)
        missing = done.stdout.split() or [f'{program} -c …']
    except FileNotFoundError:
        return  # the engine reports a program that is not there
    except (OSError, subprocess.TimeoutExpired):
        missing = [f'{program} -c …']
    if missing != ['end']:
        raise UserError(f'{program}: not a Python with all that a sweep imports (fails: {missing[0]}); fix: write the Python '
                        f'of an environment that has bigjax, for example {sys.executable}', code='sweep/python')


def show(root, metric: str = '', to: str = '') -> int:
    """Prints the table, best configuration first, and draws it; exit 4 if runs are missing.

    Args:
      metric: its name, or 'max NAME' or 'min NAME' for one whose direction is not known; '' for the one that `choose` finds.
    """
    record, rows = read(pathlib.Path(root).expanduser())
    metric = metric or choose(rows)
    head, lines, best = lines_of(rows, metric)
    if direction(rows, metric)[0] is None and metric:
        log(f"{metric}: no known direction, so nothing is ranked; fix: add --metric='max {metric}' or --metric='min {metric}'")
    print(table_of([printable(cell) for cell in head], [[printable(cell) for cell in line] for line in lines]))
    missing = [sweep.name(row['arm']) for row in rows if row['run'] is None or row['run']['status'] not in FINISHED]
    print(f'{len(rows) - len(missing)} of {len(rows)} arms done' + (f"; missing: {', '.join(missing[:5])}" if missing else '')
          + (f' and {len(missing) - 5} more' if len(missing) > 5 else ''))
    if best:
        print(f'best {metric}: {best}')
    out = pathlib.Path(to or root).expanduser() / 'sweep.html'
    atomic.write_text(out, draw(record, rows, metric))
    print(out)
    return NO if missing else DONE


def arms_of(grids: Sequence[str], command: Sequence[str]) -> list[sweep.Arm]:
    """The arms of --grid, or without it those of the experiment.

    Raises:
      UserError: a grid is not KEY=VALUE,…, two arms are the same, or there are none.
    """
    values: dict[str, list] = {}
    for text in grids:
        key, equals, choices = text.partition('=')
        if not equals or not choices or key in values:
            raise UserError(f'--grid={text}: expected KEY=VALUE,VALUE,… once per key; fix: write for example '
                            '--grid=optimizer.lr=0.1,0.01',
                            code='sweep/bad-grid')
        values[key] = [_number(choice) for choice in choices.split(',')]
    arms = sweep.grid(values) if values else _own(command)
    names = [sweep.name(arm) for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f'--grid: the arm {twice[0]} occurs twice; fix: leave one out', code='sweep/duplicate-arm')
    return arms


def _number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _own(command) -> list[sweep.Arm]:
    experiment = Job('', '', tuple(command)).experiment
    module = importlib.import_module(f'experiments.{experiment}') if experiment else None
    if module is None or not hasattr(module, 'sweep'):
        raise UserError(f'{experiment or command[0]} has no sweep(); fix: add --grid=KEY=VALUE,VALUE,…',
                        code='sweep/no-arms')
    return [dict(arm) for arm in module.sweep()]


def read(root: pathlib.Path) -> tuple[dict, list[dict]]:
    """Returns (sweep.json, one row per arm: {'arm', 'run' or None, 'slice': its members or None}).

    Raises:
      UserError: there is no sweep in the folder, or it is damaged.
    """
    try:
        record = json.loads((root / 'sweep.json').read_text())
        work = workers.plan(record['arms'], record['command'], record['together'])
    except FileNotFoundError:
        raise UserError(f'{root}: no sweep in it (no sweep.json); fix: name the --workdir of a sweep',
                        code='sweep/none') from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{root}/sweep.json: cannot be read ({error})', code='sweep/damaged') from None
    rows = []
    for each in work:
        folder = root / each.folder.name
        run = read_run(folder) if (folder / 'run.json').exists() else None
        for k, place in enumerate(each.arms):
            members = slice(k * each.members, (k + 1) * each.members) if each.members else None
            rows.append({'arm': record['arms'][place], 'run': run, 'slice': members, 'place': place})
    return record, sorted(rows, key=lambda row: row['place'])


def values(row: Mapping, metric: str) -> list[float]:
    """The final values of one arm, one per seed."""
    found = ((row['run'] or {}).get('final') or {}).get(metric)
    members = [] if found is None else list(found.get('members') or [found['mean']])
    return members if row['slice'] is None else members[row['slice']]


def choose(rows: Sequence[Mapping]) -> str:
    """The first metric that the paper reports, else the first final one where higher is better, else any but counts."""
    runs = [row['run'] for row in rows if row['run']]
    published = [e['metric'] for run in runs for e in run.get('expected') or []]
    final = [name for run in runs for name in run.get('final') or {} if not name.endswith('/examples')]
    scores = [name for name in final if metrics.better(name) == 'higher']
    return next(iter([*published, *scores, *final]), '')


def direction(rows: Sequence[Mapping], metric: str) -> tuple[str | None, str]:
    """('higher', 'lower' or None if unknown; the metric's name), from 'max NAME', the paper's result, or the known names."""
    way, _, name = metric.rpartition(' ')
    expected = [e.get('better') for row in rows if row['run'] for e in row['run'].get('expected') or [] if e['metric'] == name]
    given = {'max': 'higher', 'min': 'lower'}.get(way)
    return given or next(filter(None, expected), None) or metrics.better(name), name


def lines_of(rows: Sequence[Mapping], metric: str) -> tuple[list[str], list[list[str]], str]:
    """Returns (head, one line per configuration over its seeds, the best one in words).

    The best is first; with a metric of unknown direction the order is that of the arms, and there is no best.
    """
    better, metric = direction(rows, metric)
    groups: dict[str, list] = {}
    for row in rows:
        key = sweep.name({k: v for k, v in row['arm'].items() if k != 'seed'})
        groups.setdefault(key, []).append(row)
    keys = list(dict.fromkeys(k for row in rows for k in row['arm'] if k != 'seed'))
    scored = []
    for name, members in groups.items():
        found = [v for row in members for v in values(row, metric) if v is not None and np.isfinite(v)]
        done = sum(row['run'] is not None and row['run']['status'] in FINISHED for row in members)
        mean = float(np.mean(found)) if found else None
        std = float(np.std(found, ddof=1)) if len(found) > 1 else None
        scored.append((mean, [*(str(members[0]['arm'].get(k, '–')) for k in keys), spread(mean, std), str(len(found)),
                              f'{done}/{len(members)}'], name))
    sign = {'higher': -1, 'lower': 1, None: 0}[better]
    scored.sort(key=lambda row: (row[0] is None, sign * (row[0] or 0.0)))
    best = f'{scored[0][2]}, {scored[0][1][len(keys)]}' if better and scored and scored[0][0] is not None else ''
    return [*keys, metric or 'metric', 'values', 'arms done'], [line for _, line, _ in scored], best


def draw(record: Mapping, rows: Sequence[Mapping], metric: str) -> str:
    """The page: the table, and the metric over each numeric key, one curve per choice of the other keys."""
    head, lines, best = lines_of(rows, metric)
    metric = direction(rows, metric)[1]
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
        logarithmic = choices[0] > 0 and choices[-1] / choices[0] > 30
        place = (lambda v: float(np.log10(v))) if logarithmic else float
        series = []
        for other, points in curves.items():
            if at := [v for v in sorted(points) if points[v]]:
                spreads = [float(np.std(points[v], ddof=1)) if len(points[v]) > 1 else 0.0 for v in at]
                means = [float(np.mean(points[v])) for v in at]
                series.append(Series(other, [place(v) for v in at], means, spreads, len(series)))
        if series:
            label = f'log10({key})' if logarithmic else key
            names = legend(series) if len(series) > 1 else ''
            drawn = chart(series, x_label=label)
            figures.append(f'<figure><figcaption>{escape(metric)}</figcaption>{names}{drawn}</figure>')
    cells = [[escape(cell) for cell in line] for line in lines]
    body = section('Configurations', table_html([escape(cell) for cell in head], cells))
    body += section('Over one key', ''.join(figures)) if figures else ''
    done = sum(row['run'] is not None and row['run']['status'] in FINISHED for row in rows)
    verdict = ('done' if done == len(rows) else 'running', f'{done} of {len(rows)} arms done; best: {best or "none yet"}.')
    return page('Sweep', verdict, escape(' '.join(record['command'])), body)


def verb(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Runs `sweep run` or `sweep table DIR`."""
    what, *rest = names or ['']
    if what == 'run' and not rest:
        return run(options, names, command)
    if what == 'table' and len(rest) == 1 and not command:
        return show(rest[0], options.metric, options.to)
    raise UserError("sweep: expected 'run' or 'table'; fix: write 'sweep run --on=… -- COMMAND', or 'sweep table DIR'",
                    code='sweep/usage')


