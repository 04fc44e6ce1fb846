"""A run that began on eight devices goes on with any other number of them, in any mode, without a line of code."""
import shutil

import jax
import numpy as np
import pytest

from bigjax.runs.reader import read_metrics
from tests import test_experiments as inherited
from tests import tiny

BEFORE = 'fsdp:2,tensor:4'
ONE_AFTER_ANOTHER = {'checkpoint_every': '2', 'log_every': '1', 'eval_every': '4', 'optimizer.lr': '0.001'}


def run(workdir, mesh, steps):
    return inherited.run('llama2', '7b', workdir, mesh=mesh, steps=str(steps), **ONE_AFTER_ANOTHER)


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    """(the workdir after two steps, its carry, losses of the run that was left alone)."""
    workdir, alone = tmp_path_factory.mktemp('begun'), tmp_path_factory.mktemp('alone')
    *_, carry = run(workdir, BEFORE, 2)
    run(alone, BEFORE, 4)
    return workdir, carry, losses(alone)


def losses(workdir):
    return [line['train/loss'] for line in read_metrics(workdir)]


@pytest.mark.slow
@pytest.mark.parametrize('mesh', ['data:1', 'fsdp:2', 'tensor:2', 'zero1:2,seq:2', 'data:2,tensor:2', 'fsdp:4,tensor:2',
                                  'data:8'])
def test_another_topology_goes_on(begun, tmp_path, mesh):
    workdir, carry, expected = begun
    there = tmp_path / 'run'
    shutil.copytree(workdir, there)
    p = inherited.program('llama2', '7b', mesh=mesh, steps='4', **ONE_AFTER_ANOTHER)
    restored = p.restore(there / 'checkpoints' / '2')
    assert tiny.equal(restored['state'].params, carry['state'].params)
    assert tiny.equal(restored['state'].opt_state, carry['state'].opt_state)
    where = jax.tree.leaves(restored['state'].params)[0].sharding
    assert len(where.device_set) == p.mesh.size
    run(there, mesh, 4)
    np.testing.assert_allclose(losses(there), expected, rtol=1e-6)
