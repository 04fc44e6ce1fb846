"""The same command twice at the same time: the second run is refused, and the first one is not disturbed.

Tried by breaking: the lock left out.
"""
import re
import time

import pytest

from tests.trust import runs
from tests.trust.test_kills import straight  # noqa: F401  a fixture

KIND = 'recurrent'


@pytest.mark.trust
def test_the_second_of_two_runs_in_one_workdir_is_refused(straight, tmp_path, tally):  # noqa: F811
    with tally('the same command twice at once', 'the second is refused in a line, the first is not disturbed') as note:
        first, = runs.start(KIND, tmp_path / 'run', trust='step:14:sleep')
        while runs.reached(tmp_path / 'run') < 6:
            assert first.poll() is None, first.communicate()[0][-3000:]
            time.sleep(0.1)
        code, out = runs.run(KIND, tmp_path / 'run')
        note(exits=[code])
        assert code == 2 and re.search(rf'process {first.pid} on \S+ is writing a run', out.strip().splitlines()[-1]), out
        first.kill()
        first.communicate()
        code, out = runs.run(KIND, tmp_path / 'run')
        assert code == 0 and 'resuming from step' in out, out[-3000:]
        runs.assert_same(tmp_path / 'run', straight(KIND))
