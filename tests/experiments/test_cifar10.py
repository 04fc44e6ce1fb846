"""Published networks of CIFAR-10 on its whole test set: images, labels, order, names and statistics are right together."""
import os
import pathlib

import pytest

from bigjax import cli
from experiments import cifar10

REAL = pathlib.Path(os.environ.get('BIGJAX_DATA', '') or '/nowhere')


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / 'cifar10_resnets').is_dir() or not (REAL / 'cifar10').is_dir(),
                    reason='BIGJAX_DATA has no cifar10 or no cifar10_resnets')
@pytest.mark.parametrize('depth, error', [(20, 8.27), (56, 6.61)])
def test_published_weights_have_their_published_error(depth, error, capsys):
    place = f'npz:{REAL}/cifar10_resnets/resnet{depth}.npz'
    argv = ['eval', f'--variant=resnet{depth}', f'--init_from={place}', '--config.mesh=data:1']
    assert cli.run(cifar10, 'experiments.cifar10', argv) == 0
    assert f'test/error {error}' in capsys.readouterr().out
