"""`rerun`: a past run with the code that it had, compared to the bit."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bigjax.data import sources
from bigjax.data.sources import ArraySource
from launch import rerun
from tests.launch.tools import ROOT, copy_of_code, git, repository
from tests.refused import refused

COMMAND = 'python -m experiments.mnist1d --variant=mlp --workdir=/old --config.data=fake'


@pytest.mark.parametrize(('command', 'expected'), [
    (COMMAND, ['--variant=mlp', '--config.data=fake']),
    ('python -m experiments.x --workdir /old --config.a="b c"', ['--config.a=b c']),
    ('python -m experiments.x -workdir=/elsewhere --workdir=/elsewhere -workdir /elsewhere --strict', ['--strict']),
    ('python -m experiments.x train -config.a 1 --config.b -2 -variant mlp --nocheck', [
        '--config.a=1', '--config.b=-2', '--variant=mlp', '--nocheck']),
    ('python -m experiments.x --compile_cache=/a --out /a --variant --flagfile=/a', ['--variant=--flagfile=/a'])])
def test_the_command_with_another_workdir(command, expected):
    argv = rerun.command_of({'command': command}, pathlib.Path('/new'))
    assert argv[:2] == [sys.executable, '-m'] and argv[3:] == [*expected, '--workdir=/new']


@pytest.mark.parametrize('command', [
    '', None, 'rm -rf /', 'python script.py', 'python -m', 'python -m os', 'python -m experiments.a.b', 'python "', 'x' * 3000])
def test_a_command_of_something_else_is_not_run(command):
    with refused('rerun/not-an-experiment'):
        rerun.command_of({'command': command}, pathlib.Path('/new'))


@pytest.mark.parametrize('rest', [
    'plan', 'eval', 'train --flagfile=/x', '--flagfile /x', '-flagfile=/x', '--undefok=x', '--replay=/x', '--', '---workdir=/x',
    '-- --workdir=/x', '--inside=/x', '--topology=x', '--workdirs=/x', '--nowhere', 'x' * 3000, '--config.=x', '--no\x1b[2J'])
def test_what_does_not_train_is_not_repeated(rest):
    with refused('rerun/not-repeated') as error:
        rerun.command_of({'command': f'python -m experiments.x {rest}'}, pathlib.Path('/new'))
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_value_that_is_missing_does_not_take_our_workdir():
    with refused('rerun/not-an-experiment', '--variant'):
        rerun.command_of({'command': 'python -m experiments.x --variant'}, pathlib.Path('/new'))


def test_a_sample_tells_data_apart():
    x = np.arange(300.0)
    same = sources.sample(ArraySource({'x': x}))
    assert same == sources.sample(ArraySource({'x': x.copy()})) and len(same) == 12
    changed = x.copy()
    changed[0] += 1e-9
    others = [ArraySource({'x': changed}), ArraySource({'x': x[:299]}), ArraySource({'y': x}),
              ArraySource({'x': x.astype(np.float32)}), ArraySource({'x': x[:, None]})]
    assert len({same, *map(sources.sample, others)}) == 6


def record(folder, losses, **more):
    """A workdir with these training losses."""
    folder.mkdir()
    run = {'experiment': 'mnist1d', 'status': 'done', 'config': {}, 'command': COMMAND, **more}
    (folder / 'run.json').write_text(json.dumps(run))
    lines = [json.dumps({'step': i, 'train/loss': loss}) + '\n' for i, loss in enumerate(losses, 1)]
    (folder / 'metrics.jsonl').write_text(''.join(lines))
    return run


@pytest.mark.parametrize(('again', 'code', 'words'), [
    ([1.0, 0.5, 0.25], 0, 'equal to the last bit: 3 losses'),
    ([1.0, 0.5, 0.25000000000000006], 4, 'loss 3 of 3, step 3: 0.25 then'),
    ([1.0, 0.5], 1, 'only 2 of 3 losses'), ([1.0, 0.5, 0.25, 0.1], 0, 'equal')])
def test_what_is_not_equal_is_named(tmp_path, capfd, again, code, words):
    run = record(tmp_path / 'a', [1.0, 0.5, 0.25], versions={'jax': '1'}, info={'sample': {'train': 'x'}})
    record(tmp_path / 'b', again, versions={'jax': '2'}, info={'sample': {'train': 'y'}})
    assert rerun.compare(tmp_path / 'a', run, tmp_path / 'b', 20) == code
    said = capfd.readouterr().err
    assert words in said and 'versions: jax 1 -> 2' in said and "{'train': 'y'} now" in said


def test_a_commit_that_is_not_here_is_one_line(tmp_path):
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('no git checkout')
    with refused('rerun/no-commit', '0' * 40, 'git fetch'):
        rerun.code_of(tmp_path, {'git': {'sha': '0' * 40}}, tmp_path / 'code')


@pytest.mark.parametrize('sha', ['HEAD', '--orphan=x', '0' * 39, '0' * 40 + '\n', 'A' * 40, 'main'])
def test_a_commit_is_forty_digits(tmp_path, sha):
    with refused('rerun/bad-commit'):
        rerun.code_of(tmp_path, {'git': {'sha': sha}}, tmp_path / 'code')


NEW = 'diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+x = 1\n'
CHANGED = 'diff --git a/README b/README\n--- a/README\n+++ b/README\n@@ -1 +1 @@\n-one\n+two\n'


@pytest.fixture
def patched(tmp_path, monkeypatch):
    """(a repository's commit, a function that writes a run's patch and puts it on)."""
    if shutil.which('git') is None:
        pytest.skip('no git')
    root, workdir = tmp_path / 'root', tmp_path / 'run'
    root.mkdir()
    workdir.mkdir()
    (root / 'README').write_text('one\n')
    sha = git(repository(root), 'rev-parse', 'HEAD')
    monkeypatch.setattr(rerun, 'ROOT', root)

    def put(patch, **more):
        (workdir / 'source.patch').write_text(patch)
        return rerun.code_of(workdir, {'git': {'sha': sha}}, tmp_path / 'code', **more)
    return put


def test_what_a_patch_changes_is_said(patched, capfd):
    code = patched(NEW.format('experiments/mine.py') + NEW.format('bigjax/a.py') + CHANGED)
    assert (code / 'README').read_text() == 'two\n' and (code / 'experiments' / 'mine.py').exists()
    assert 'source.patch changes experiments/mine.py, bigjax/a.py, README' in capfd.readouterr().err


@pytest.mark.parametrize('path', ['jax.py', 'sitecustomize.py', 'bigjax.py', 'launch/x.py'])
def test_a_patch_that_adds_modules_is_run_only_where_it_is_trusted(patched, capfd, path):
    with refused('rerun/untrusted-patch', path, '--trust_patch'):
        patched(NEW.format(path))
    assert f'source.patch changes {path}' in capfd.readouterr().err


def test_a_trusted_patch_is_put_on(patched):
    assert (patched(NEW.format('jax.py'), trusted=True) / 'jax.py').exists()


def test_a_patch_of_another_user_is_run_only_where_it_is_trusted(patched, monkeypatch):
    own = os.getuid()
    monkeypatch.setattr(os, 'getuid', lambda: own + 1)
    with refused('rerun/untrusted-patch', 'another user', '--trust_patch'):
        patched(CHANGED)


@pytest.mark.parametrize('name', ['../x', '.git/hooks/post-checkout', '/x'])
def test_a_patch_stays_in_the_code(patched, tmp_path, name):
    with refused('rerun/patch-does-not-apply'):
        patched(NEW.format(name), trusted=True)
    assert not (tmp_path / 'x').exists()


@pytest.mark.slow
def test_the_code_that_had_changes_is_run_again_with_them(tmp_path):
    """In a clone: an edit and a new file that were never committed decide the numbers, and are gone when it is run again."""
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('no git checkout')
    clone = tmp_path / 'clone'
    subprocess.run(['git', 'clone', '-q', ROOT, clone], check=True)
    copy_of_code(clone)  # as it is here, committed or not
    git(clone, 'add', '-A')
    git(clone, 'commit', '-q', '--allow-empty', '-m', 'as it is')
    script = clone / 'experiments' / 'mnist1d.py'
    script.write_text(script.read_text().replace('lr=1e-2', "lr=__import__('experiments.rate').rate.LR"))
    (clone / 'experiments' / 'rate.py').write_text('LR = 0.0042\n')
    env = {**os.environ, 'PYTHONPATH': str(clone)}
    flags = ['--config.steps=30', '--config.log_every=1', '--config.data=fake', '--config.population=1']
    run = lambda *words: subprocess.run([sys.executable, '-m', *words], cwd=clone, env=env, capture_output=True, text=True,
                                        timeout=300)
    assert run('experiments.mnist1d', '--variant=mlp', f'--workdir={tmp_path}/w', *flags).returncode == 0
    git(clone, 'checkout', '-q', '.')
    (clone / 'experiments' / 'rate.py').unlink()
    done = run('launch', 'rerun', f'{tmp_path}/w')
    assert done.returncode == 0 and 'equal to the last bit: 20 losses, steps 1 to 20' in done.stderr, done.stderr
    (tmp_path / 'w' / 'source.patch').unlink()
    done = run('launch', 'rerun', f'{tmp_path}/w')
    assert done.returncode == 4 and 'not recorded' in done.stderr and 'loss 2 of 20' in done.stderr, done.stderr
