"""Names of places: every way to write one is understood or refused in a line, and no password is printed."""
import pathlib

import pytest

from bigjax.errors import UserError
from bigjax.io import storage, uri
from bigjax.train import compile_cache
from tests.refused import refused


@pytest.mark.parametrize(('name', 'place'), [
    ('gs://bucket/run', 'gs://bucket/run'), ('gcs://bucket/run/', 'gs://bucket/run'), ('GS://Bucket/Run', 'gs://Bucket/Run'),
    ('gs://bucket/a@b:c?d', 'gs://bucket/a@b:c?d'), ('file:///tmp/x', '/tmp/x'), ('file:/tmp/x', '/tmp/x'),
    ('FILE://localhost/tmp/a%20b', '/tmp/a b'), ('/tmp/a:/b', '/tmp/a:/b'), ('a:b', 'a:b'), ('run', 'run'), ('', '')])
def test_names_that_are_understood(name, place):
    assert uri.named(name) == place


@pytest.mark.parametrize(('name', 'code', 'shown'), [
    ('gs:/bucket/run', 'storage/name', 'gs://bucket/run'),
    (pathlib.Path('gs://bucket/run'), 'storage/name', 'gs://bucket/run'),
    ('GCS:/bucket', 'storage/name', 'gs://bucket'), ('gs:bucket', 'storage/name', 'gs://bucket'),
    ('gs://', 'storage/name', 'gs://BUCKET/FOLDER'), ('gs:///run', 'storage/name', 'gs://run'),
    ('s3://bucket/run', 'storage/scheme', 's3://bucket/run'), ('s3:/bucket/run', 'storage/scheme', 's3:/bucket/run'),
    ('memory://run', 'storage/scheme', 'memory://run'), ('hdfs://host:9000/x', 'storage/scheme', 'host:9000/x'),
    ('simplecache::gs://bucket/run', 'storage/scheme', 'simplecache::gs://bucket/run'),
    ('file://host/x', 'storage/name', 'file:///'), ('file:///tmp/%00', 'storage/name', 'file:///'),
    ('a\0b', 'storage/name', r'a\x00b'), ('a' * 300, 'storage/name', 'aaa'), ('b/' * 3000, 'storage/name', 'b/b'),
    ('~nobody-of-that-name/x', 'storage/name', '~nobody')])
def test_other_names_are_refused_in_a_line(name, code, shown):
    with refused(code, shown) as caught:
        storage.place(name)
    assert '\0' not in str(caught.value)


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with refused('storage/name', 'loop'):
        storage.place(tmp_path / 'loop')
    (tmp_path / 'broken').symlink_to(tmp_path / 'none')
    assert storage.place(tmp_path / 'broken') == tmp_path / 'broken'


@pytest.mark.parametrize('name', [
    'gs://me:word@bucket/run', 's3://me:word@bucket/run', 's3:/me:word@bucket/run', 'https://me:wo/word@host/run',
    'simplecache::s3://me:word@bucket/run', 'az://word@account/run', 'file://me:word@host/run', 'https://host:word/run',
    'https://bucket.host/run?Signature=word&x#word', 's3://me:word@bucket/run\nword'])
def test_no_password_is_printed(name):
    with pytest.raises(UserError) as caught:  # of a scheme, or of a password
        storage.place(name)
    said = str(caught.value)
    assert '***' in said and caught.value.code
    assert 'word' not in said.replace('a user and a password', '').replace('\\nword', '') and '\n' not in said


@pytest.mark.parametrize(('folder', 'variable', 'code', 'names'), [
    ('gs://bucket/cache', '', 'compile-cache/remote', ('--compile_cache', 'gs://bucket/cache')),
    ('', 'gs://bucket/cache', 'compile-cache/remote', ('JAX_COMPILATION_CACHE_DIR', 'gs://bucket/cache')),
    ('s3://bucket/cache', '', 'storage/scheme', ('s3://bucket/cache',)), ('gs:/bucket', '', 'storage/name', ('gs://bucket',))])
def test_programs_are_not_kept_in_a_store(monkeypatch, tmp_path, folder, variable, code, names):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', variable)
    with refused(code, *names):
        compile_cache.enable(folder)
    assert not list(tmp_path.iterdir())
