"""The tables of README.md and experiments/README.md, generated from the records of runs.

    python -m bigjax.results               rewrites the tables
    python -m bigjax.results --check       exits 4 where a table does not match the records
    python -m bigjax.results add WORKDIR   keeps the records of a finished run (or of every row) and rewrites the tables

Records are experiments/results/<experiment>/<row>/run.json, with a thinned metrics.jsonl beside it. A table is
between `<!-- results:begin -->` (all experiments) or `<!-- results:begin NAME NAME -->` (only those, without headings)
and `<!-- results:end -->`. A published number is in the column "paper" and nowhere else. The matrix of modes, between
`<!-- modes:begin -->` and `<!-- modes:end -->`, shows experiments/results/modes.json, which
`pytest -m equivalence --modes=experiments/results/modes.json` writes; between `<!-- trust:begin -->` and `<!-- trust:end -->`
is the tally of `pytest -m trust --trust=experiments/results/trust.json`, and between `<!-- bench:begin -->` and
`<!-- bench:end -->` what `python -m bigjax.bench --against=torch --out=experiments/results/bench/MACHINE.json` measured.
"""
import argparse
import ast
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

import bigjax
from bigjax.errors import DONE, NO, UserError, command
from bigjax.io import atomic, storage
from bigjax.metrics import better
from bigjax.runs.reader import FINISHED, read_metrics, read_run
from bigjax.runs.summary import commit, device, differences, judge, number, paper, runs_in, seconds, spread

PAGES = ('README.md', 'experiments/README.md', 'docs/trust.md', 'docs/speed.md')
BLOCK = re.compile(r'(<!-- results:begin(?P<names>[^>]*?) ?-->\n).*?(<!-- results:end -->)', re.DOTALL)
ORDER = {axis: i for i, axis in enumerate(('data', 'zero1', 'fsdp', 'tensor', 'seq', 'expert', 'stage'))}
LINES = 60  # of training metrics, and of evaluations, that a kept record has at most
PATH = re.compile(r'(?<![\w/.])/(?:[\w.+~-]+/)+(?=[\w.+~-])')  # the folders before a file's own name


@command('results')
def main(argv: Sequence[str], root: pathlib.Path | None = None) -> int:
    """The command; returns its exit code. `root` is the checkout."""
    parser = argparse.ArgumentParser(prog='python -m bigjax.results', description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing; exit 4 where a table is out of date')
    parser.add_argument('verb', nargs='?', choices=['add'])
    parser.add_argument('workdirs', nargs='*', metavar='WORKDIR', help='finished runs to keep')
    root = root or pathlib.Path(bigjax.__file__).resolve().parent.parent
    options = parser.parse_args(argv)
    if options.verb and (options.check or not options.workdirs):
        raise UserError('add: name the workdirs of finished runs, without --check', code='results/add')
    for workdir in options.workdirs:
        for path in add(workdir, root):
            print(f'kept {path.relative_to(root)}')
    stale = [page for page, text in pages(root).items() if (root / page).read_text(encoding='utf-8') != text]
    if options.check:
        for page in stale:
            print(f'{page}: its tables do not match the records; fix: python -m bigjax.results', file=sys.stderr)
        return NO if stale else DONE
    for page, text in pages(root).items():
        if page in stale:
            atomic.write_text(root / page, text)
            print(f'rewrote {page}')
    return DONE


def records(root) -> dict[str, dict[str, dict]]:
    """{experiment: {row: run record}}, rows in the order in which they were run."""
    found: dict[str, dict[str, dict]] = {}
    for path in sorted((pathlib.Path(root) / 'experiments' / 'results').glob('*/*/run.json')):
        run = read_run(path.parent)
        if run['status'] not in FINISHED:
            raise UserError(f"{path}: a kept record has the status {run['status']!r}; keep finished runs only",
                            code='results/unfinished')
        found.setdefault(path.parent.parent.name, {})[path.parent.name] = run
    return {name: dict(sorted(rows.items(), key=lambda row: row[1].get('started') or ''))
            for name, rows in sorted(found.items())}


def pages(root) -> dict[str, str]:
    """{page: the text that it should have}, for the pages that have a place for tables."""
    kept, wanted = records(root), {}
    for page in PAGES:
        path = pathlib.Path(root) / page
        text = path.read_text(encoding='utf-8') if path.exists() else ''
        if text.count('<!-- results:begin') != len(BLOCK.findall(text)):
            raise UserError(f'{page}: a <!-- results:begin … --> without its <!-- results:end --> on a line below',
                            code='results/marks')
        text = BLOCK.sub(lambda m, page=page: m[1] + _block(m['names'].split(), kept, root, page) + m[3], text)
        for name, made in (('modes', modes), ('trust', trust), ('bench', bench)):
            place = re.compile(rf'(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)', re.DOTALL)
            text = place.sub(lambda m, made=made: m[1] + made(root) + m[2], text)
        if '<!-- ' in text:
            wanted[page] = text
    return wanted


def modes(root) -> str:
    """Experiments x ways of sharing the work: where eight fake devices gave the numbers of one."""
    path = pathlib.Path(root) / 'experiments' / 'results' / 'modes.json'
    if not path.exists():
        return ''
    kept = json.loads(path.read_text(encoding='utf-8'))
    columns = sorted({m for row in kept['equal'].values() for m in row}, key=lambda m: (m.count(' x '), ORDER.get(m, 9), m))
    mark = {True: '✓', False: '**differs**', None: '–'}
    lines = [_line('', *columns), '|---|' + ':-:|' * len(columns)]
    lines += [_line(name, *[mark[row.get(m)] for m in columns]) for name, row in sorted(kept['equal'].items())]
    return '\n'.join(lines) + f"\n\nRun at `{kept['commit'][:10]}` with jax {kept['jax']}.\n"


def trust(root) -> str:
    """The harms that were done to runs, how often, and what had to hold."""
    path = pathlib.Path(root) / 'experiments' / 'results' / 'trust.json'
    if not path.exists():
        return ''
    kept = json.loads(path.read_text(encoding='utf-8'))
    lines = [_line('done to a run', 'times', 'what has to hold', 'held', 'worst', 'exit codes'), '|---|--:|---|--:|---|---|']
    for what, row in sorted(kept['rows'].items()):
        held = number(row['held']) if row['held'] == row['tried'] else f"**{number(row['held'])}**"
        lines.append(_line(what, number(row['tried']), row['means'], held,
                           ', '.join(f'{value:g} {unit}' for unit, value in row['worst'].items()),
                           ', '.join(row['exits'])))
    outcomes = ', '.join(f'{count} {name}' for name, count in sorted(kept['tests'].items()))
    return '\n'.join(lines) + (f"\n\nTests of the {kept['battery']} battery: {outcomes}, at `{kept['commit'][:10]}` with jax "
                               f"{kept['jax']}.\n")


def _case(row: Mapping) -> str:
    """The network of a row, whose name may end in a formulation: 'lenet / conv'."""
    return row['case'].partition(' / ')[0]


def bench(root) -> str:
    """Step times beside the peer's, a table for each machine."""
    from bigjax.bench import adversarial, decoding, fine_tuning  # models and JAX, which nothing else here needs
    from bigjax.bench.cases import CASES, LARGE, PLAIN
    cases, tables = {**CASES, **LARGE, **adversarial.CASES, **decoding.CASES, **fine_tuning.CASES}, []
    for path in sorted((pathlib.Path(root) / 'experiments' / 'results' / 'bench').glob('*.json')):
        found = json.loads(path.read_text(encoding='utf-8'))
        rows = [row for row in found if row.get('ratio') and (row.get('target') or _case(row) in cases)]
        if not rows:
            continue
        version = str(rows[0]['versions']['peer'])
        peer = 'without it' if version == PLAIN else {'flax': 'Flax', 'transformers': 'transformers'}.get(
            version.split()[0], 'PyTorch')
        lines = [_line(path.stem, 'parameters', 'batch', 'ours, ms', f'{peer}, ms', f'ours / {peer}', 'at most', ''),
                 '|---|--:|--:|--:|--:|--:|--:|---|']
        for row in rows:
            target = row.get('target') or cases[_case(row)].target
            lines.append(_line(
                row['case'], number(row['parameters']), row['batch_size'], f"{row['ours_ms']:.1f}", f"{row['peer_ms']:.1f}",
                f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})", f'{target:.3g}',
                'machine busy' if not row.get('judged', True) else '✓' if row['ratio'] <= target else '**missed**'))
        named = version.removeprefix(f'{peer.lower()} ')
        tables.append('\n'.join(lines) + f"\n\nMedians of pairs, jax {rows[0]['versions']['jax']}"
                      + ('' if version == PLAIN else f', {peer} {named}') + f'.{_rates(rows)}{_peaks(rows)}{_flat(found)}\n')
    return '\n'.join(tables)


def _rates(rows: Sequence[Mapping]) -> str:
    """The tokens per second of generations."""
    rates = [f"{row['case']} {row['examples_per_s']:.1f} (peer {row['examples_per_s'] * row['ratio']:.1f})"
             for row in rows if 'new_tokens' in row]
    return f" New tokens per second: {', '.join(rates)}." if rates else ''


def _peaks(rows: Sequence[Mapping]) -> str:
    """The peaks of memory, where the peer has a process of its own."""
    peaks = [f"{row['case']} {row['ours_peak_bytes'] / 2**30:.2f} (peer {row['peer_peak_bytes'] / 2**30:.2f})"
             for row in rows if row.get('ours_peak_bytes') and row.get('peer_peak_bytes')]
    return f" Peak of memory, GiB: {', '.join(peaks)}." if peaks else ''


def _flat(rows: Sequence[Mapping]) -> str:
    """The cost of the last tokens of a long generation beside that of the first."""
    costs = [f"the last {row['tokens_of_a_part']} tokens of {row['tokens_of_a_part'] * len(row['ms_per_token'])} cost "
             f"{row['last_over_first']:.2f} of the first" for row in rows if 'last_over_first' in row]
    return f" {costs[0].capitalize()}." if costs else ''


def _block(names, kept, root, page) -> str:
    for name in names:
        if name not in kept and not (pathlib.Path(root) / 'experiments' / f'{name}.py').exists():
            raise UserError(f'{page}: results:begin names {name!r}, and there is no such experiment',
                            code='results/unknown-experiment')
    parts = []
    for name in names or kept:
        if name in kept:
            parts.append(('' if names else f'### {name}\n\n{_subject(root, name)}') + table(kept[name]))
    return '\n\n'.join(parts) + '\n' if parts else ''


def table(rows: Mapping[str, Mapping]) -> str:
    """The runs of one experiment as a Markdown table: what the paper reports, and what was measured here."""
    lines = ['| row | metric | paper | ours | | seeds | steps | time | device | commit |',
             '|---|---|--:|--:|---|--:|--:|--:|---|---|']
    sources = {}
    for row, run in rows.items():
        label = _shown(run.get('variant') or row)
        facts = (number(run.get('population') or 1), number(run.get('steps')), seconds(run.get('wall_seconds')),
                 _shown(device(run)), f"`{commit(run).replace('`', '')}`")
        judged = judge(run.get('final') or {}, run.get('expected') or [])
        for e in judged:
            sources[_shown(e['source'])] = None
            mark = 'other setup' if differences(run) else '✓' if e['ok'] else f'**missed** (tolerance {e["tolerance"]:g})'
            lines.append(_line(label, _shown(e['metric']), paper(e), spread(e['measured'], e['spread']), mark, *facts))
        if not judged:
            found = {name: value for name, value in (run.get('final') or {}).items() if not name.endswith('/examples')}
            tested = sorted(found.items(), key=lambda item: (  # first those that say how good it is
                not item[0].startswith('test/'), not better(item[0]) or item[0].endswith('/loss')))
            for metric, value in tested[:2]:
                lines.append(_line(label, _shown(metric), '–', spread(value['mean'], value['std']), '', *facts))
    note = f'\n\nPaper: {"; ".join(sources)}.' if sources else ''
    return '\n'.join(lines) + note


def _shown(text) -> str:
    """Text of a record, escaped: it makes no HTML, link, image or code in Markdown."""
    text = re.sub(r'&(?=#?\w+;)', '&amp;', str(text)).replace('<', '&lt;').replace('>', '&gt;')
    return re.sub(r'[\\`\[\]]', r'\\\g<0>', text)


def _line(*cells) -> str:
    return '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in cells) + ' |'


def _subject(root, name) -> str:
    """The first line of the script's docstring."""
    path = pathlib.Path(root) / 'experiments' / f'{name}.py'
    if not path.exists():
        return ''
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return f'{doc.splitlines()[0]}\n\n' if doc else ''


def add(workdir, root) -> list[pathlib.Path]:
    """Keeps the records of a finished run, or of every run in a folder; returns the folders that were written.

    Raises:
      UserError: there is no run, or one is not finished; then nothing is kept.
    """
    workdir = storage.place(workdir)
    runs = runs_in(workdir)
    for name, run in runs.items():
        if run['status'] not in FINISHED:
            raise UserError(f"{workdir / name}: the run is not finished (status {run['status']!r}); let it end first",
                            code='results/unfinished')
    kept = []
    for name, run in runs.items():
        row = re.sub(r'[^\w.+-]', '_', run.get('variant') or '').lstrip('.')[:100] or 'main'  # never ..
        folder = pathlib.Path(root) / 'experiments' / 'results' / run['experiment'].rsplit('.', 1)[-1] / row
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(folder / 'run.json', without_folders(run))
        atomic.write_text(folder / 'metrics.jsonl',
                         ''.join(atomic.dumps(line) + '\n' for line in thinned(read_metrics(workdir / name))))
        kept.append(folder)
    return kept


def thinned(lines: Sequence[Mapping]) -> list[Mapping]:
    """At most `LINES` lines of training and as many of evaluations, the first and the last of each among them."""
    evaluates = lambda line: any(name.split('/')[0] not in ('step', 'train', 'time') for name in line)
    picked = []
    for part in ([x for x in lines if evaluates(x)], [x for x in lines if not evaluates(x)]):
        n = len(part)
        picked += part if n <= LINES else [part[round(i * (n - 1) / (LINES - 1))] for i in range(LINES)]
    return sorted(picked, key=lambda line: line['step'])


def without_folders(value):
    """Absolute paths anywhere in a record as their last part: records do not publish the folders of a machine."""
    if isinstance(value, str):
        return PATH.sub('', value)
    if isinstance(value, list):
        return [without_folders(v) for v in value]
    if isinstance(value, dict):
        return {key: without_folders(v) for key, v in value.items()}
    return value
