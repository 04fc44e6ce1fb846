"""The tables of the project: on the real tree they are what the records say; on made-up trees, how they come about."""
import json
import pathlib

import pytest

from bigjax.io import atomic
from bigjax.report import tables as results
from bigjax.runs.reader import read_metrics, read_run
from tests import workdirs

ROOT = pathlib.Path(__file__).parents[2]
ALL = '# Experiments\n\n<!-- results:begin -->\nold\n<!-- results:end -->\n\nafter\n'


def test_the_projects_own_tables():
    if not (ROOT / 'experiments').is_dir():
        pytest.skip('bigjax is installed without its checkout')
    assert results.main(['--check'], ROOT) == 0


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / 'project'
    (root / 'experiments').mkdir(parents=True)
    (root / 'experiments' / 'mnist1d.py').write_text('"""MNIST-1D: four architectures.\n\nMore.\n"""\n')
    (root / 'experiments' / 'README.md').write_text(ALL)
    (root / 'README.md').write_text('# x\n<!-- results:begin mnist1d -->\n<!-- results:end -->\n')
    return root


def cells(text, row):
    line, = [line for line in text.splitlines() if line.startswith(f'| {row} |')]
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_from_workdirs_to_tables(tree, tmp_path, capsys):
    workdirs.table(tmp_path / 'job')
    workdirs.make(tmp_path / 'other', experiment='experiments.lstm', variant='', members=1, expected=False)
    assert results.main(['add', str(tmp_path / 'job'), str(tmp_path / 'other')], tree) == 0
    assert 'experiments/results/mnist1d/cnn' in capsys.readouterr().out
    text = (tree / 'experiments' / 'README.md').read_text()
    assert text.startswith('# Experiments\n\n<!-- results:begin -->\n### lstm\n')
    assert text.endswith('<!-- results:end -->\n\nafter\n')
    assert '### mnist1d\n\nMNIST-1D: four architectures.\n\n| row |' in text
    assert 'old' not in text
    run = read_run(tmp_path / 'job' / 'cnn')
    row = cells(text, 'cnn')
    mean, std = map(float, row[3].split(' ± '))
    assert mean == pytest.approx(run['final']['test/accuracy']['mean'], abs=1e-3)
    assert std == pytest.approx(run['final']['test/accuracy']['std'], abs=1e-3)
    assert [row[i] for i in (1, 2, 4, 5, 6)] == ['test/accuracy', '0.94', '✓', '4', '6,000']
    assert row[9].strip('`+') == run['git']['sha'][:10] if run['git']['sha'] else True
    missed = cells(text, 'gru')
    assert missed[2] == '0.91'
    assert 'missed' in missed[4] and '0.03' in missed[4]
    assert 'Greydanus & Kobak 2024, section 2' in text
    main = (tree / 'README.md').read_text()
    assert '###' not in main
    assert 'lstm' not in main
    assert cells(main, 'cnn') == row
    assert results.main(['--check'], tree) == 0
    before = text
    assert results.main([], tree) == 0
    assert (tree / 'experiments' / 'README.md').read_text() == before


def test_a_papers_number_is_never_ours(tree, tmp_path):
    """A metric that was not measured is a dash, and a hand-edited 'ok' or 'measured' changes nothing."""
    workdirs.make(tmp_path / 'run', accuracy=0.5)
    results.main(['add', str(tmp_path / 'run')], tree)
    path = tree / 'experiments' / 'results' / 'mnist1d' / 'cnn' / 'run.json'
    run = json.loads(path.read_text())
    run['expected'][0].update(measured=0.94, ok=True)
    atomic.write_json(path, run)
    results.main([], tree)
    row = cells((tree / 'README.md').read_text(), 'cnn')
    assert row[2] == '0.94'
    assert row[3].startswith('0.5') or row[3].startswith('0.4')
    assert 'missed' in row[4]
    del run['final']['test/accuracy']
    atomic.write_json(path, run)
    results.main([], tree)
    row = cells((tree / 'README.md').read_text(), 'cnn')
    assert row[2:4] == ['0.94', '–'] and 'missed' in row[4]


def test_check_says_what_is_out_of_date_and_changes_nothing(tree, tmp_path, capsys):
    workdirs.make(tmp_path / 'run')
    results.main(['add', str(tmp_path / 'run')], tree)
    page = tree / 'README.md'
    edited = page.read_text().replace('0.94 ', '0.99 ', 1)
    page.write_text(edited)
    capsys.readouterr()
    assert results.main(['--check'], tree) == 4
    err = capsys.readouterr().err
    assert 'README.md' in err and 'python -m bigjax.results' in err
    assert 'experiments/README.md' not in err
    assert page.read_text() == edited
    assert results.main([], tree) == 0
    assert results.main(['--check'], tree) == 0


def test_step_times_beside_their_targets(tree):
    """A case that is slower than its target is shown as missed, one without a peer is not shown."""
    page = tree / 'README.md'
    page.write_text(page.read_text() + '<!-- bench:begin -->\nold\n<!-- bench:end -->\n')
    row = {'parameters': 61706, 'batch_size': 64, 'ours_ms': 9.0, 'peer_ms': 10.0, 'ratio': 0.9, 'ratio_min': 0.8,
           'ratio_max': 1.2, 'versions': {'jax': '1', 'peer': '2'}}
    rows = [{**row, 'case': 'lenet5'}, {**row, 'case': 'gpt', 'ratio': 1.2}, {**row, 'case': 'mlp', 'ratio': None}]
    (tree / 'experiments' / 'results' / 'bench').mkdir(parents=True)
    (tree / 'experiments' / 'results' / 'bench' / 'a-machine.json').write_text(json.dumps(rows))
    assert results.main([], tree) == 0
    text = page.read_text()
    assert 'old' not in text and '| a-machine |' in text and '| mlp |' not in text
    assert cells(text, 'lenet5')[1:] == ['61,706', '64', '9.0', '10.0', '0.90 (0.80 to 1.20)', '1.1', '✓']
    assert cells(text, 'gpt')[-2:] == ['1.1', '**missed**']


def test_what_did_not_hold_is_shown(tree):
    page = tree / 'README.md'
    page.write_text(page.read_text() + '<!-- trust:begin -->\nold\n<!-- trust:end -->\n')
    row = {'means': 'it goes on', 'tried': 200, 'held': 200, 'worst': {'s to the exit': 1.5, 'steps lost': 0},
           'exits': {'75': 200}}
    kept = {'commit': 'f2182517cb4ef3', 'jax': '1', 'battery': 'full', 'tests': {'passed': 3, 'failed': 1},
            'rows': {'SIGTERM': row, 'SIGKILL': {**row, 'held': 199, 'worst': {}, 'exits': {}}}}
    (tree / 'experiments' / 'results').mkdir(parents=True)
    (tree / 'experiments' / 'results' / 'trust.json').write_text(json.dumps(kept))
    assert results.main([], tree) == 0
    text = page.read_text()
    assert '\nold\n' not in text and all(fact in text for fact in ('1 failed, 3 passed', '`f2182517cb`', 'jax 1'))
    assert cells(text, 'SIGTERM')[1:] == ['200', 'it goes on', '200', '1.5 s to the exit, 0 steps lost', '75']
    assert cells(text, 'SIGKILL')[1:] == ['200', 'it goes on', '**199**', '', '']


def test_without_records_or_pages_there_is_nothing_to_check(tmp_path, tree):
    assert results.main(['--check'], tmp_path) == 0
    assert results.main([], tree) == 0
    assert results.main(['--check'], tree) == 0


def test_a_kept_record_is_small_whole_and_without_folders(tree, tmp_path):
    workdir = workdirs.make(tmp_path / 'deep' / 'run', variant='a,b', steps=40_000)
    run = json.loads((workdir / 'run.json').read_text())
    run['info']['source'] = '/home/someone/data/mnist1d.npz'
    run['config']['data_dir'] = '/home/someone/data'
    atomic.write_json(workdir / 'run.json', run)
    folder, = results.add(workdir, tree)
    assert folder.name == 'a_b'
    lines, all_lines = read_metrics(folder), read_metrics(workdir)
    assert len(all_lines) == 1000
    assert len(lines) <= 2 * results.LINES
    assert (lines[0], lines[-1]) == (all_lines[0], all_lines[-1])
    assert [x for x in lines if 'test/accuracy' in x] == [x for x in all_lines if 'test/accuracy' in x]
    kept = read_run(folder)
    assert kept['command'] == 'python -m experiments.mnist1d --variant=a,b --workdir=run'
    assert kept['info']['source'] == 'mnist1d.npz'
    assert kept['config']['data_dir'] == 'data'
    assert {k: v for k, v in kept.items() if k not in ('command', 'info', 'config')} == {
        k: v for k, v in run.items() if k not in ('command', 'info', 'config')}
    assert '/home' not in (folder / 'run.json').read_text()


@pytest.mark.parametrize('text, expected', [
    ('test/accuracy', 'test/accuracy'), ('data:-1', 'data:-1'), ('a/b/c', 'a/b/c'), ('steps/s', 'steps/s'),
    ('https://host/a/b', 'https://host/a/b'), ('--workdir=/tmp/x/y', '--workdir=y'), ('/a/b and /c/d', 'b and d'),
    ('folder:/data/cats', 'folder:cats')])
def test_only_absolute_paths_are_shortened(text, expected):
    assert results.without_folders(text) == expected


@pytest.mark.parametrize('argv, code, shown', [
    (['add', '{}/running'], 'results/unfinished', "'running'"),
    (['add', '{}/failed'], 'results/unfinished', "'failed'"),
    (['add', '{}/empty'], 'runs/none', 'empty'),
    (['add'], 'results/add', 'add'),
    (['add', '{}/running', '--check'], 'results/add', '--check'),
    (['remove'], '', "'remove'"),
])
def test_errors(tree, tmp_path, capsys, refusals, argv, code, shown):
    (tmp_path / 'empty').mkdir()
    for status in ('running', 'failed'):
        workdirs.make(tmp_path / status, status=status, steps=400)
    assert results.main([arg.format(tmp_path) for arg in argv], tree) == 2
    assert shown in capsys.readouterr().err and refusals[-1:] == [code][:bool(code)]
    assert not (tree / 'experiments' / 'results').exists()


@pytest.mark.parametrize('text, code, shown', [
    ('<!-- results:begin -->\nno end\n', 'results/marks', '<!-- results:end -->'),
    ('<!-- results:begin nonesuch -->\n<!-- results:end -->\n', 'results/unknown-experiment', "'nonesuch'"),
])
def test_a_broken_page(tree, capsys, refusals, text, code, shown):
    (tree / 'README.md').write_text(text)
    assert results.main([], tree) == 2
    assert shown in capsys.readouterr().err and refusals[-1] == code
