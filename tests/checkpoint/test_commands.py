"""Checkpoints looked at from the outside."""
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.checkpoint import commands as verbs
from bigjax.checkpoint import manager, manifest
from tests.checkpoint.test_manifest import flip


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A workdir with two checkpoints."""
    workdir = tmp_path_factory.mktemp('run')
    keeper = manager.Checkpoints(workdir)
    for step in (4, 8):
        params = {'kernel': jnp.arange(6.0).reshape(2, 3) * step, 'bias': jnp.ones(3)}
        keeper.save(step, {'state': {'params': params, 'key': jax.random.key(7)}})
    keeper.close()
    return workdir


def test_ls(run, capsys):
    assert verbs.main(['ls', str(run)]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ['4', '8'] and all(row.endswith('finished') for row in rows)


def test_cat(run, capsys):
    assert verbs.main(['cat', str(run), 'kern']) == 0
    [row] = capsys.readouterr().out.splitlines()[2:]
    assert row.split() == ['state/params/kernel', '[2,', '3]', 'float32', '20', '13.6626', '0', '40']
    assert verbs.main(['cat', str(run), 'nothing']) == 2
    assert verbs.main(['cat', str(run), '(']) == 2


def test_verify_finds_damage(run, tmp_path, capsys):
    assert verbs.main(['verify', str(run)]) == 0
    shutil.copytree(run, tmp_path / 'copy')
    flip(max((p for p in (tmp_path / 'copy/checkpoints/4/state').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size))
    assert verbs.main(['verify', str(tmp_path / 'copy')]) == 4
    out = capsys.readouterr().out.splitlines()
    assert 'checksum differs' in out[-2] and out[-1].endswith('8: good')


def test_diff(run, capsys):
    first, second = (str(run / 'checkpoints' / step) for step in ('4', '8'))
    assert verbs.main(['diff', first, first]) == 0
    assert verbs.main(['diff', first, second]) == 4
    out = capsys.readouterr().out.splitlines()
    assert out == ['equal, 3 arrays bit for bit', 'state/params/kernel: 5 of 6 numbers differ, by 20 at most']


@pytest.mark.parametrize(('a', 'b', 'words'), [
    ([1 + 2j, 3], [1 + 2.5j, 3], '1 of 2 numbers differ, by 0.5 at most'),
    ([np.nan, 1.0], [np.nan, 3.0], '1 of 2 numbers differ, by 2 at most'),
    ([np.nan, 1.0], [2.0, 1.0], '1 of 2 numbers differ, 1 of them not finite'),
    ([0.0, 1.0], [-0.0, 1.0], '1 of 2 numbers differ, by 0 at most')])
def test_every_kind_of_difference_has_words(tmp_path, capsys, a, b, words):
    for name, value in (('a', a), ('b', b)):
        manager.write(tmp_path / name, {'x': jnp.asarray(value)})
    assert verbs.main(['diff', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 4
    assert capsys.readouterr().out.strip() == f'x: {words}'


def test_the_code_of_the_model_is_not_needed(run):
    """Nor Flax, nor optax."""
    every = [['ls', str(run)], ['verify', str(run)], ['cat', str(run)], ['diff', str(run), str(run)]]
    without = "import sys; sys.modules.update(dict.fromkeys(['bigjax.models', 'bigjax.tasks', 'flax', 'optax']))"
    code = (f'{without}; from bigjax.checkpoint import commands\n'
            f'for argv in {every}:\n    print("==", commands.main(argv), argv[0])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    first, *shown = done.stdout.split('== ')
    assert done.returncode == 0 and [part.partition('\n')[0] for part in shown] == [f'0 {argv[0]}' for argv in every], done
    assert all(text.strip() for text in (first, *(part.partition('\n')[2] for part in shown[:-1])))


def test_verify_looks_at_every_row_of_a_table(run, tmp_path, capsys):
    for row in ('a', 'b'):
        shutil.copytree(run, tmp_path / 'table' / row)
    assert verbs.main(['verify', str(tmp_path / 'table')]) == 0
    assert {line.split('/checkpoints')[0].rsplit('/', 1)[-1] for line in capsys.readouterr().out.splitlines()} == {'a', 'b'}
    broken = max((tmp_path / 'table/b/checkpoints').rglob('*'), key=lambda p: p.is_file() and p.stat().st_size)
    broken.write_bytes(broken.read_bytes()[:-1] + b'?')
    assert verbs.main(['verify', str(tmp_path / 'table')]) == 4


def test_beside_a_run_that_goes_on(run, tmp_path, capsys, monkeypatch):
    """The newest is being written, and the oldest is removed while it is looked at."""
    shutil.copytree(run, tmp_path / 'run')
    (tmp_path / 'run/checkpoints/8' / manifest.NAME).unlink()
    fault = manifest.fault

    def gone(folder, deep=True):
        if folder.name == '4':
            shutil.rmtree(folder)
        return fault(folder, deep)

    assert verbs.main(['verify', str(tmp_path / 'run')]) == 0
    monkeypatch.setattr(manifest, 'fault', gone)
    assert verbs.main(['verify', str(tmp_path / 'run')]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3 and out[0].endswith('4: good')
    assert all('8: unfinished: it is being written' in line for line in out[1:])


@pytest.mark.parametrize(('argv', 'code', 'shown'), [
    (['lss'], 'checkpoint/verb', 'verify'), (['diff', 'a'], 'checkpoint/arguments', 'diff'),
    (['ls', '/nowhere'], 'checkpoint/none', '/nowhere')])
def test_wrong_input(capsys, refusals, argv, code, shown):
    assert verbs.main(argv) == 2 and refusals == [code]
    err = capsys.readouterr().err
    assert shown in err and err.count('\n') == 1
