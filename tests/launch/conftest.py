"""Ctrl-C is heard in these tests, also where they run in the background, where a shell has it ignored."""
import signal

import pytest


@pytest.fixture(autouse=True)
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
