"""Copies of what is in a store on this machine: the newest version, whole, and nothing outside of their folder."""
import hashlib
import io
import json
import os
import pathlib
import time

import numpy as np
import pytest

from bigjax.data import builders
from bigjax.data.datasets import open_data
from bigjax.errors import UserError
from bigjax.io import local_copy, storage
from tests.data.made_up import encode, smooth, write_folder, write_idx
from tests.refused import refused
from tests.storage.fake_gcs import Faults
from tests.storage.test_storage import fill


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the copies go."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def test_data_in_a_store_is_copied_once_and_again_when_it_changes(gcs, cache):
    root = storage.place('gs://bucket/data/set')
    fill(root, train__a=b'one', train__b=b'', test=b'two')
    here = local_copy.copied(root)
    assert here.is_relative_to(cache) and {n: (here / n).read_bytes() for n in storage.files(here)} == {
        'test': b'two', 'train/a': b'one', 'train/b': b''}
    gcs.requests.clear()
    assert local_copy.copied(root) == here and not [p for _, p in gcs.requests if 'alt=media' in p]
    fill(root, test=b'new')
    storage.remove_file(root / 'train' / 'b')
    assert list(storage.files(local_copy.copied(root))) == ['test', 'train/a'] and (here / 'test').read_bytes() == b'new'
    assert local_copy.copied(root / 'test').read_bytes() == b'new'
    with refused('storage/not-found', 'gs://bucket/data/set/none'):
        local_copy.copied(root / 'none')


def test_a_version_of_the_same_size_and_second_is_another(gcs):
    path = storage.place('gs://bucket/a')
    for data in (b'one', b'two', b'six'):
        old = gcs.put('bucket', 'a', data)
        gcs.objects['bucket', 'a'] = old._replace(when=1.8e9)
        assert local_copy.copied(path).read_bytes() == data
    gcs.requests.clear()
    assert local_copy.copied(path).read_bytes() == b'six' and not [p for _, p in gcs.requests if 'alt=media' in p]
    local_copy.cache(path).write_bytes(b'bad')  # somebody's hand
    assert local_copy.copied(path).read_bytes() == b'six'


class Replacing(Faults):
    """Another version is put, or none, when the second part of one is asked for."""

    def __init__(self, gcs, name, versions):
        super().__init__()
        self.gcs, self.name, self.versions, self.parts = gcs, name, versions, 0

    def draw(self, request):
        if 'alt=media' in request:
            self.parts += 1
            if self.parts % 2 == 0 and self.versions:
                data = self.versions.pop(0)
                if data is None:
                    del self.gcs.objects['bucket', self.name]
                else:
                    self.gcs.put('bucket', self.name, data)
        return ''


def test_two_versions_are_never_mixed(gcs, monkeypatch):
    monkeypatch.setattr(storage, 'PART', 1000)
    path, versions = storage.place('gs://bucket/a'), [bytes([k]) * (2500 + k) for k in range(3)]
    for read in (lambda: local_copy.copied(path).read_bytes(), lambda: storage.sha256(path)):
        gcs.put('bucket', 'a', versions[0])
        gcs.faults = Replacing(gcs, 'a', versions[1:])
        whole = read()
        assert whole in (versions[2], (2502, hashlib.sha256(versions[2]).hexdigest()))
    gcs.put('bucket', 'a', versions[0])
    gcs.faults = Replacing(gcs, 'a', versions[1:] * 10)
    with refused('storage/changed', 'gs://bucket/a'):
        local_copy.copied(path)
    gcs.faults = Replacing(gcs, 'a', [None])
    with refused('storage/changed', 'gs://bucket/a'):
        local_copy.copied(path)
    assert not list(local_copy.cache(path).parent.glob('.*')), 'something unfinished is left'


def test_no_object_is_written_outside_of_its_folder(gcs, tmp_path):
    gcs.put('bucket', 'data/../../../../../../out', b'x')
    with refused('storage/name', 'gs://bucket/data'):
        local_copy.copied(storage.place('gs://bucket/data'))
    assert not list(tmp_path.rglob('out'))


@pytest.mark.parametrize(('names', 'shown'), [
    (['a', 'a/b'], 'a'), (['x/' + 'n' * 256], '255 bytes'), (['é' * 128], '255 bytes'), (['a\0b'], r'a\x00b'),
    (['\ud800'], r'\ud800'), (['a//b'], 'a//b'), (['../b/', './c'], '/')])
def test_names_that_no_disk_takes_are_refused_in_a_line(gcs, names, shown):
    for name in names:
        gcs.put('bucket', f'data/{name}', b'x')
    with refused('storage/name', 'gs://bucket/data: ', shown):
        local_copy.copied(storage.place('gs://bucket/data'))


def test_what_is_a_file_and_a_folder_is_refused_and_what_was_one_becomes_the_other(gcs):
    path = storage.place('gs://bucket/data')
    gcs.put('bucket', 'data', b'x')
    assert local_copy.copied(path).read_bytes() == b'x'
    gcs.put('bucket', 'data/a/b', b'y')
    with refused('storage/name', 'gs://bucket/data'):
        local_copy.copied(path)
    del gcs.objects['bucket', 'data']
    assert (local_copy.copied(path) / 'a' / 'b').read_bytes() == b'y'
    del gcs.objects['bucket', 'data/a/b']
    gcs.put('bucket', 'data/a', b'z')
    assert (local_copy.copied(path) / 'a').read_bytes() == b'z'


def test_a_long_name_is_copied_and_a_disk_that_takes_no_copy_is_a_line(gcs, cache, tmp_path, monkeypatch):
    gcs.put('bucket', 'data/' + 'n' * 250, b'x')
    assert (local_copy.copied(storage.place('gs://bucket/data')) / ('n' * 250)).read_bytes() == b'x'
    (tmp_path / 'file').write_bytes(b'mine')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with refused('storage/cache', 'gs://bucket/data', 'XDG_CACHE_HOME'):
        local_copy.copied(storage.place('gs://bucket/data'))
    assert (tmp_path / 'file').read_bytes() == b'mine'


def test_what_a_killed_process_left_is_removed_when_it_is_old(gcs):
    fill(storage.place('gs://bucket/data'), a=b'x')
    here = local_copy.copied(storage.place('gs://bucket/data'))
    for name, age in (('new', 0), ('old', 2 * local_copy.UNFINISHED_MAX_AGE_S)):
        (here / f'.{name}.part').write_bytes(b'')
        os.utime(here / f'.{name}.part', (time.time() - age,) * 2)
    local_copy.copied(storage.place('gs://bucket/data'))
    assert list(storage.files(here)) == ['.new.part', 'a']


def test_named_sets_and_files_of_ones_own_are_read_from_a_store(gcs):
    packed, x = io.BytesIO(), np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez(packed, x=x, label=np.arange(20) % 2)
    gcs.put('bucket', 'mine/set.npz', packed.getvalue())
    found = open_data('npz:gs://bucket/mine/set.npz', val_fraction=0.0)
    assert np.array_equal(np.stack([found.train[i]['x'] for i in range(20)]), x)
    gcs.put('bucket', 'data/tiny_shakespeare/input.txt', b'to be or not to be ' * 100)
    found = open_data('', like='tiny_shakespeare', data_dir='gs://bucket/data', length=16)
    assert len(found.train) > 10
    with pytest.raises(UserError) as missing:  # a named set that is missing is opened when its first example is read
        open_data('', like='scan/simple', data_dir='gs://bucket/data').train[0]
    assert 'gs://bucket/data' in str(missing.value) and missing.value.code


def table(kind: str, names, path: pathlib.Path) -> bytes:
    """A table of pictures and labels."""
    if kind == 'parquet':
        pa = pytest.importorskip('pyarrow', reason='pyarrow is not installed')
        import pyarrow.parquet as pq
        kinds = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
        pictures = pa.array([{'bytes': None, 'path': name} for name in names], kinds)
        pq.write_table(pa.table({'image': pictures, 'label': [i % 2 for i in range(len(names))]}), path)
        return path.read_bytes()
    if kind == 'csv':
        return ('file,label\n' + ''.join(f'{name},{i % 2}\n' for i, name in enumerate(names))).encode()
    return ''.join(json.dumps({'file': name, 'label': i % 2}) + '\n' for i, name in enumerate(names)).encode()


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'parquet'])
def test_a_table_brings_its_pictures(gcs, cache, tmp_path, kind):
    names = [f'{"./" if i else ""}pics/{i}.png' for i in range(6)]
    for i in range(6):
        gcs.put('bucket', f'set/pics/{i}.png', encode(smooth(20, 20, seed=i), '.png'))
    gcs.put('bucket', 'set/other.bin', b'not asked for')
    gcs.put('bucket', f'set/all.{kind}', table(kind, names, tmp_path / 'table'))
    splits = open_data(f'{kind}:gs://bucket/set/all.{kind}', val_fraction=0.0)
    assert splits.train.arrays['image'].shape == (6, 20, 20, 3)
    there = sorted(p.name for p in cache.rglob('*') if p.is_file())
    assert there == sorted([f'{i}.png' for i in range(6)] + [f'all.{kind}'])
    del gcs.objects['bucket', 'set/pics/3.png']
    (cache / 'bigjax' / 'store' / 'bucket' / 'set' / 'pics' / '3.png').unlink()
    with refused('data/unreadable', '3.png', 'record 3'):
        open_data(f'{kind}:gs://bucket/set/all.{kind}', val_fraction=0.0)


def test_a_table_brings_nothing_from_outside_its_folder(gcs, cache):
    gcs.put('bucket', 'secret.png', encode(smooth(20, 20), '.png'))
    gcs.put('bucket', 'set/all.csv', table('csv', ['../secret.png'] * 2, None))
    with refused('data/outside', 'secret.png'):
        open_data('csv:gs://bucket/set/all.csv')
    assert [p.name for p in cache.rglob('*') if p.is_file()] == ['all.csv']


@pytest.mark.parametrize('spec', ['jsonl:s3://bucket/x.jsonl', 'csv:memory://x.csv', 'folder:https://host/x', 's3://bucket/x.csv',
                                  'npz:s3:/bucket/x.npz'])
def test_data_in_other_stores_is_refused_in_a_line(spec):
    with refused('storage/scheme', spec.removeprefix(spec.split(':')[0] + ':').lstrip('/')):
        open_data(spec)


def test_data_is_named_as_its_place_is(gcs, tmp_path):
    x = io.BytesIO()
    np.savez(x, x=np.zeros((4, 2), np.float32))
    gcs.put('bucket', 'x.npz', x.getvalue())
    (tmp_path / 'x.npz').write_bytes(x.getvalue())
    for spec in ('npz:gcs://bucket/x.npz', 'npz:GS://bucket/x.npz', f'npz:file://{tmp_path}/x.npz'):
        assert len(open_data(spec, val_fraction=0.0).train) == 4
    for spec, code, names in (
            ('npz:gs:/bucket/x.npz', 'storage/name', ['gs:/bucket', 'gs://bucket/x.npz']),
            ('gs://bucket/x.npz', 'data/no-kind', ['gs://bucket/x.npz', 'KIND:PLACE']),
            ('csv:s3://me:word@bucket/x.csv', 'storage/password', ['s3://***@bucket']),
            ('s3://me:word@bucket/x.csv', 'storage/password', ['s3://***@bucket'])):
        with refused(code, *names):
            open_data(spec)
    for place, code in ((f'file://{tmp_path}/nowhere', 'data/data-dir'), ('s3://bucket/data', 'storage/scheme')):
        with refused(code, place.partition('://')[2]):
            open_data('mnist', data_dir=place)


def test_data_sets_are_prepared_from_a_store_and_not_into_one(gcs, tmp_path, refusals):
    pytest.importorskip('tensorflow_datasets', reason='tensorflow-datasets is not installed')
    for file in (f for f in write_folder(tmp_path / 'pets', each=2).rglob('*') if f.is_file()):
        gcs.put('bucket', f'pets/{file.relative_to(tmp_path / "pets")}', file.read_bytes())
    for part, n in (('train', 3), ('t10k', 2)):
        write_idx(tmp_path / 'mnist', part, n)
    for file in (tmp_path / 'mnist').iterdir():
        gcs.put('bucket', f'mnist/{file.name}', file.read_bytes())
    for words in (['folder', '--name=pets'], ['mnist']):
        command = [*words, f'--from=gs://bucket/{"pets" if len(words) > 1 else "mnist"}']
        assert builders.main([*command, '--to=gs://bucket/tfds']) == 2
        assert refusals[-1] == 'builders/remote-folder'
        assert builders.main([*command, f'--to={tmp_path / "tfds"}']) == 0
    assert builders.main(['mnist', '--from=s3://b/x', f'--to={tmp_path / "other"}']) == 2
    assert not pathlib.Path('gs:').exists()
