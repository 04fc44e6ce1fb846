"""Killed at any moment of saving and tidying up: a complete checkpoint is always there, at most one save is lost, no leftovers.

Tried by breaking: the manifest written before the files, unfinished folders taken for checkpoints.
"""
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from bigjax.checkpoint import manager, manifest
from tests.trust import runs

pytestmark = pytest.mark.trust


def killed_after(workdir, seconds: float) -> list[str]:
    """What a saver printed before it was killed, `seconds` after it began to save."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'tests.trust.saver', str(workdir)], cwd=runs.ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': str(runs.ROOT)})
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith('found'):  # it is about to save
            threading.Timer(seconds, process.send_signal, (signal.SIGKILL,)).start()
    assert process.wait() == -9, '\n'.join(lines[-20:])
    return lines


def test_kills_during_saving(tmp_path, tally, battery):
    rng, newest = random.Random(0), 0
    many = 200 if battery == 'full' else 20
    for _ in range(many):
        with tally('SIGKILL while saving and tidying up', 'a complete checkpoint is there, no leftovers stay') as note:
            lines = killed_after(tmp_path, rng.uniform(0.0, 0.6))
            note(exits=[-9])
            assert next(line for line in lines if line.startswith('found')) == f'found {newest}', lines
            reported = [int(line.split()[1]) for line in lines if line.startswith('saved')]
            found = manager.steps(tmp_path / manager.FOLDER) or [0]  # the first kill may come before the first save
            assert found[-1] in range(max([newest, *reported]), max([newest, *reported]) + 3)
            assert not found[-1] or not manifest.fault(tmp_path / manager.FOLDER / str(found[-1]))
            newest = found[-1]
    keeper = manager.Checkpoints(tmp_path)
    keeper.close()
    left = {p.name for p in (tmp_path / manager.FOLDER).iterdir()}
    assert not any(manifest.fault(tmp_path / manager.FOLDER / name) for name in left)
    assert left == {str(step) for step in keeper.steps()} and newest > 0 and not (tmp_path / manager.DAMAGED).exists()
