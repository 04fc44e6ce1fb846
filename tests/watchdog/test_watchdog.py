"""The watch over a process: it ends in time, whatever hangs. (What it prints and saves in a run: tests/trust.)"""
import signal
import subprocess
import sys
import time

import pytest

STUCK = '''
import time
from bigjax.watchdog import exits, watchdog
exits.LAST_WORDS_S = 0.5
with watchdog.Guard(timeouts={'step': 0.5}, name='process 0') as watch:
    watch.last_words = lambda error: time.sleep(1000)
    watch.clock.enter('step', 7)
    time.sleep(1000)
'''
HANGS = '''
import time
from bigjax.watchdog import watchdog
with watchdog.Guard(grace=4, name='process 0') as watch:
    watch.last_words, watch.unsaved = lambda error: time.sleep(1000), True
    watch.clock.enter('step', 7)
    print('up', flush=True)
    time.sleep(1000)
'''
LOCKED = '''
import ctypes
from bigjax.watchdog import timeouts, watchdog
timeouts.HARD_EXIT_S = 1
with watchdog.Guard(timeouts={'step': 0.5}) as watch:
    watch.clock.enter('step', 7)
    __import__('time').sleep(0.3)
    ctypes.PyDLL(None).sleep(1000)  # keeps Python's lock
'''
LEFT = '''
import time
from bigjax.watchdog import timeouts, watchdog
timeouts.HARD_EXIT_S = 0.2
with watchdog.Guard(timeouts={'step': 0.5}) as watch:
    watch.clock.enter('step', 7)
    time.sleep(0.3)
time.sleep(1.5)
print('lives')
'''
EXITS = '''
import atexit
__file__ = 'script.py'
from bigjax import cli
def script(*_):
    raise SystemExit(5)
atexit.register(print, 'waits for the others')
cli.run = script
cli.main()
'''


def run(program):
    """Runs a program to its end."""
    return subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=60)


@pytest.fixture
def hanging():
    """A process in a step that never ends, whose last words never end."""
    process = subprocess.Popen([sys.executable, '-c', HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'up\n'
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process):
    """(exit code, stderr, seconds until then)."""
    began = time.monotonic()
    err = process.communicate(timeout=60)[1]
    return process.returncode, err, time.monotonic() - began


def test_a_disk_that_hangs_does_not_keep_a_stuck_process():
    done = run(STUCK)
    assert done.returncode == 1
    assert "process 0 is stuck: step 7, 'step' for" in done.stderr


def test_the_grace_is_kept_whatever_hangs(hanging):
    hanging.send_signal(signal.SIGTERM)
    code, err, seconds = end(hanging)
    assert code == 75 and 2.5 < seconds < 4 and 'the last checkpoint is as it was' in err


def test_a_second_ctrl_c_ends_a_process_that_is_leaving(hanging):
    hanging.send_signal(signal.SIGINT)
    time.sleep(3.2)  # a quarter of the grace is for the end
    hanging.send_signal(signal.SIGINT)
    code, err, seconds = end(hanging)
    assert code == 130 and seconds < 0.5, err


def test_a_ctrl_c_that_comes_twice_is_one(hanging):
    hanging.send_signal(signal.SIGINT)
    time.sleep(0.15)
    hanging.send_signal(signal.SIGINT)
    code, err, seconds = end(hanging)
    assert code == 75 and seconds > 2.5 and 'Ctrl-C again' not in err


def test_a_main_thread_that_keeps_python_to_itself_is_ended():
    done = run(LOCKED)
    assert done.returncode == 1 and 'Timeout' in done.stderr and 'most recent call first' in done.stderr


def test_no_process_is_ended_once_the_watch_is_over():
    done = run(LEFT)
    assert (done.returncode, done.stdout) == (0, 'lives\n'), done.stderr


def test_a_script_that_exits_by_itself_does_not_wait():
    done = run(EXITS)
    assert done.returncode == 5 and not done.stdout and 'in script' in done.stderr
