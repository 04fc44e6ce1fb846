"""Mutation tests: each safeguard is taken out of the processes of a test, which must then fail (`tests.trust.mutations`).

The first seven, three of models and four of runs, are tried each time, the others with --battery=full.
"""
import contextlib
import os
import signal
import subprocess
import sys

import pytest

from tests.trust import runs
from tests.trust.mutations import SAFEGUARDS, VARIABLE

SHORT = tuple(SAFEGUARDS)[:7]
pytestmark = pytest.mark.trust


@pytest.mark.parametrize('name', SAFEGUARDS)
def test_without_it_the_named_test_fails(tmp_path, tally, battery, name):
    if battery == 'short' and name not in SHORT:
        pytest.skip('with --battery=full')
    options = ['-m', '', '-n', '0', '-x', '-p', 'no:cacheprovider', '-p', 'tests.trust.mutations', '--timeout=100',
               f'--basetemp={tmp_path}/tmp']
    process = subprocess.Popen([sys.executable, '-m', 'pytest', *options, f'tests/{SAFEGUARDS[name].test}'], cwd=runs.ROOT,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                               env={**os.environ, 'PYTHONPATH': str(runs.ROOT), VARIABLE: name})
    try:
        out = process.communicate(timeout=300)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):  # a test that is stopped leaves its processes behind
            os.killpg(process.pid, signal.SIGKILL)
    with tally('a protection taken out of the code', 'the test that is named beside it fails'):
        assert process.returncode == 1 and (' failed' in out.splitlines()[-1] or 'Timeout' in out), out[-3000:]


def test_every_named_test_exists():
    files = {safeguard.test.partition('::')[0] for safeguard in SAFEGUARDS.values()}
    listed = subprocess.run([sys.executable, '-m', 'pytest', '--collect-only', '-n', '0', '-m', '',
                             *(f'tests/{file}' for file in sorted(files))], cwd=runs.ROOT, text=True, capture_output=True,
                            env={**os.environ, 'PYTHONPATH': str(runs.ROOT)}).stdout
    for name, safeguard in SAFEGUARDS.items():
        assert f'tests/{safeguard.test}' in listed, (name, safeguard.test)
