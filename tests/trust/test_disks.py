"""A disk that is full, and one that becomes read-only, during a run: a clear stop, and nothing is lost.

Tried by breaking: an error in the background kept for the end of the run, the checkpoint before removed too early.
"""
import re
import subprocess
import time

import pytest

from bigjax.checkpoint import manager, manifest
from tests.trust import runs
from tests.trust.test_kills import straight  # noqa: F401  a fixture

pytestmark = pytest.mark.trust
KIND, SIZE = 'recurrent', '8m'
HELD = 'one line, older checkpoints intact, the next start resumes'


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    place = tmp_path / 'disk'
    place.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'no file system can be mounted here: {mounted.stderr.strip()}')
    yield place
    subprocess.run(['umount', '--lazy', '--recursive', place], check=True)


HARMS = {  # a disk that fails becomes read-only although files are open there, which `mount` alone refuses to do
    'full': ('cat /dev/zero > {disk}/filler', 'rm {disk}/filler', 'no space left'),
    'read-only': ('mount --bind {disk}/run {disk}/run && mount -o remount,bind,ro {disk}/run', 'umount {disk}/run',
                  'read-only'),
}


@pytest.mark.parametrize('at', ['save:3', 'lines:15', 'restore:1'])
@pytest.mark.parametrize('harm', HARMS)
def test_a_disk_that_cannot_be_written_stops_the_run(straight, disk, battery, tally, harm, at):  # noqa: F811
    if battery == 'short' and at != 'save:3':
        pytest.skip('with --battery=full')
    harmful, mend, named = (text.format(disk=disk) for text in HARMS[harm])
    with tally(f'a disk that becomes {harm}', HELD) as note:
        code, out = runs.run(KIND, disk / 'run', trust=f'{at}:shell', shell=harmful)
        note(exits=[code])
        assert code == 1 and re.match(rf'mnist1d: .*{named}', out.strip().splitlines()[-1]), out[-3000:]
        own = f'File "{runs.ROOT}/bigjax/'
        assert own not in out, out[-3000:]  # the writers of TensorStore, in the middle of a save, cannot be kept quiet
        good = manager.steps(disk / 'run' / manager.FOLDER)
        assert bool(good) == (at != 'restore:1')
        assert not any(manifest.fault(disk / 'run' / manager.FOLDER / str(step)) for step in good)
        subprocess.run(mend, shell=True, check=True)
        reached = runs.reached(disk / 'run')
        code, out = runs.run(KIND, disk / 'run')
        assert code == 0, out[-3000:]
        assert not good or f'resuming from step {good[-1]}' in out
        assert reached - max([0, *good]) <= 2 * runs.EVERY
        runs.assert_same(disk / 'run', straight(KIND))


@pytest.mark.parametrize('harm', HARMS)
def test_of_two_processes_both_end_in_a_line(disk, battery, tally, harm):
    """The save of the third checkpoint is under way in both when process 0 finds that it cannot write its records."""
    if battery == 'short' and harm == 'full':
        pytest.skip('with --battery=full')
    harmful, mend, named = (text.format(disk=disk) for text in HARMS[harm])
    with tally(f'a disk that becomes {harm}', HELD) as note:
        began = time.monotonic()
        ended = runs.end(runs.start(KIND, disk / 'run', processes=2, trust='save:3:shell:0:0', shell=harmful))
        note(exits=[code for code, _ in ended])
        assert [code for code, _ in ended] == [1, 1] and time.monotonic() - began < 120
        for _, out in ended:
            assert named in out.strip().splitlines()[-1], out[-3000:]
        good = manager.steps(disk / 'run' / manager.FOLDER)
        assert good and not any(manifest.fault(disk / 'run' / manager.FOLDER / str(step)) for step in good)
        subprocess.run(mend, shell=True, check=True)
        ended = runs.end(runs.start(KIND, disk / 'run', processes=2))
        assert [code for code, _ in ended] == [0, 0] and f'resuming from step {good[-1]}' in ended[0][1], ended[0][1][-3000:]
