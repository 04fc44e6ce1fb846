"""The README's first command as a user runs it: in full, and killed on the way."""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def start(workdir, *argv):
    env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    return subprocess.Popen([sys.executable, '-m', 'experiments.mnist1d', f'--workdir={workdir}', *argv], cwd=ROOT,
                            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    out = process.communicate(timeout=1200)[0]
    return process.returncode, out


def numbers(workdir):
    """Every metric of every step, wall clock aside."""
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith('time/')} for row in rows]


def test_the_table_of_the_paper(tmp_path):
    code, out = finish(start(tmp_path, '--check'))
    assert code == 0, out[-3000:]
    for row, paper in {'logistic': 0.32, 'mlp': 0.68, 'cnn': 0.94, 'gru': 0.91}.items():
        run = json.loads((tmp_path / row / 'run.json').read_text())
        assert run['status'] == 'done' and len(run['final']['test/accuracy']['members']) == 4
        assert abs(run['final']['test/accuracy']['mean'] - paper) <= 0.03
        assert run['final']['test/examples']['mean'] == 1000
        assert row in out
    assert (tmp_path / 'report.html').stat().st_size > 10_000


def test_killed_at_any_moment_it_ends_with_the_same_numbers(tmp_path):
    options = ('--variant=mlp', '--config.steps=2000', '--config.checkpoint_every=200')
    code, out = finish(start(tmp_path / 'straight', *options))
    assert code == 0, out[-3000:]
    log = tmp_path / 'killed' / 'metrics.jsonl'
    for step in sorted(random.Random(0).sample(range(100, 1900), 4)):
        process = start(tmp_path / 'killed', *options)
        while process.poll() is None and not (log.exists() and f'"step": {step // 40 * 40}' in log.read_text()):
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0][-3000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, out = finish(start(tmp_path / 'killed', *options))
    assert code == 0, out[-3000:]
    finals = [json.loads((tmp_path / name / 'run.json').read_text())['final'] for name in ('straight', 'killed')]
    assert finals[0] == finals[1]
    assert numbers(tmp_path / 'straight') == numbers(tmp_path / 'killed')
