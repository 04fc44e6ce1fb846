"""The watch over a process: it ends even where its last words cannot be written. (What it says and saves: tests/trust.)"""
import subprocess
import sys

STUCK = '''
import time
from bigjax.train import guard
guard.LAST_WORDS = 0.5
with guard.Guard(budgets={'step': 0.5}, name='process 0') as watch:
    watch.last_words = lambda error: time.sleep(1000)
    watch.clock.enter('step', 7)
    time.sleep(1000)
'''


def test_a_disk_that_hangs_does_not_keep_a_stuck_process():
    done = subprocess.run([sys.executable, '-c', STUCK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "process 0 is stuck: step 7, 'step' for" in done.stderr
