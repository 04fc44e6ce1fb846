"""Compiled functions of these tests receive device arrays only: an implicit transfer in a call is an error."""
import jax
import pytest

from bigjax.train import compile_cache


@pytest.fixture(autouse=True)
def no_implicit_transfers(monkeypatch):
    """A NumPy array or a Python number among the arguments is a transfer in every step, which the host waits for."""
    call = compile_cache.Watched.__call__

    def guarded(self, *args):
        with jax.transfer_guard('disallow'):
            return call(self, *args)

    monkeypatch.setattr(compile_cache.Watched, '__call__', guarded)
