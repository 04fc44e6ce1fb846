"""Ten thousand steps with a hundred saves and evaluations hold no more of the machine than the first thousand."""
import json
import os
import subprocess
import sys

import pytest

from tests.trust import runs

pytestmark = pytest.mark.trust
STEPS, TIMES = 10_000, 100


def test_nothing_grows(tmp_path, tally):
    done = subprocess.run([sys.executable, '-m', 'tests.trust.soak', str(tmp_path), str(STEPS), str(TIMES)], cwd=runs.ROOT,
                          env={**os.environ, 'PYTHONPATH': str(runs.ROOT)}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads((tmp_path / 'held.json').read_text())
    held = facts['held'][:TIMES]
    assert [row['step'] for row in held] == [STEPS // TIMES * (i + 1) for i in range(TIMES)]
    late, early = held[-TIMES // 10:], held[TIMES // 10:TIMES // 5]
    spent = {phase: facts['seconds'][phase] for phase in ('data', 'step', 'evaluation', 'save')}
    percent = 100 * spent['save'] / sum(spent.values())
    with tally(f'{STEPS:,} steps, {TIMES} saves, {TIMES} evaluations in a row',
               'memory, files and threads as after the first thousand; saves hold up at most 5 % of the time') as note:
        note(worst={'% of the time for saves': percent})
        for what, slack in (('resident', 0.02), ('files', 0), ('threads', 0)):
            before, after = (min(row[what] for row in rows) for rows in (early, late))  # a save under way holds more
            assert after <= before * (1 + slack), (what, before, after)
        assert percent <= 5
