"""Files in a store and on the disk, asked in one way; a store that fails is tried again, and never taken for an empty one."""
import hashlib
import io
import time

import numpy as np
import pytest

from bigjax import UserError
from bigjax.data import storage
from bigjax.train.outbox import Outbox
from tests.storage.fake_gcs import Faults


@pytest.fixture(params=['disk', 'store'])
def root(request, tmp_path):
    """A folder of either kind."""
    if request.param == 'disk':
        return tmp_path / 'run'
    request.getfixturevalue('gcs')
    return storage.place('gs://bucket/run')


def fill(root, **contents):
    for name, data in contents.items():
        path = root / name.replace('__', '/')
        storage.make(path.parent)
        storage.write(path, data)


def test_both_kinds_answer_alike(root):
    assert storage.children(root) == [] and not storage.exists(root) and storage.facts(root / 'a') is None
    before = time.time() - 2
    fill(root, a=b'one', b=b'', sub__c=b'three', sub__deep__d=b'x' * 100, subtle=b'no part of sub')
    assert storage.children(root) == ['a', 'b', 'sub', 'subtle'] and storage.children(root / 'sub') == ['c', 'deep']
    assert storage.children(root / 'a') == [] and storage.children(root / 'none') == []
    assert {n: f.size for n, f in storage.files(root).items()} == {
        'a': 3, 'b': 0, 'sub/c': 5, 'sub/deep/d': 100, 'subtle': 14}
    assert list(storage.files(root / 'sub')) == ['c', 'deep/d']
    assert storage.facts(root / 'a').size == 3 and before <= storage.facts(root / 'a').when <= time.time() + 1
    assert storage.exists(root / 'a') and storage.exists(root / 'sub') and not storage.exists(root / 'su')
    assert storage.read(root / 'sub' / 'c') == b'three' and storage.text(root / 'b') == ''
    with pytest.raises(FileNotFoundError):
        storage.read(root / 'none')
    for name, data in (('a', b'one'), ('b', b'')):
        assert storage.sha256(root / name) == (len(data), hashlib.sha256(data).hexdigest())
    storage.remove_file(root / 'a')
    storage.write(root / 'b', b'again')
    assert storage.children(root)[0] == 'b' and storage.read(root / 'b') == b'again'


def test_folders_are_moved_and_removed(root):
    fill(root, old__manifest=b'm', old__x__y=b'y', older__z=b'z')
    storage.move(root / 'old', root / 'damaged' / 'old', last='manifest')
    assert storage.children(root) == ['damaged', 'older']
    assert list(storage.files(root / 'damaged')) == ['old/manifest', 'old/x/y']
    storage.remove(root / 'damaged', first='manifest')
    storage.remove(root / 'none')
    assert storage.children(root) == ['older'] and storage.read(root / 'older' / 'z') == b'z'


def test_what_is_read_in_parts_is_whole(gcs, monkeypatch):
    monkeypatch.setattr(storage, 'PART', 1000)
    data = bytes(range(256)) * 17
    storage.write(storage.place('gs://bucket/big'), data)
    assert storage.sha256(storage.place('gs://bucket/big')) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_folder_counts_as_moved_when_its_last_file_is_there(gcs):
    root = storage.place('gs://bucket/run')
    fill(root, old__manifest=b'm', old__a=b'a', old__b=b'b')
    gcs.requests.clear()
    storage.move(root / 'old', root / 'new', last='manifest')
    name = lambda p: p.split('?')[0].rsplit('%2F', 1)[-1].split('/')[0]
    order = [(m, name(p)) for m, p in gcs.requests if m == 'DELETE' or '/rewriteTo/' in p]
    copies, gone = ([name for method, name in order if (method == 'DELETE') == last] for last in (False, True))
    assert copies[-1] == 'manifest' and gone[0] == 'manifest' and len(copies) == len(gone) == 3
    assert [m for m, _ in order] == ['POST'] * 3 + ['DELETE'] * 3


@pytest.mark.parametrize(('name', 'words'), [
    ('s3://bucket/run', 'mountpoint-s3'), ('memory://run', 'mount another kind of bucket'), ('hdfs://x', 'name the folder')])
def test_other_stores_are_refused_in_a_line(name, words):
    with pytest.raises(UserError, match=words) as caught:
        storage.place(name)
    assert '\n' not in str(caught.value)


def test_without_gcsfs_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, 'find_spec', lambda name: None)
    storage._store.cache_clear()
    with pytest.raises(UserError, match=r"gcsfs: pip install 'bigjax\[gcs\]'"):
        storage.place('gs://bucket/run')


def test_no_such_bucket_and_no_leave(gcs):
    with pytest.raises(UserError, match='gs://none/run/a: there is no such bucket'):
        storage.write(storage.place('gs://none/run/a'), b'')
    gcs.faults = Faults(1.0, ['403'])
    with pytest.raises(UserError, match=r'the store refuses .*credentials'):
        storage.read(storage.place('gs://bucket/a'))


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['429', '503', 'cut', 'lost'])
def test_each_fault_is_tried_again(gcs, kind):
    root = storage.place('gs://bucket/run')
    gcs.faults = Faults(0.4, [kind], seed=1)
    fill(root, a=b'one', sub__b=b'two')
    storage.move(root / 'sub', root / 'moved', last='b')
    assert storage.read(root / 'a') == b'one' and list(storage.files(root)) == ['a', 'moved/b']
    storage.remove(root)
    assert gcs.names() == [] and gcs.faults.injected[kind] >= 2


@pytest.mark.slow
def test_a_store_that_stays_broken_is_given_up_once(gcs, monkeypatch):
    monkeypatch.setenv('BIGJAX_STORE_SECONDS', '1')
    root = storage.place('gs://bucket/run')
    fill(root, a=b'one')
    gcs.faults = Faults(1.0, ['503'])
    began = time.monotonic()
    for ask in (lambda: storage.exists(root / 'a'), lambda: storage.children(root), lambda: storage.facts(root / 'a'),
                lambda: storage.files(root), lambda: storage.write(root / 'a', b'two')):
        with pytest.raises(storage.Broken, match=r'gs://bucket/run.*: the store has failed for 1 s .*injected.*run the same'):
            ask()
    assert time.monotonic() - began < 90 and storage.gave_up()
    gcs.faults = Faults()
    assert gcs.objects['bucket', 'run/a'].data == b'one'


def test_the_outbox_sends_the_newest_and_says_when_it_is_there(gcs):
    box, path = Outbox(every=1000), storage.place('gs://bucket/run/log')
    box.put(path, 'first\n')
    box.append(path, 'second')
    assert gcs.names() == []
    box.flush()
    assert gcs.objects['bucket', 'run/log'].data == b'first\nsecond\n'
    sent = len(gcs.requests)
    box.flush()  # nothing new
    assert len(gcs.requests) == sent
    box.append(path, 'third')
    box.close()
    assert gcs.objects['bucket', 'run/log'].data == b'first\nsecond\nthird\n'


def test_the_outbox_sends_by_itself_and_fails_aloud(gcs):
    box, path = Outbox(every=0.05), storage.place('gs://none/log')
    box.put(storage.place('gs://bucket/log'), 'x')
    until = time.monotonic() + 5
    while not gcs.names() and time.monotonic() < until:
        time.sleep(0.01)
    assert gcs.names() == ['log']
    box.look()
    box.put(path, 'x')
    with pytest.raises(UserError, match='no such bucket'):
        box.flush()
    with pytest.raises(UserError, match='no such bucket'):
        box.look()


def test_data_in_a_store_is_copied_once_and_again_when_it_changes(gcs, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    root = storage.place('gs://bucket/data/set')
    fill(root, train__a=b'one', train__b=b'', test=b'two')
    here = storage.copied(root)
    assert here.is_relative_to(tmp_path) and {n: (here / n).read_bytes() for n in storage.files(here)} == {
        'test': b'two', 'train/a': b'one', 'train/b': b''}
    gcs.requests.clear()
    assert storage.copied(root) == here and not [p for _, p in gcs.requests if 'alt=media' in p]
    time.sleep(1.1)
    fill(root, test=b'new')
    storage.remove_file(root / 'train' / 'b')
    assert list(storage.files(storage.copied(root))) == ['test', 'train/a'] and (here / 'test').read_bytes() == b'new'
    assert storage.copied(root / 'test').read_bytes() == b'new'
    with pytest.raises(UserError, match='there is nothing'):
        storage.copied(root / 'none')


def test_no_object_is_written_outside_of_its_folder(gcs, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    gcs.put('bucket', 'data/../../../../../../out', b'x')
    with pytest.raises(UserError, match='no name of a file below it'):
        storage.copied(storage.place('gs://bucket/data'))
    assert not list(tmp_path.rglob('out'))


def test_named_sets_and_files_of_ones_own_are_read_from_a_store(gcs, tmp_path, monkeypatch):
    from bigjax.data.datasets import open_data
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    packed, x = io.BytesIO(), np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez(packed, x=x, label=np.arange(20) % 2)
    gcs.put('bucket', 'mine/set.npz', packed.getvalue())
    found = open_data('npz:gs://bucket/mine/set.npz', val_fraction=0.0)
    assert np.array_equal(np.stack([found.train[i]['x'] for i in range(20)]), x)
    gcs.put('bucket', 'data/tiny_shakespeare/input.txt', b'to be or not to be ' * 100)
    found = open_data('', like='tiny_shakespeare', data_dir='gs://bucket/data', length=16)
    assert len(found.train) > 10
    with pytest.raises(UserError, match=r'not in gs://bucket/data.*gs://bucket/data'):
        open_data('', like='scan/simple', data_dir='gs://bucket/data')
