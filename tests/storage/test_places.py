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


@pytest.mark.parametrize(('name', 'words'), [
    ('gs:/bucket/run', 'write gs://bucket/run'), (pathlib.Path('gs://bucket/run'), 'write gs://bucket/run'),
    ('GCS:/bucket', 'write gs://bucket'), ('gs:bucket', 'write gs://bucket'), ('gs://', 'write gs://BUCKET/FOLDER'),
    ('gs:///run', 'write gs://run'), ('s3://bucket/run', 'mountpoint-s3'), ('s3:/bucket/run', 'mountpoint-s3'),
    ('memory://run', 'mount another kind of bucket'), ('hdfs://host:9000/x', 'host:9000/x: '),
    ('simplecache::gs://bucket/run', 'mount another kind'), ('file://host/x', 'write file:///FOLDER'),
    ('file:///tmp/%00', 'write file:///FOLDER'), ('a\0b', 'null character')])
def test_other_names_are_refused_in_a_line(name, words):
    code = 'storage/scheme' if 'mount' in words or 'host:9000' in words else 'storage/name'
    with refused(code, words) as caught:
        storage.place(name)
    assert '\0' not in str(caught.value)


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


@pytest.mark.parametrize(('folder', 'variable', 'words'), [
    ('gs://bucket/cache', '', '--compile_cache: got .gs://bucket/cache'),
    ('', 'gs://bucket/cache', 'JAX_COMPILATION_CACHE_DIR: got .gs://bucket/cache'),
    ('s3://bucket/cache', '', 'mount another kind'), ('gs:/bucket', '', 'write gs://bucket')])
def test_programs_are_not_kept_in_a_store(monkeypatch, tmp_path, folder, variable, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', variable)
    with pytest.raises(UserError, match=words):
        compile_cache.enable(folder)
    assert not list(tmp_path.iterdir())
