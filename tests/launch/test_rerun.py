"""`rerun`: a past run with the code that it had, compared to the bit."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bigjax import UserError
from bigjax.data.sources import ArraySource
from bigjax.train import source
from launch import rerun

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = 'python -m experiments.mnist1d --variant=mlp --workdir=/old --config.data=fake'


@pytest.mark.parametrize(('command', 'expected'), [
    (COMMAND, ['--workdir=/new', '--variant=mlp', '--config.data=fake']),
    ('python -m experiments.x --workdir /old --config.a="b c"', ['--workdir=/new', '--config.a=b c'])])
def test_the_command_with_another_workdir(command, expected):
    argv = rerun.command_of({'command': command}, pathlib.Path('/new'))
    assert argv[:2] == [sys.executable, '-m'] and argv[3:] == expected


@pytest.mark.parametrize('command', [
    '', None, 'rm -rf /', 'python script.py', 'python -m', 'python -m os', 'python -m experiments.a.b'])
def test_a_command_of_something_else_is_not_run(command):
    with pytest.raises(UserError, match='not one of an experiment'):
        rerun.command_of({'command': command}, pathlib.Path('/new'))


def test_a_sample_tells_data_apart():
    x = np.arange(300.0)
    same = source.sample(ArraySource({'x': x}))
    assert same == source.sample(ArraySource({'x': x.copy()})) and len(same) == 12
    changed = x.copy()
    changed[0] += 1e-9
    others = [ArraySource({'x': changed}), ArraySource({'x': x[:299]}), ArraySource({'y': x}),
              ArraySource({'x': x.astype(np.float32)}), ArraySource({'x': x[:, None]})]
    assert len({same, *map(source.sample, others)}) == 6


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
    assert words in said and 'versions: jax 1 -> 2' in said and 'the data is another' in said


def test_a_commit_that_is_not_here_is_one_line(tmp_path):
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('no git checkout')
    with pytest.raises(UserError, match=r'commit 0{40}: not in .*git fetch'):
        rerun.code_of(tmp_path, {'git': {'sha': '0' * 40}}, tmp_path / 'code')


@pytest.mark.slow
def test_the_code_that_had_changes_is_run_again_with_them(tmp_path):
    """In a clone: an edit and a new file that were never committed decide the numbers, and are gone when it is run again."""
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('no git checkout')
    clone = tmp_path / 'clone'
    subprocess.run(['git', 'clone', '-q', ROOT, clone], check=True)
    for path in ('bigjax', 'launch', 'experiments'):  # as they are here, committed or not
        shutil.copytree(ROOT / path, clone / path, dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__', 'results'))
    git = lambda *words: subprocess.run(['git', '-C', clone, '-c', 'user.name=x', '-c', 'user.email=x', *words], check=True)
    git('add', '-A')
    git('commit', '-q', '--allow-empty', '-m', 'as it is')
    script = clone / 'experiments' / 'mnist1d.py'
    script.write_text(script.read_text().replace('lr=1e-2', "lr=__import__('experiments.rate').rate.LR"))
    (clone / 'experiments' / 'rate.py').write_text('LR = 0.0042\n')
    env = {**os.environ, 'PYTHONPATH': str(clone)}
    flags = ['--config.steps=30', '--config.log_every=1', '--config.data=fake', '--config.population=1']
    run = lambda *words: subprocess.run([sys.executable, '-m', *words], cwd=clone, env=env, capture_output=True, text=True,
                                        timeout=300)
    assert run('experiments.mnist1d', '--variant=mlp', f'--workdir={tmp_path}/w', *flags).returncode == 0
    git('checkout', '-q', '.')
    (clone / 'experiments' / 'rate.py').unlink()
    done = run('launch', 'rerun', f'{tmp_path}/w')
    assert done.returncode == 0 and 'equal to the last bit: 20 losses, steps 1 to 20' in done.stderr, done.stderr
    (tmp_path / 'w' / 'source.patch').unlink()
    done = run('launch', 'rerun', f'{tmp_path}/w')
    assert done.returncode == 4 and 'were not kept' in done.stderr and 'loss 2 of 20' in done.stderr, done.stderr
