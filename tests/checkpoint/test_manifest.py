"""Damage to a checkpoint is found, named, and passed over. Tried by breaking: the checksum left out, the size left out."""
import errno
import os
import pathlib
import shutil

import jax.numpy as jnp
import pytest

from bigjax.checkpoint import manager, manifest
from tests.refused import refused

TREE = {'state': {'params': {'kernel': jnp.arange(4096.0)}, 'step': jnp.int32(3)}}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A workdir with the checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp('run')
    keeper = manager.Checkpoints(workdir)
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
    keeper = manager.Checkpoints(tmp_path / 'run', say=said.append)
    assert keeper.steps() == [1] and keeper.damaged[0]['step'] == 2 and 'checksum differs' in keeper.damaged[0]['why']
    assert len(said) == 1 and 'the checkpoint of step 2 is damaged' in said[0]
    assert (tmp_path / 'run' / 'damaged' / '2' / manifest.NAME).exists()
    keeper.save(2, TREE)  # the step is done again
    keeper.close()
    assert manager.newest(tmp_path / 'run').name == '2'


def test_what_was_never_finished_is_removed_and_said(written, tmp_path):
    shutil.copytree(written, tmp_path / 'run')
    (tmp_path / 'run/checkpoints/2' / manifest.NAME).unlink()
    (tmp_path / 'run/checkpoints/3.orbax-checkpoint-tmp').mkdir()
    said = []
    keeper = manager.Checkpoints(tmp_path / 'run', say=said.append)
    assert keeper.steps() == [1] and [found['step'] for found in keeper.damaged] == [2, 3]
    assert [f'step {step} was not written to its end' in line for step, line in zip((2, 3), said, strict=True)] == [True, True]
    keeper.close()
    assert [p.name for p in (tmp_path / 'run/checkpoints').iterdir()] == ['1']


@pytest.mark.parametrize('lost', [['1', '2'], ['2', '9']])
def test_manifests_that_no_kill_has_lost_are_no_reason_to_remove_the_state(written, tmp_path, lost):
    shutil.copytree(written, tmp_path / 'run')
    if '9' in lost:
        shutil.copytree(written / 'checkpoints/2', tmp_path / 'run/checkpoints/9')
    for name in lost:
        (tmp_path / 'run/checkpoints' / name / manifest.NAME).unlink()
    before = sorted((tmp_path / 'run').rglob('*'))
    with refused('checkpoint/incomplete', 'manifest.json'):
        manager.Checkpoints(tmp_path / 'run')
    assert sorted((tmp_path / 'run').rglob('*')) == before


def test_what_is_left_of_an_older_one_is_removed(written, tmp_path):
    """A kill while it was removed may have left its manifest, or all but that."""
    for harm in (lambda p: shutil.rmtree(p / 'state'), lambda p: (p / manifest.NAME).unlink()):
        shutil.copytree(written, tmp_path / 'run', dirs_exist_ok=True)
        harm(tmp_path / 'run/checkpoints/1')
        keeper = manager.Checkpoints(tmp_path / 'run')
        keeper.close()
        assert [p.name for p in (tmp_path / 'run/checkpoints').iterdir()] == ['2'] and not keeper.damaged


def test_where_no_good_one_is_left_it_is_said(written, tmp_path):
    shutil.copytree(written, tmp_path / 'run')
    for step in (1, 2):
        cut(tmp_path / f'run/checkpoints/{step}/state/_METADATA')
    said = []
    keeper = manager.Checkpoints(tmp_path / 'run', say=said.append)
    keeper.close()
    assert keeper.steps() == [] and [found['step'] for found in keeper.damaged] == [2, 1]
    assert 'the one before it is used' in said[0] and 'the run starts from its beginning' in said[1]


def test_any_flipped_bit_of_a_manifest_is_noticed(written, tmp_path):
    shutil.copytree(written / 'checkpoints/2', tmp_path / '2')
    path = tmp_path / '2' / manifest.NAME
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 11):
        harmed = bytearray(data)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        assert manifest.fault(tmp_path / '2', deep=False), harmed[max(0, bit // 8 - 20):bit // 8 + 20]


def test_a_checkpoint_is_not_that_of_another_step(written, tmp_path):
    shutil.copytree(written / 'checkpoints/2', tmp_path / '99')
    assert manifest.fault(tmp_path / '99') == 'it is the checkpoint of step 2, renamed'
    shutil.copytree(written / 'checkpoints/2', tmp_path / 'mine')
    assert not manifest.fault(tmp_path / 'mine')


def test_a_copy_is_good_and_a_part_of_one_is_refused(written, tmp_path):
    shutil.copytree(written / 'checkpoints' / '2', tmp_path / 'copy')
    assert manager.newest(tmp_path / 'copy') == tmp_path / 'copy'
    next(p for p in (tmp_path / 'copy/state').rglob('*') if p.is_file()).unlink()
    with refused('checkpoint/damaged', 'is missing'):
        manager.newest(tmp_path / 'copy')
    (tmp_path / 'copy' / manifest.NAME).unlink()
    with refused('checkpoint/damaged', 'manifest.json'):
        manager.newest(tmp_path / 'copy')


def test_a_save_that_failed_is_an_error_at_the_next_step(tmp_path, monkeypatch):
    keeper = manager.Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, 'seal', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    keeper.save(1, TREE)
    while keeper.busy:
        pass
    with pytest.raises(OSError) as error:
        keeper.raise_error()
    assert error.value.errno == errno.ENOSPC
    keeper.close()
    assert manager.Checkpoints(tmp_path).steps() == []


def test_one_more_than_the_newest_stays_until_that_is_sealed(tmp_path):
    keeper = manager.Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        keeper.save(step, TREE)
    keeper.close()
    assert manager.steps(pathlib.Path(tmp_path) / 'checkpoints') == [2, 3]
