"""Random damage to the newest checkpoint of a real run: found, named, and passed over for the one before.

Tried by breaking: the checksum left out, the size left out, unfinished folders taken for checkpoints.
"""
import json
import os
import random
import shutil

import pytest

from bigjax.checkpoint import manager, manifest
from tests.trust import runs
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
    older, newest = manager.steps(workdir / manager.FOLDER)[-2:]
    files = sorted(p for p in (workdir / manager.FOLDER / str(newest)).rglob('*') if p.is_file() and p.stat().st_size)
    rng = random.Random(harm.__name__)
    for i in range(many):
        run = tmp_path / str(i)
        shutil.copytree(workdir, run)
        path = run / rng.choice(files).relative_to(workdir)
        harm(path, rng)
        lines = []
        with tally(f'a checkpoint with {HARMS[harm]}', 'found, named in a line, and the one before it used'):
            keeper = manager.Checkpoints(run, say=lines.append)
            assert keeper.steps()[-1] == older, path
            lost = path.name == manifest.NAME and harm is remove  # without it, it was never finished
            words = f'the checkpoint of step {newest} {"was not written to its end" if lost else "is damaged"}'
            assert len(lines) == 1 and words in lines[0] and keeper.damaged[0]['step'] == newest, (path, lines)
            keeper.close()
        shutil.rmtree(run)


def test_run_json_records_it_and_the_run_ends_as_one_left_alone(straight, tmp_path, tally):  # noqa: F811
    code, out = runs.run('recurrent', tmp_path / 'run', trust='step:34:kill')
    assert code == -9, out[-3000:]
    older, newest = [0, *manager.steps(tmp_path / 'run' / manager.FOLDER)][-2:]  # a save that is not done defers the next
    arrays = (tmp_path / 'run' / manager.FOLDER / str(newest)).rglob('*')
    with tally('a checkpoint with a flipped bit', 'found, named in a line, and the one before it used'):
        flip(max((p for p in arrays if p.is_file()), key=lambda p: p.stat().st_size), random.Random(0))
        code, out = runs.run('recurrent', tmp_path / 'run')
        assert code == 0 and f'the checkpoint of step {newest} is damaged' in out, out[-3000:]
        assert (f'resuming from step {older}' in out) == (older > 0), out[-3000:]
        found, = (d for d in json.loads((tmp_path / 'run' / 'run.json').read_text())['damaged'] if d['step'] == newest)
        assert 'checksum differs' in found['why']
        runs.assert_same(tmp_path / 'run', straight('recurrent'))
