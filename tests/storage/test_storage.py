"""Files in a store and on the disk, asked in one way; a store that fails is tried again, and never taken for an empty one."""
import hashlib
import os
import time

import pytest

from bigjax.errors import UserError
from bigjax.io import retry, storage
from bigjax.io.async_writer import Outbox
from tests.refused import refused
from tests.storage.fake_gcs import LIMIT, SILENT, Faults


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


def test_without_gcsfs_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, 'find_spec', lambda name: None)
    storage._store.cache_clear()
    with refused('storage/missing-package', "pip install 'bigjax[gcs]'"):
        storage.place('gs://bucket/run')


def test_no_such_bucket_and_no_leave(gcs):
    with refused('storage/no-bucket', 'gs://none/run/a'):
        storage.write(storage.place('gs://none/run/a'), b'')
    gcs.faults = Faults(1.0, ['403'])
    with refused('storage/credentials', 'gs://bucket/a'):
        storage.read(storage.place('gs://bucket/a'))


@pytest.mark.parametrize(('code', 'message', 'kind', 'why'), [
    ('400', 'Invalid bucket name', 'storage/refused', 'Invalid bucket name, 400'),
    ('400', 'an invalid argument', 'storage/refused', '(an invalid argument)'),
    ('409', 'in use', 'storage/refused', 'in use, 409'), ('412', '', 'storage/refused', 'condition'),
    ('401', 'Login Required', 'storage/credentials', 'Login Required, 401'),
    ('403', 'no storage.objects.get', 'storage/credentials', 'no storage.objects.get')])
def test_a_refusal_of_a_store_is_not_retried(gcs, code, message, kind, why):
    path = storage.place('gs://bucket/run/a')
    gcs.faults, began = Faults(1.0, [code], message=message), time.monotonic()
    for ask in (lambda: storage.read(path), lambda: storage.facts(path), lambda: storage.files(path),
                lambda: storage.children(path), lambda: storage.write(path, b'x'), lambda: storage.remove_file(path)):
        with refused(kind, 'gs://bucket/run/a', why):
            ask()
    assert time.monotonic() - began < 5 and not storage.given_up()


def caused(error, *causes):
    """The error as one that was raised from the causes."""
    last = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


def test_credentials_that_are_none_are_said_at_once_and_a_server_of_tokens_may_be_out_of_reach(gcs, monkeypatch):
    from gcsfs.retry import HttpError
    from google.auth import exceptions
    monkeypatch.setenv('BIGJAX_STORE_SECONDS', '60')
    monkeypatch.setattr(retry, 'SHORTEST_PAUSE_S', 0.01)
    unknown = lambda: HttpError({'code': 401, 'message': 'Invalid Credentials'})
    for error in (exceptions.DefaultCredentialsError('none found'), exceptions.RefreshError('token expired'), unknown(),
                  caused(unknown(), exceptions.RefreshError('token expired'))):
        with refused('storage/credentials', 'x: '):
            storage.retry(Failing(error, 1), 'x')
    for error in (exceptions.TransportError('no route'), exceptions.RefreshError('later', retryable=True),
                  caused(unknown(), exceptions.RefreshError('no'), exceptions.TransportError('no route'))):
        assert storage.retry(Failing(error, 3), 'x') == 'there'


def test_a_store_that_does_not_answer_is_reported_once_a_while(monkeypatch, capsys):
    monkeypatch.setattr(retry, 'SHORTEST_PAUSE_S', 0.01)
    monkeypatch.setattr(retry, '_reported', [])
    assert storage.retry(Failing(ConnectionError('no route'), 3), 'gs://bucket/run') == 'there'
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and all(word in said for word in ('gs://bucket/run', 'no route', 'BIGJAX_STORE_SECONDS'))


class Failing:
    """A call that fails some times."""

    def __init__(self, error, times):
        self.error, self.times = error, times

    def __call__(self, *args):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return 'there'


def test_a_file_of_credentials_that_is_none_is_a_line(gcs, tmp_path, monkeypatch):
    (tmp_path / 'token').write_text('{}')
    monkeypatch.setenv('FSSPEC_GCS_TOKEN', str(tmp_path / 'token'))
    import fsspec.config
    monkeypatch.setitem(fsspec.config.conf, 'gcs', {'token': str(tmp_path / 'token')})
    storage._store.cache_clear()
    try:
        with refused('storage/credentials'):
            storage.place('gs://bucket/run')
    finally:
        storage._store.cache_clear()


def test_what_a_library_reports_of_a_store_is_told_apart(gcs):
    path, passes = 'gs://bucket/run', ValueError('UNAVAILABLE: Error writing "gs://bucket/x": HTTP response code: 503')
    refused = ValueError('PERMISSION_DENIED: Error writing "gs://bucket/x": HTTP response code: 403 with body no')
    assert storage.is_transient(path, passes) and not storage.is_transient(path, refused)
    assert not storage.is_transient('/run', passes)
    assert isinstance(storage.translate(path, refused), UserError) and not storage.given_up()
    assert storage.translate(path, KeyError('a')).args == ('a',)
    assert isinstance(storage.translate(path, passes), storage.StorageUnavailable) and not storage.is_transient(path, passes)


def test_an_answer_that_never_comes_is_waited_for_no_longer_than_the_limit(gcs):
    path = storage.place('gs://bucket/a')
    storage.write(path, b'one')
    for ask in (lambda: storage.read(path), lambda: storage.write(path, b'two')):
        gcs.faults = First(1, 'silent')
        ask()
        assert len(gcs.faults.waited) == 1 and LIMIT - 0.1 <= gcs.faults.waited[0] < SILENT
    assert gcs.objects['bucket', 'a'].data == b'two'


class First(Faults):
    """The first requests alone."""

    def __init__(self, times, kind):
        super().__init__(1.0, [kind])
        self._times = times

    def draw(self, request):
        return super().draw(request) if self.injected[self._kinds[0]] < self._times else ''


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['429', '503', 'cut', 'lost', 'silent'])
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
        with pytest.raises(storage.StorageUnavailable) as error:
            ask()
        assert all(name in str(error.value) for name in ('gs://bucket/run', '1 s', 'injected'))
    assert time.monotonic() - began < 90 and storage.given_up()
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
    with refused('storage/no-bucket'):
        box.flush()
    with refused('storage/no-bucket'):
        box.look()


def test_a_file_is_replaced_whole_and_never_through_a_link(tmp_path, monkeypatch):
    theirs, mine = tmp_path / 'theirs', tmp_path / 'mine'
    theirs.write_bytes(b'theirs')
    mine.symlink_to(theirs)
    storage.write(mine, b'mine')
    assert theirs.read_bytes() == b'theirs' and mine.read_bytes() == b'mine' and not mine.is_symlink()
    power = OSError('the power is gone')
    monkeypatch.setattr(storage.os, 'replace', Failing(power, 1))
    with pytest.raises(OSError) as error:
        storage.write(mine, b'half')
    assert error.value is power
    assert mine.read_bytes() == b'mine' and storage.children(tmp_path) == ['mine', 'theirs']


def test_links_are_listed_and_what_vanishes_is_left_out(tmp_path, monkeypatch):
    root, other = tmp_path / 'root', tmp_path / 'other'
    fill(root, a=b'one', sub__b=b'two', gone=b'')
    fill(other, c=b'three')
    (root / 'sub' / 'link').symlink_to(other)
    (root / 'file').symlink_to(other / 'c')
    (root / 'nowhere').symlink_to(tmp_path / 'none')
    os.mkfifo(root / 'pipe')
    walk = os.walk

    def removing(folder):
        for found in walk(folder):
            (root / 'gone').unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(storage.os, 'walk', removing)
    found = storage.files(root)
    assert list(found) == ['a', 'file', 'nowhere', 'pipe', 'sub/b', 'sub/link'] and found['file'].size == 5
    for name in ('pipe', 'nowhere', 'sub/link', 'none'):
        with pytest.raises(FileNotFoundError):
            storage.sha256(root / name)
