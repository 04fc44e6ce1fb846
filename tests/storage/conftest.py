"""The stand-in of an object store, for the clients of this process and of those that tests start."""
import os

import pytest

from tests.storage.fake_gcs import LIMIT, FakeGCS, Faults


@pytest.fixture(scope='session')
def server():
    """One server a session: clients look for their address once."""
    pytest.importorskip('gcsfs', reason="object stores need gcsfs: pip install 'bigjax[gcs]'")
    from bigjax.io import storage
    with FakeGCS() as gcs:
        wanted = {**gcs.env(), 'BIGJAX_STORE_SILENCE': str(LIMIT)}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        storage._store.cache_clear()
        storage._store().clear_instance_cache()
        storage._store.cache_clear()
        yield gcs
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def gcs(server, monkeypatch):
    """The server, empty and without faults; nothing is given up yet."""
    from bigjax.io import retry
    monkeypatch.setattr(retry, '_unavailable', [])
    server.objects.clear()
    server.requests.clear()
    server.faults = Faults()
    yield server
    server.faults = Faults()
