"""One run in a workdir at a time; who is killed gives it back, and was alive until then."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from bigjax.runs import lock
from tests.refused import refused

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import os, pathlib, sys, time
from bigjax.runs import lock
held = lock.Lock(pathlib.Path(sys.argv[1]))
worker = os.fork() if sys.argv[2] == 'forks' else 1
if worker:
    print(worker, flush=True)
time.sleep(60)
"""


def holder(workdir, how=''):
    """(process, number of its child): it holds the workdir."""
    process = subprocess.Popen([sys.executable, '-c', HOLD, str(workdir), how], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_the_second_one_is_refused_and_told_who_is_there(tmp_path):
    process, _ = holder(tmp_path)
    with refused('workdir/locked', f'process {process.pid} on ', '--workdir'):
        lock.Lock(tmp_path, timeout_s=0.3)
    process.kill()
    process.wait()
    lock.Lock(tmp_path, timeout_s=0.3).release()


def test_a_worker_that_outlives_its_killed_parent_holds_nothing(tmp_path):
    process, worker = holder(tmp_path, 'forks')
    process.kill()
    process.wait()
    lock.Lock(tmp_path, timeout_s=2.0).release()
    os.kill(worker, signal.SIGKILL)


def test_the_next_one_waits_for_the_end_of_the_one_before(tmp_path):
    process, _ = holder(tmp_path)
    subprocess.Popen(['sh', '-c', f'sleep 0.5; kill -9 {process.pid}'])
    began = time.monotonic()
    lock.Lock(tmp_path, timeout_s=20.0).release()
    assert 0.3 < time.monotonic() - began < 10
    process.wait()


def test_the_last_sign_of_life_is_known(tmp_path):
    first = lock.Lock(tmp_path)
    assert first.before == 0.0
    os.utime(tmp_path / lock.NAME, (1000.0, 1000.0))
    time.sleep(1.5 * lock.HEARTBEAT_S)
    first.release()
    assert time.time() - lock.Lock(tmp_path).before < 2.0 * lock.HEARTBEAT_S
    assert re.match(rf'process {os.getpid()} on ', (tmp_path / lock.NAME).read_text())


def test_a_file_system_without_locks_is_not_watched(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(lock.fcntl, 'lockf', none)
    lock.Lock(tmp_path).release()
