"""Damage to a checkpoint is found, named, and passed over. Tried by breaking: the checksum left out, the size left out."""
import os
import pathlib
import shutil

import jax.numpy as jnp
import pytest

from bigjax import UserError
from bigjax.train import checkpoint, manifest

TREE = {'state': {'params': {'kernel': jnp.arange(4096.0)}, 'step': jnp.int32(3)}}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A workdir with the checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp('run')
    keeper = checkpoint.Checkpoints(workdir)
    for step in (1, 2):
        keeper.save(step, TREE)
    keeper.close()
    return workdir


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {'a flipped bit': (flip, 'checksum differs'), 'a truncated file': (cut, 'bytes instead of'),
          'a missing file': (os.remove, 'is missing'),
          'a file too many': (lambda p: (p.parent / 'more').write_text('x'), 'does not belong to it')}


@pytest.mark.parametrize('kind', DAMAGE)
def test_every_file_is_held_to_what_was_written(written, tmp_path, kind):
    harm, words = DAMAGE[kind]
    names = [p.relative_to(written) for p in (written / 'checkpoints' / '2').rglob('*') if p.is_file()]
    assert len(names) > 5
    for name in names:
        if name.name == manifest.NAME or not (written / name).stat().st_size:
            continue
        shutil.copytree(written, tmp_path / 'run', dirs_exist_ok=True)
        harm(tmp_path / 'run' / name)
        assert words in manifest.fault(tmp_path / 'run' / 'checkpoints' / '2'), name
        shutil.rmtree(tmp_path / 'run')


@pytest.mark.parametrize('harm', [flip, cut, lambda p: p.write_text('[]'), lambda p: p.write_text('{"format": 1}')])
def test_a_manifest_that_is_damaged_itself(written, tmp_path, harm):
    shutil.copytree(written / 'checkpoints' / '2', tmp_path / '2')
    harm(tmp_path / '2' / manifest.NAME)
    assert manifest.fault(tmp_path / '2')


def test_the_good_one_before_is_used_and_the_damaged_kept_aside(written, tmp_path):
    shutil.copytree(written, tmp_path / 'run')
    array = max((tmp_path / 'run/checkpoints/2/state').rglob('*'), key=lambda p: p.stat().st_size if p.is_file() else 0)
    flip(array)
    said = []
    keeper = checkpoint.Checkpoints(tmp_path / 'run', say=said.append)
    assert keeper.steps() == [1] and keeper.damaged[0]['step'] == 2 and 'checksum differs' in keeper.damaged[0]['why']
    assert len(said) == 1 and 'the checkpoint of step 2 is damaged' in said[0]
    assert (tmp_path / 'run' / 'damaged' / '2' / manifest.NAME).exists()
    keeper.save(2, TREE)  # the step is done again
    keeper.close()
    assert checkpoint.newest(tmp_path / 'run').name == '2'


def test_what_was_never_finished_is_removed_without_a_word(written, tmp_path):
    shutil.copytree(written, tmp_path / 'run')
    (tmp_path / 'run/checkpoints/2' / manifest.NAME).unlink()
    (tmp_path / 'run/checkpoints/3.orbax-checkpoint-tmp').mkdir()
    said = []
    keeper = checkpoint.Checkpoints(tmp_path / 'run', say=said.append)
    assert keeper.steps() == [1] and not said and not keeper.damaged
    keeper.close()
    assert [p.name for p in (tmp_path / 'run/checkpoints').iterdir()] == ['1']


def test_a_copy_is_good_and_a_part_of_one_is_refused(written, tmp_path):
    shutil.copytree(written / 'checkpoints' / '2', tmp_path / 'copy')
    assert checkpoint.newest(tmp_path / 'copy') == tmp_path / 'copy'
    next(p for p in (tmp_path / 'copy/state').rglob('*') if p.is_file()).unlink()
    with pytest.raises(UserError, match='is missing'):
        checkpoint.newest(tmp_path / 'copy')
    (tmp_path / 'copy' / manifest.NAME).unlink()
    with pytest.raises(UserError, match='not written to its end'):
        checkpoint.newest(tmp_path / 'copy')


def test_a_save_that_failed_is_an_error_at_the_next_step(tmp_path, monkeypatch):
    keeper = checkpoint.Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, 'seal', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    keeper.save(1, TREE)
    while keeper.busy:
        pass
    with pytest.raises(OSError, match='No space left'):
        keeper.raise_error()
    keeper.close()
    assert checkpoint.Checkpoints(tmp_path).steps() == []


def test_one_more_than_the_newest_stays_until_that_is_sealed(tmp_path):
    keeper = checkpoint.Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        keeper.save(step, TREE)
    keeper.close()
    assert checkpoint.steps(pathlib.Path(tmp_path) / 'checkpoints') == [2, 3]
