"""Random damage to the newest checkpoint of a real run: found, named, and passed over for the one before.

Tried by breaking: the checksum left out, the size left out, unfinished folders taken for checkpoints.
"""
import os
import random
import shutil

import pytest

from bigjax.train import checkpoint, manifest
from tests.trust.test_kills import straight  # noqa: F401  a fixture

pytestmark = pytest.mark.trust


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def remove(path, rng):
    path.unlink()


HARMS = {flip: 'a flipped bit', cut: 'a file cut short', remove: 'a missing file'}


@pytest.mark.parametrize('harm', HARMS)
def test_it_is_found_and_the_one_before_is_used(straight, tmp_path, tally, battery, harm):  # noqa: F811
    workdir, many = straight('recurrent'), 200 if battery == 'full' else 20
    older, newest = checkpoint.steps(workdir / checkpoint.FOLDER)[-2:]
    files = sorted(p for p in (workdir / checkpoint.FOLDER / str(newest)).rglob('*') if p.is_file() and p.stat().st_size)
    rng = random.Random(harm.__name__)
    for i in range(many):
        run = tmp_path / str(i)
        shutil.copytree(workdir, run)
        path = run / rng.choice(files).relative_to(workdir)
        harm(path, rng)
        said = []
        with tally(f'a checkpoint with {HARMS[harm]}', 'found, named in a line, and the one before it used'):
            keeper = checkpoint.Checkpoints(run, say=said.append)
            assert keeper.steps()[-1] == older, path
            lost = path.name == manifest.NAME and harm is remove  # without it, it was never finished
            words = f'the checkpoint of step {newest} {"was not written to its end" if lost else "is damaged"}'
            assert len(said) == 1 and words in said[0] and keeper.damaged[0]['step'] == newest, (path, said)
            keeper.close()
        shutil.rmtree(run)
