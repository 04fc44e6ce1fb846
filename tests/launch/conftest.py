"""Fixtures of the launcher's tests."""
import json
import os
import pathlib
import signal
import sys

import pytest

from tests.launch.cluster import cluster  # noqa: F401  fixtures of several files
from tests.launch.hosts import hosts  # noqa: F401
from tests.launch.near import near, project  # noqa: F401


@pytest.fixture(autouse=True)
def interruptible():
    """Handles Ctrl-C and hangups as in a terminal: shells ignore the first for programs in the background, nohup the second."""
    before = {number: signal.signal(number, handler) for number, handler in (
        (signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL))}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Played:
    """A program whose answers a test writes into the folder `here`; it records its calls in calls.jsonl."""

    def __init__(self, here: pathlib.Path):
        self.here = here

    @property
    def calls(self):
        return [json.loads(line) for line in (self.here / 'calls.jsonl').read_text().splitlines()]

    def called(self, *words):
        """The calls that have all of these arguments."""
        return [call for call in self.calls if set(words) <= set(call['argv'])]


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Puts fake_NAME.py in the place of the program NAME, with jobs of the test's own."""
    def put(name):
        tool = tmp_path / 'tools' / name
        tool.parent.mkdir()
        fake = pathlib.Path(__file__).with_name(f'fake_{name}.py')
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
        tool.chmod(0o755)
        monkeypatch.setenv('PATH', str(tool.parent), prepend=os.pathsep)
        monkeypatch.setenv('FAKE', str(tmp_path))
        monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))
        return tmp_path
    return put
