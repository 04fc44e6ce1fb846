"""A checkpoint of every released version is read for ever, and its weights compute what they computed.

A version's folder in tests/golden/released is made once, when it is released: python -m tests.test_released
"""
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest

import bigjax
from bigjax.checkpoint import manager, manifest
from bigjax.train import stuck_params
from tests import tiny

RELEASED = pathlib.Path(__file__).parent / 'golden' / 'released'
VERSIONS = ('0.1.0', '0.2.0')  # all of them; in 0.2.0 the manifest has a sum of its own


def outputs(program, carry) -> list:
    """Logits of the reported weights on three fixed inputs."""
    x = np.linspace(-2, 2, 15, dtype=np.float32).reshape(3, 5)
    logits = program.experiment.task.predict(program.apply, program.variables(carry), {'x': x}, None)
    return np.asarray(logits, np.float64).tolist()


@pytest.mark.parametrize('version', VERSIONS)
def test_a_released_checkpoint(version):
    folder = RELEASED / version
    facts = json.loads((folder / 'facts.json').read_text())
    path = manager.newest(folder)
    assert not manifest.fault(path)
    program = tiny.program(best='test/loss')
    carry = program.restore(path)
    assert stuck_params.fingerprints(carry) == facts['fingerprints']
    np.testing.assert_allclose(outputs(program, carry), facts['outputs'], rtol=1e-5, atol=1e-6)


def test_this_version_has_one():
    assert bigjax.__version__ == VERSIONS[-1]
    assert {p.name for p in RELEASED.iterdir()} == set(VERSIONS)


def make() -> None:
    """The folder of this version."""
    jax.config.update('jax_num_cpu_devices', 1)
    folder = RELEASED / bigjax.__version__
    with tempfile.TemporaryDirectory() as workdir:  # Orbax writes its path into the checkpoint
        _, carry = tiny.train(pathlib.Path(workdir), best='test/loss', checkpoint_every=12)
        shutil.copytree(pathlib.Path(workdir) / manager.FOLDER, folder / manager.FOLDER)
    facts = {'fingerprints': stuck_params.fingerprints(carry), 'outputs': outputs(tiny.program(best='test/loss'), carry)}
    (folder / 'facts.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    make()
