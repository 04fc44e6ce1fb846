"""The doctor of a run whose workdir is in an object store: the stand-in of `tests/storage/fake_gcs.py`."""
import json

from bigjax.distributed import accelerators
from bigjax.doctor import experiment_checks, host
from bigjax.errors import UserError
from bigjax.io import storage
from tests import workdirs
from tests.doctor.test_doctor import here, line  # noqa: F401  a fixture
from tests.refused import refused
from tests.test_cli import run


def test_the_verb_in_a_store(gcs, capsys, monkeypatch):
    monkeypatch.setattr(accelerators, 'accelerators', lambda *_: {})
    code, out, err = run(capsys, 'doctor', '--workdir=gs://bucket/run')
    lines = [' '.join(text.split()) for text in out.splitlines()]
    assert code == 0 and not err and not gcs.objects, out
    for status in ('ok workdir ', 'ok run ', 'ok disk '):
        assert any(text.startswith(status) and 'gs://bucket/run' in text for text in lines), (status, lines)
    assert not any('free' in text for text in lines if text.startswith('ok disk '))  # a store has no known limit


def test_a_run_that_is_in_the_store(gcs, tmp_path):
    workdirs.make(tmp_path, status='running', artifacts=False)
    place = storage.place('gs://bucket/run')
    for name in ('run.json', 'config.json'):
        storage.write(place / name, (tmp_path / name).read_bytes())
    config = json.loads((tmp_path / 'config.json').read_text())
    ask = lambda variant='cnn': line(experiment_checks.workdir_run(place, 'mnist1d', variant, config))
    assert ask().startswith('warning run gs://bucket/run: ')
    with refused('workdir/another-run', 'cnn', 'mlp'):
        ask('mlp')


def test_a_bucket_that_refuses(gcs, monkeypatch):
    def refuse(*_):
        raise UserError('gs://bucket: refused for a test', code='storage/refused')

    monkeypatch.setattr(storage, 'write', refuse)
    found = host.workdir(storage.place('gs://bucket/run'))
    assert found.status == 'FAILED' and 'gs://bucket: refused for a test' in found.text
