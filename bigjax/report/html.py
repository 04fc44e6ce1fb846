"""The report of a run, or of a folder of runs: one HTML file with everything in it, for people.

    python -m bigjax.report WORKDIR        writes WORKDIR/report.html from the records that are there
"""
import base64
import datetime
import html
import json
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.errors import DONE, UserError, command
from bigjax.io import atomic, storage
from bigjax.io.nested import leaves
from bigjax.io.text import counted
from bigjax.metrics.confusion import Confusion
from bigjax.report.charts import Series, chart, legend
from bigjax.report.page import page
from bigjax.report.spikes import spikes
from bigjax.runs import artifacts
from bigjax.runs.reader import read_metrics
from bigjax.runs.summary import (
    commit,
    device,
    differences,
    number,
    other_setup,
    paper,
    runs_in,
    seconds,
    spread,
    title,
    verdict,
)

SPLITS = ('train', 'val', 'test')  # their colours, in this order; other splits follow
LARGEST_CONFUSION = 26  # classes; above it, the most frequent confusions are listed
SPIKES = 10  # that are listed in words; all are marked in the chart

PAGE = 'report.html'


def write(workdir):
    """Writes `report.html` of a run, or of a folder with a run in each sub-folder, and returns its path.

    Raises:
      UserError: the folder holds no run.
    """
    workdir = storage.place(workdir)
    runs = runs_in(workdir)
    text = _run_page(workdir, runs['']) if '' in runs else _table_page(workdir, runs)
    atomic.write_text(workdir / PAGE, text)
    return workdir / PAGE


@command('report')
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if len(argv) != 1 or argv[0].startswith('-'):
        raise UserError('got no single folder, expected one; fix: python -m bigjax.report WORKDIR', code='report/usage')
    print(write(argv[0]))
    return DONE


def _run_page(workdir, run) -> str:
    metrics, kind_verdict = read_metrics(workdir), verdict(run)
    found = artifacts.load(workdir)
    sections = [
        _expected(run), _final(run),
        section('Curves', ''.join(_charts(metrics))),
        *(section(_words(name), _confusion(value)) for name, value in found.items() if isinstance(value, Confusion)),
        section('Samples', ''.join(_sample(n, v) for n, v in found.items() if not isinstance(v, Confusion))),
        section('Again', f'<pre class="command">{escape(run["command"])}</pre>' if run.get('command') else ''),
        _details('Config', _pairs(leaves(run.get('config') or {}))),
        _details('Environment', _pairs(_environment(run))),
        _details('Data', _pairs(_facts(run.get('info') or {}))),
    ]
    return page(title(run), kind_verdict, _headline(run), ''.join(sections))


def _wall_seconds(runs: Sequence[Mapping]) -> float:
    """The time that all rows took: rows side by side overlap, and rows that were resumed later have gaps between them."""
    taken = [run.get('wall_seconds') or 0 for run in runs]
    try:
        began = [datetime.datetime.fromisoformat(run['started']).timestamp() for run in runs]
    except (KeyError, TypeError, ValueError):
        return sum(taken)
    return min(sum(taken), max(b + t for b, t in zip(began, taken, strict=True)) - min(began))


def _table_page(workdir, runs) -> str:
    """Rows side by side, each linked to its own report."""
    experiments = {run['experiment'] for run in runs.values()}
    kinds = [verdict(run)[0] for run in runs.values()]
    met = sum(kind == 'match' for kind in kinds)
    judged = sum(kind in ('match', 'miss') for kind in kinds)
    if 'running' in kinds or 'failed' in kinds:
        worst = 'failed' if 'failed' in kinds else 'running'
        text = f'{kinds.count("failed")} failed, {kinds.count("running")} running, of {len(kinds)} rows.'
    elif judged:
        worst = 'match' if met == judged else 'miss'
        text = f'{met} of {judged} rows match what was published.'
    else:
        worst, text = 'done', f'{counted(len(kinds), "run")}, nothing published to compare with.'
    metrics = list(dict.fromkeys(m for run in runs.values() for m in _main_metrics(run)))
    body = []
    for name, run in runs.items():
        label = run.get('variant') or name
        cells = [f'<a href="{urllib.parse.quote(name)}/{PAGE}">{escape(label)}</a>']
        for metric in metrics:
            row = next((r for r in run.get('expected') or [] if r['metric'] == metric), None)
            value = (run.get('final') or {}).get(metric) or {'mean': None, 'std': None}
            measured = f'<b>{escape(spread(value["mean"], value["std"]))}</b>{_mark(row, run)}'
            cells += [measured, escape(paper(row)) if row else '–']
        facts = (number(run.get('population')), number(run.get('parameters')), number(run.get('steps')),
                 seconds(run.get('wall_seconds')), run['status'])
        cells += map(escape, facts)
        body.append(cells)
    head = ['', *(cell for m in metrics for cell in (escape(m), 'paper')), 'seeds', 'parameters', 'steps', 'time', '']
    first = next(iter(runs.values()))
    sections = [section('Results', table_html(head, body) + _sources(runs.values())),
                section('Curves', ''.join(_shared_charts(workdir, runs, metrics))),
                _details('Environment', _pairs(_environment(first)))]
    name = ', '.join(sorted(e.rsplit('.', 1)[-1] for e in experiments))
    line = f'{counted(len(runs), "row")} · {seconds(_wall_seconds(list(runs.values())))} · {escape(device(first))}'
    return page(name, (worst, text), line, ''.join(sections))


def _headline(run) -> str:
    parts = [f'{number(run.get("steps"))} steps', seconds(run.get('wall_seconds')), device(run)]
    if run.get('parameters'):
        parts.insert(0, f'{number(run["parameters"])} parameters')
    if (run.get('population') or 1) > 1:
        parts.insert(1, f'{run["population"]} seeds')
    if run.get('steps_per_second'):
        parts.append(f'{number(run["steps_per_second"])} steps/s')
    return ' · '.join(escape(part) for part in parts)


def _main_metrics(run) -> list[str]:
    """The metrics of a run that the table shows: the published ones, else its first final ones."""
    published = list(dict.fromkeys(row['metric'] for row in run.get('expected') or []))
    return published or [m for m in run.get('final') or {} if not m.endswith('/examples')][:2]


def _mark(row, run) -> str:
    if row is None:
        return ''
    if differs := differences(run):
        return f' <span class="note" title="{escape(other_setup(differs))}">other setup</span>'
    return ' <span class="match" title="within the tolerance">✓</span>' if row['ok'] else (
        ' <span class="miss" title="outside the tolerance">missed</span>')


def _expected(run) -> str:
    rows = run.get('expected') or []
    body = [[escape(r['metric']), f'<b>{escape(spread(r["measured"], r["spread"]))}</b>{_mark(r, run)}', escape(paper(r)),
             f'± {r["tolerance"]:g}'] for r in rows]
    head = ['', 'measured', 'published', 'tolerance']
    return section('Measured and published', table_html(head, body) + _sources([run]) if rows else '')


def _sources(runs) -> str:
    names = dict.fromkeys(row['source'] for run in runs for row in run.get('expected') or [])
    return f'<p class="note">Published in: {escape("; ".join(names))}</p>' if names else ''


def _final(run) -> str:
    """The other final metrics."""
    shown = {r['metric'] for r in run.get('expected') or []}
    rows = [[escape(name), escape(spread(v['mean'], v['std'])), escape(' '.join(map(number, v['members'])))]
            for name, v in (run.get('final') or {}).items() if name not in shown and not name.endswith('/examples')]
    many = (run.get('population') or 1) > 1
    head = ['', 'at the end', 'each seed'] if many else ['', 'at the end']
    return section('Other metrics' if shown else 'Metrics', table_html(head, [row[:len(head)] for row in rows])
                    if rows else '')


def grouped(metrics: Sequence[Mapping]) -> dict[str, list[Series]]:
    """{'loss': curves of train/loss, val/loss, …}: one chart a metric, its splits together; speed comes last."""
    names = dict.fromkeys(name for line in metrics for name in line
                          if name != 'step' and not name.endswith(('/std', '/members', '/examples')))
    groups: dict[str, list[Series]] = {}
    splits = list(SPLITS)
    for name in names:
        split, _, metric = name.partition('/')
        if not metric or split == 'time':
            group, label = _words(metric or split), _words(metric or split)
        else:
            group, label = _words(metric), split
        if split not in splits and split != 'time':
            splits.append(split)
        lines = [line for line in metrics if name in line]
        std = [line.get(f'{name}/std') for line in lines] if any(f'{name}/std' in line for line in lines) else None
        colour = splits.index(split) if split in splits else 7
        groups.setdefault(group, []).append(
            Series(label, [line['step'] for line in lines], [line[name] for line in lines], std, colour))
    groups = {g: sorted(series, key=lambda s: s.colour) for g, series in groups.items() if _informative(g, series)}
    order = lambda group: (group != 'loss', group in ('learning rate', 'grad norm'), groups[group][0].colour == 7)
    return {group: groups[group] for group in sorted(groups, key=order)}


def _informative(group, series) -> bool:
    """Whether a chart is worth its place: a learning rate that changes, a wait for data that is noticeable."""
    values = [y for s in series for y in s.y if y is not None]
    if group == 'learning rate':
        return len(set(values)) > 1
    return group != 'data wait' or max(values, default=0.0) > 0.02


def _charts(metrics) -> list[str]:
    found = []
    for group, series in grouped(metrics).items():
        if max(len(s.x) for s in series) < 2:
            continue
        found_spikes = spikes(series[0].x, series[0].y) if (group, series[0].name) == ('loss', 'train') else []
        names = legend(series) if len(series) > 1 or series[0].name not in (group, 'train') else ''
        note = ' <small>mean and spread of the seeds</small>' if any(s.std for s in series) else ''
        found.append(f'<figure><figcaption>{escape(group)}{note}</figcaption>{names}'
                     f'{chart(series, zero=series[0].colour == 7, marks=[step for step, *_ in found_spikes])}'
                     f'{_spikes(found_spikes)}</figure>')
    return found


def _spikes(found) -> str:
    """A line for each of the first, and the number of the others."""
    short = lambda v: 'not finite' if not math.isfinite(v) else number(round(v)) if abs(v) >= 1000 else f'{v:.3g}'
    before = lambda typical: '' if typical is None else f', about {short(typical)} before'
    lines = [f'loss spike at step {number(step)}: {short(value)}{before(typical)}' for step, value, typical in found[:SPIKES]]
    if len(found) > SPIKES:
        lines.append(f'and {number(len(found) - SPIKES)} more')
    shown = ''.join(f'<div>{escape(line)}</div>' for line in lines)
    return f'<div class="note">{shown}</div>' if shown else ''


def _shared_charts(workdir, runs, metrics) -> list[str]:
    """For each main metric, and the training loss, the curves of all rows."""
    read = {name: read_metrics(workdir / name) for name in runs}
    found = []
    for metric in ['train/loss', *metrics]:
        series = []
        for i, (name, lines) in enumerate(read.items()):
            lines = [line for line in lines if metric in line]
            if lines:
                std = [line.get(f'{metric}/std') for line in lines]
                series.append(Series(runs[name].get('variant') or name, [line['step'] for line in lines],
                                     [line[metric] for line in lines], std, i))
        if series and max(len(s.x) for s in series) > 1:
            found.append(f'<figure><figcaption>{escape(metric)}</figcaption>{legend(series)}{chart(series)}</figure>')
    return found


def _confusion(confusion: Confusion) -> str:
    counts, classes = np.asarray(confusion.counts, np.float64), [str(c) for c in confusion.classes]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(classes) > LARGEST_CONFUSION:
        off = share * (1 - np.eye(len(classes)))
        worst = np.dstack(np.unravel_index(np.argsort(-off, axis=None)[:15], off.shape))[0]
        rows = [[escape(classes[i]), escape(classes[j]), number(int(counts[i, j])), f'{share[i, j]:.0%}']
                for i, j in worst if counts[i, j]]
        return table_html(['is', 'taken for', 'times', 'of its class'], rows)
    head = ''.join(f'<th scope="col"><span>{escape(c)}</span></th>' for c in classes)
    body = ''
    for i, name in enumerate(classes):
        cells = ''.join(
            f'<td class="{"right" if i == j else "wrong"}" style="--p:{share[i, j] * 100:.0f}%" '
            f'title="{escape(name)} taken for {escape(classes[j])}: {share[i, j]:.1%}">'
            f'{number(int(counts[i, j])) if counts[i, j] else ""}</td>' for j in range(len(classes)))
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return (f'<div class="wide"><table class="confusion"><tr><th></th>{head}</tr>{body}</table></div>'
            '<p class="note">Rows: the true classes; columns: the predicted ones; the shade is the share of a row.</p>')


def _sample(name: str, value: Any) -> str:
    if isinstance(value, bytes):
        data = base64.b64encode(value).decode()
        return (f'<figure class="image"><figcaption>{escape(_words(name))}</figcaption>'
                f'<img alt="{escape(name)}" src="data:image/png;base64,{data}"></figure>')
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    return f'<figure class="text"><figcaption>{escape(_words(name))}</figcaption><pre>{escape(text)}</pre></figure>'


def _environment(run) -> dict:
    return {'status': run.get('status'), 'started': run.get('started'), 'commit': commit(run), 'device': device(run),
            'host CPUs': run.get('host_cpus'), 'seed': run.get('seed'), **(run.get('versions') or {})}


def _facts(info) -> dict:
    info = {key: '\n'.join(map(str, value)) if key == 'found' and isinstance(value, list) else value
            for key, value in info.items() if key != 'schema'}  # the lines of 'found' show what it decides
    return {key: value if len(json.dumps(value)) < 300 else f'{json.dumps(value)[:300]} …'
            for key, value in leaves(info).items()}


def _pairs(values: Mapping) -> str:
    shown = {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in values.items()}
    rows = ''.join(f'<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>' for key, value in shown.items())
    return f'<dl>{rows}</dl>' if rows else ''


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML."""
    lines = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in rows)
    return (f'<div class="wide"><table><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead>'
            f'<tbody>{lines}</tbody></table></div>')


def section(name: str, body: str) -> str:
    """A part of the page under its heading; nothing where there is nothing in it."""
    return f'<section><h2>{escape(name)}</h2><div class="body">{body}</div></section>' if body else ''


def _details(name: str, body: str) -> str:
    return f'<details><summary>{escape(name)}</summary>{body}</details>' if body else ''


def _words(name: str) -> str:
    return name.replace('_', ' ')


def escape(value) -> str:
    """Escaped for HTML; half a pair of a surrogate, which JSON can hold and a file cannot, is a question mark."""
    return html.escape(str(value).encode('utf-8', 'replace').decode())
