"""The experiment of README.md, word for word, as somebody's own file in an empty folder."""
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from bigjax import cli
from tests.test_experiments import golden_row, module_names

README = pathlib.Path(__file__).parents[1] / 'README.md'


@pytest.fixture
def page(tmp_path):
    """The first Python block under "Write an experiment", saved as mine.py."""
    text = README.read_text().partition('## Write an experiment')[2]
    path = tmp_path / 'mine.py'
    path.write_text(re.search(r'```python\n(.*?)```', text, re.DOTALL)[1])
    return path


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs_from_an_empty_folder(page):
    env = {**os.environ, 'PYTHONPATH': str(README.parent), 'BIGJAX_DATA': ''}
    command = [sys.executable, 'mine.py', '--workdir=run', '--config.data=fake', '--config.steps=3']
    done = subprocess.run(command, cwd=page.parent, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads((page.parent / 'run' / 'run.json').read_text())
    assert 'test/accuracy' in run['final'] and 'mine.py --workdir=run' in run['command']


BARE = '''
import numpy as np
import flax.linen as nn
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Evaluator, Experiment
from bigjax.tasks import classification
import ml_collections


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(x)


def get_config(variant=''):
    return ml_collections.ConfigDict(dict(steps=4, batch_size=8, width=3))


def get_experiment(config):
    assert {reads}
    x = np.eye(24, 5, dtype=np.float32)
    source = ArraySource({{'x': x, 'label': np.arange(24, dtype=np.int32) % 3}})
    return Experiment(Net(), classification.softmax('x'), Data(source, {{'test': source}}), dict(name='sgd', lr=0.1),
                      {{'test': Evaluator('test')}})
'''


def test_without_docstring_open_data_or_shared_keys(tmp_path, capsys):
    """Shared keys that a script leaves alone need not be set nor read; a key that it sets must be read."""
    (tmp_path / 'bare.py').write_text(BARE.format(reads='config.width'))
    assert cli.run(load(tmp_path / 'bare.py'), 'bare', [f'--workdir={tmp_path}/run', '--platform=cpu']) == 0
    (tmp_path / 'unread.py').write_text(BARE.format(reads='True'))
    capsys.readouterr()
    assert cli.run(load(tmp_path / 'unread.py'), 'unread', [f'--workdir={tmp_path}/other']) == 2
    assert 'config.width' in capsys.readouterr().err
    assert cli.run(load(tmp_path / 'bare.py'), 'bare', [f'--workdir={tmp_path}/third', '--config.data=npz:x.npz']) == 2
    assert 'config.data' in capsys.readouterr().err and not (tmp_path / 'third').exists()


def test_the_list_of_experiments_takes_a_script_without_docstring(tmp_path, capsys):
    from experiments import __main__ as listing
    (tmp_path / 'bare.py').write_text(BARE.format(reads='config.width'))
    listing.main(tmp_path)
    assert 'bare' in capsys.readouterr().out


def test_a_script_without_parameters_or_golden_file_is_collected(tmp_path):
    (tmp_path / 'bare.py').write_text(BARE.format(reads='config.width'))
    module = load(tmp_path / 'bare.py')
    assert module_names(module) == ['']
    with pytest.raises(pytest.fail.Exception, match='BIGJAX_UPDATE_GOLDEN=1'):
        golden_row(module, 'bare', '', tmp_path / 'bare.json')
