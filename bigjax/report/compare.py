"""Several runs side by side: what differs in their configs, what came out, and one metric's curves on the same axes.

    python -m bigjax.compare RUN RUN … [--metric=test/accuracy] [--out=compare.html|compare.png]

Each RUN is a workdir, or a folder of workdirs, all of which take part. The plot is written to compare.html beside the first
workdir, unless --out names another file.
"""
import argparse
import pathlib
from collections.abc import Mapping, Sequence

from bigjax.errors import DONE, UserError, command
from bigjax.io import atomic, storage
from bigjax.io.nested import leaves
from bigjax.io.text import counted, printable, table
from bigjax.report.charts import Series, chart, legend, logarithmic
from bigjax.report.html import escape, section, table_html
from bigjax.report.page import page
from bigjax.runs.reader import read_metrics
from bigjax.runs.summary import commit, device, number, runs_in, seconds, spread

MISSING = '–'
PAGE = 'compare.html'


@command('compare')
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog='python -m bigjax.compare', description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='+', metavar='RUN', help='a workdir, or a folder of workdirs')
    parser.add_argument('--metric', default='', help='whose curves to draw, and the only one in the table')
    parser.add_argument('--out', default='', help=f'an .html page or a .png image; {PAGE} beside the first workdir')
    options = parser.parse_args(argv)
    out = storage.place(options.out or PAGE)
    if out.suffix not in ('.html', '.png'):
        raise UserError(f'--out={options.out}: got the ending {out.suffix!r}, expected .html or .png', code='compare/out')
    runs = load(options.runs)
    if not options.out:
        out = beside(next(iter(runs.values()))[0])
    metric = choose_metric(runs, options.metric)
    head, rows = comparison(runs, [metric] if options.metric else None)
    print(table(*_printable(head, rows)))
    series = curves(runs, metric)
    try:
        if out.suffix == '.html':
            atomic.write_text(out, _page(runs, metric, series))
        else:
            _png(out, metric, series)
    except OSError as error:
        raise UserError(f'--out={out}: it cannot be written ({error.strerror})', code='compare/out') from None
    print(f'plot of {metric}: {storage.absolute(out)}')
    return DONE


def beside(workdir):
    """The page's place by default: the folder that holds the first workdir, which is the table's for a row of one."""
    return storage.absolute(workdir).parent / PAGE


def load(folders: Sequence) -> dict[str, tuple[pathlib.Path, dict]]:
    """{label: (workdir, run record)}; the labels are the shortest ends of the paths that tell them apart.

    Raises:
      UserError: a folder is missing or holds no run.
    """
    found = {}
    for folder in folders:
        folder = storage.place(folder)
        if not storage.exists(folder):
            raise UserError(f'{folder}: there is no such folder', code='compare/no-folder')
        for name, run in runs_in(folder).items():
            path = folder / name
            found[storage.absolute(path)] = (path, run)
    depth = 1
    label = lambda path: '/'.join(path.parts[-depth:])
    while len({label(path) for path in found}) < len(found):
        depth += 1
    return {label(path): value for path, value in found.items()}


def choose_metric(runs: Mapping[str, tuple], wanted: str) -> str:
    """The metric to draw: the one asked for, else the first published one, else the first final one, else the loss."""
    known = list(dict.fromkeys(name for path, _ in runs.values() for line in read_metrics(path) for name in line
                               if name != 'step' and not name.endswith(('/std', '/members'))))
    if wanted:
        if wanted not in known:
            raise UserError(f'--metric={wanted}: no run has it; there are {", ".join(known) or "none"}',
                            code='compare/no-metric')
        return wanted
    published = [row['metric'] for _, run in runs.values() for row in run.get('expected') or []]
    final = [name for _, run in runs.values() for name in run.get('final') or {} if not name.endswith('/examples')]
    return next(iter([name for name in [*published, *final, 'train/loss', *known] if name in known]), '')


def differences(runs: Mapping[str, tuple]) -> list[str]:
    """The config keys, flattened, in which the runs are not all alike."""
    configs = [leaves(run.get('config') or {}) for _, run in runs.values()]
    keys = dict.fromkeys(key for config in configs for key in config if not key.startswith('published.'))
    return [key for key in keys if any(config.get(key, MISSING) != configs[0].get(key, MISSING) for config in configs)]


def comparison(runs: Mapping[str, tuple], metrics: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of text: a run a row."""
    keys = differences(runs)
    if metrics is None:
        metrics = list(dict.fromkeys(name for _, run in runs.values() for name in run.get('final') or {}
                                     if not name.endswith('/examples')))
    several = len({run['experiment'] for _, run in runs.values()}) > 1
    head = ['run', *(['experiment'] if several else []), *keys, *metrics, 'seeds', 'steps', 'time', 'device', 'commit',
            'status']
    rows = []
    for label, (path, run) in runs.items():
        config = leaves(run.get('config') or {})
        final = [(run.get('final') or {}).get(name) or _last(path, name) for name in metrics]
        rows.append([label, *([run['experiment']] if several else []),
                     *(_value(config.get(key, MISSING)) for key in keys), *(spread(v['mean'], v['std']) for v in final),
                     number(run.get('population') or 1), number(run.get('steps')), seconds(run.get('wall_seconds')),
                     device(run), commit(run), run['status']])
    return head, rows


def _last(path, metric) -> dict:
    """The newest value of a metric that is not among the final ones."""
    for line in reversed(read_metrics(path)):
        if line.get(metric) is not None:
            return {'mean': line[metric], 'std': line.get(f'{metric}/std')}
    return {'mean': None, 'std': None}


def curves(runs: Mapping[str, tuple], metric: str) -> list[Series]:
    """One curve a run that has the metric."""
    found = []
    for i, (label, (path, _)) in enumerate(runs.items()):
        lines = [line for line in read_metrics(path) if metric in line]
        if lines:
            found.append(Series(label, [line['step'] for line in lines], [line[metric] for line in lines],
                                [line.get(f'{metric}/std') for line in lines], i))
    return found


def _page(runs, metric, series) -> str:
    head, rows = comparison(runs)
    same = {(run.get('git') or {}).get('sha') for _, run in runs.values()}
    differing = ', '.join(differences(runs)) or 'nothing of their configs'
    verdict = ('done', f'{counted(len(runs), "run")}, differing in {differing}.')
    figure = f'<figure><figcaption>{escape(metric)}</figcaption>{legend(series)}{chart(series)}</figure>'
    cells = [[escape(cell) for cell in row] for row in rows]
    line = 'the same commit' if len(same) == 1 else f'{len(same)} commits'
    body = section('Runs', table_html([escape(cell) for cell in head], cells)) + section('Curves', figure)
    return page('Comparison', verdict, line, body)


def _png(out, metric, series) -> None:
    try:
        import matplotlib
    except ImportError:
        raise UserError(f'--out={out}: a .png needs matplotlib; fix: pip install matplotlib, or write an .html',
                        code='compare/no-matplotlib') from None
    matplotlib.use('agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout='constrained')
    for s in series:
        y = [float('nan') if v is None else v for v in s.y]
        line, = axes.plot(s.x, y, label=_plain(s.name), linewidth=1.6)
        low = [v - (d or 0.0) for v, d in zip(y, s.std, strict=True)]
        high = [v + (d or 0.0) for v, d in zip(y, s.std, strict=True)]
        axes.fill_between(s.x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    values = [v for s in series for v in s.y if v is not None]
    if values and logarithmic(values):
        axes.set_yscale('log')
    axes.set_xlabel('step')
    axes.set_title(_plain(metric), loc='left', fontsize=11)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def _printable(head, rows):
    return [printable(cell) for cell in head], [[printable(cell) for cell in row] for row in rows]


def _plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: it takes $ for a formula, and hides what begins with _."""
    name = name.replace('$', r'\$')
    return f' {name}' if name.startswith('_') else name


def _value(value) -> str:
    return 'none' if value is None else f'{value:g}' if isinstance(value, float) else str(value)
