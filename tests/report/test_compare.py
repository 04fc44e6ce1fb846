"""Runs side by side: only what differs, what came out, and the words of the errors."""
import json
import re

import pytest

from bigjax.report import compare
from bigjax.runs import reader
from tests import workdirs


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('runs')
    workdirs.make(root / 'a', accuracy=0.9, lr=0.1, artifacts=False)
    workdirs.make(root / 'b', accuracy=0.8, lr=0.2, members=1, seed=1, artifacts=False)
    workdirs.make(root / 'c', accuracy=0.7, lr=0.2, members=1, status='running', artifacts=False)
    return root


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder in which the command runs, where nothing is left."""
    monkeypatch.chdir(tmp_path)


def table(out):
    """{label: {column: cell}} of the printed table."""
    lines = [line for line in out.splitlines() if line.strip()]
    spans = [m.span() for m in re.finditer(r'─+', lines[1])]
    cells = lambda line: [line[a:b].strip() for a, b in spans]
    head = cells(lines[0])
    return {row[0]: dict(zip(head, row, strict=True)) for row in map(cells, lines[2:2 + 3])}


def test_the_table(runs, capsys):
    assert compare.main([str(runs / 'a'), str(runs / 'b'), str(runs / 'c')]) == 0
    rows = table(capsys.readouterr().out)
    assert set(rows['a']) == {'run', 'population', 'optimizer.lr', 'test/accuracy', 'test/loss', 'seeds', 'steps',
                              'time', 'device', 'commit', 'status'}
    assert [rows[r]['optimizer.lr'] for r in 'abc'] == ['0.1', '0.2', '0.2']
    final = reader.read_run(runs / 'a')['final']['test/accuracy']
    mean, std = map(float, rows['a']['test/accuracy'].split(' ± '))
    assert mean == pytest.approx(final['mean'], abs=1e-3)
    assert std == pytest.approx(final['std'], abs=1e-3)
    assert '±' not in rows['b']['test/accuracy']
    newest = [line['test/accuracy'] for line in reader.read_metrics(runs / 'c') if 'test/accuracy' in line][-1]
    assert float(rows['c']['test/accuracy']) == pytest.approx(newest, abs=1e-4)  # it runs: the newest
    assert [rows[r]['status'] for r in 'abc'] == ['done', 'done', 'running']
    assert [rows[r]['seeds'] for r in 'abc'] == ['4', '1', '1']


def test_a_folder_of_runs_is_all_of_them(runs):
    assert set(compare.load([runs])) == {'a', 'b', 'c'}
    assert set(compare.load([runs, runs / 'a'])) == {'a', 'b', 'c'}  # each once


def test_labels_tell_runs_of_one_name_apart(tmp_path):
    for part in ('x', 'y'):
        workdirs.make(tmp_path / part / 'cnn', artifacts=False)
    assert set(compare.load([tmp_path / 'x' / 'cnn', tmp_path / 'y' / 'cnn'])) == {'x/cnn', 'y/cnn'}


def test_the_curves(runs):
    loaded = compare.load([runs])
    assert compare.choose_metric(loaded, '') == 'test/accuracy'
    series = compare.curves(loaded, 'train/loss')
    assert [s.name for s in series] == ['a', 'b', 'c']
    lines = reader.read_metrics(runs / 'a')
    assert series[0].y == [line['train/loss'] for line in lines]
    assert series[0].std == [line['train/loss/std'] for line in lines]
    assert len({s.colour for s in series}) == 3


@pytest.mark.parametrize('named', [('a', 'b'), ('.',)], ids=str)
def test_the_plot_is_written_beside_the_first_workdir_and_named(runs, tmp_path, capsys, named):
    (runs / 'compare.html').unlink(missing_ok=True)
    assert compare.main([str(runs / name) for name in named]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f': {runs}/compare.html') and (runs / 'compare.html').exists()
    assert not any(tmp_path.iterdir())


def test_folders_of_tables_are_all_their_runs(tmp_path):
    for name in ('one/a', 'one/b', 'two/c'):
        workdirs.make(tmp_path / 'all' / name, artifacts=False, steps=400)
    assert set(compare.load([tmp_path / 'all'])) == {'a', 'b', 'c'}


@pytest.mark.parametrize('name', ['c.html', 'c.png'])
def test_out(runs, tmp_path, capsys, name):
    assert compare.main([str(runs), '--metric=train/loss', f'--out={tmp_path / name}']) == 0
    data = (tmp_path / name).read_bytes()
    if name.endswith('.png'):
        assert data.startswith(b'\x89PNG')
    else:
        text = data.decode()
        assert '3 runs, differing in population, optimizer.lr.' in text
        assert text.count('class="curve"') == 3
        assert 'train/loss' in text
    assert 'test/accuracy' not in capsys.readouterr().out


@pytest.mark.parametrize('argv, code, shown', [
    (['{}/nowhere'], 'compare/no-folder', 'nowhere'),
    (['{}/empty'], 'runs/none', 'empty'),
    (['{}/foreign'], 'workdir/unreadable', 'foreign'),
    (['{}/run', '--metric=test/acuracy'], 'compare/no-metric', 'test/accuracy'),
    (['{}/run', '--out=x.pdf'], 'compare/out', '.html or .png'),
    (['{}/run', '--out={}/no/where.html'], 'compare/out', 'no/where.html'),
    ([], '', 'RUN'),
    (['{}/run', '--metrik=x'], '', '--metrik=x'),
])
def test_errors(tmp_path, capsys, refusals, argv, code, shown):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign' / 'run.json').write_text(json.dumps({'name': 'something else'}))
    workdirs.make(tmp_path / 'run', artifacts=False, steps=400)
    assert compare.main([arg.format(tmp_path) for arg in argv]) == 2
    assert shown in capsys.readouterr().err and refusals[-1:] == [code][:bool(code)]
