"""`remote.sh` in a folder of a job, run by each POSIX shell: exit codes, signals, what it keeps and reports."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

from launch.engines.ssh import ssh
from tests.launch.tools import SOON_S, group_alive

REMOTE = pathlib.Path(ssh.__file__).with_name('remote.sh')
SHELLS = [shell for shell in ('dash', 'bash', 'sh') if shutil.which(shell)]


class There:
    """`remote.sh` in a folder of a job, run by one shell."""

    def __init__(self, folder, shell):
        self.folder, self._shell = folder, shell
        folder.mkdir()
        shutil.copy(REMOTE, folder / 'remote.sh')

    def __call__(self, *words, code=0):
        done = subprocess.run([self._shell, self.folder / 'remote.sh', *words], capture_output=True, text=True, timeout=SOON_S,
                              check=False)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def start(self, text, grace='2'):
        self('start', '0', '1', grace, str(self.folder), 'sh', '-c', text)

    def said(self, offset=0):
        """The messages until the end, without the times."""
        lines = self('follow', f'0:{offset}').splitlines()
        return [line.split()[0] + (line.split()[2] if line.startswith('E') else '') for line in lines
                if re.fullmatch(r'[EGLSTQ]( [\d.]+)*', line)]

    @property
    def pids(self):
        keeper, _, group, *_ = (self.folder / '0.pid').read_text().split()
        return int(keeper), int(group)


@pytest.fixture(params=[pytest.param(shell, marks=[pytest.mark.slow] * (shell == 'bash')) for shell in SHELLS if shell != 'sh'])
def there(request, tmp_path):
    if not shutil.which('setsid'):
        pytest.skip('needs setsid')
    made = There(tmp_path / 'job', request.param)
    yield made
    made('clear', '0')


@pytest.mark.parametrize(('text', 'wanted'), [
    ('echo hi; exit 3', 'E3'), ('exit 255', 'E255'), ('kill -KILL $$', 'E137'), ('exit 75', 'E75'),
])
def test_the_script_keeps_the_exit_code_and_the_log(there, text, wanted):
    there.start(text)
    assert there.said() == [wanted, 'G', 'Q']
    assert ('hi\n' in (there.folder / '0.log').read_text()) == ('hi' in text)
    assert there('show').split()[:2] == ['0', 'gone']


def test_a_keeper_that_is_told_to_end_stays_until_the_command_has(there):
    there.start('sleep 0.7; exit 6')
    os.kill(there.pids[0], signal.SIGTERM)
    assert there.said() == ['E6', 'G', 'Q']


def test_the_script_ends_a_group_and_only_that(there):
    there.start("trap 'echo saved; exit 75' TERM; while :; do sleep 0.1; done")
    there('start', '1', '1', '2', str(there.folder), 'sleep', '60')
    there('send', 'TERM', '0')
    assert there.said() == ['E75', 'G', 'Q'] and 'saved' in (there.folder / '0.log').read_text()
    assert there('show', '1').split()[1] == 'running'
    assert 'still there' in there('start', '1', '2', '2', str(there.folder), 'true', code=1)
    there('send', 'KILL', '1')


@pytest.mark.slow
def test_what_a_process_leaves_behind_ends_with_it(there):
    deaf = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'
    there.start(f"{sys.executable} -c '{deaf}' & sleep 0.5; exit 0", grace='1')
    group = there.pids[1]
    assert there.said() == ['E0', 'G', 'Q']
    assert not group_alive(group)


@pytest.mark.slow
def test_without_its_keeper_a_process_is_seen_and_ended(there):
    there.start('sleep 60')
    keeper, group = there.pids
    os.kill(keeper, signal.SIGKILL)
    assert there('show').split()[1] == 'running'
    there('clear', '1')
    assert there.said() == ['L', 'G', 'Q']
    assert not group_alive(group)


@pytest.mark.slow
def test_after_a_boot_nothing_is_taken_for_ours(there):
    there.start('sleep 60')
    path = there.folder / '0.pid'
    whole = path.read_text()
    words = whole.split()
    path.write_text(' '.join([*words[:4], 'another-boot', *words[5:]]) + '\n')
    assert there('show').split()[1] == 'gone' and there.said() == ['L', 'G', 'Q']
    path.write_text(' '.join([words[0], '1', words[2], '1', *words[4:]]) + '\n')  # the same numbers, of later processes
    assert there('show').split()[1] == 'gone'
    path.write_text(whole)


def test_a_marker_a_shorter_log_and_an_offset_are_told(there):
    there.start('echo one; echo two')
    whole = there('follow', '0:0')
    size = (there.folder / '0.log').stat().st_size
    there('stop')
    assert there.said(size) == ['S', 'E0', 'G', 'Q'] and there.said(size + 5)[:2] == ['S', 'T']
    assert f'D 0 {size - 4} 4\ntwo\n' in there('follow', f'0:{size - 4}') and f'D 0 0 {size}' in whole


def test_one_of_several_launchers_starts_it(there):
    assert [there('claim', number).strip() for number in '112'] == ['granted', 'taken', 'granted']
    assert there('claimed').strip() == '2'
    assert 20000 <= int(there('port')) < 30000
