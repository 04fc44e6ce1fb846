"""A small project in a repository, and hosts that are folders of this machine, behind an ssh that stays on it."""
import contextlib
import os
import shutil
import signal

import pytest

from launch.engines import base
from launch.job import Job
from tests.launch.tools import program, repository

SECRET = "s3cret'$(touch leaked)\nof two lines"
FAKE = """\
# a fake ssh: the command runs here, each host has a home of its own, and the calls are kept
query=
while :; do case $1 in -[olpiF]) shift 2 ;; -T) shift ;; -G) query=1; shift ;; *) host=$1; shift; break ;; esac; done
[ -z "$query" ] || { echo "hostname $host"; exit 0; }
[ ! -f FOLDER/$host.off ] || { echo "ssh: connect to host $host port 22: Connection timed out" >&2; exit 255; }
mkdir -p FOLDER/$host; cd FOLDER/$host || exit 1
echo "$host $*" >> FOLDER/calls
HOME=FOLDER/$host exec sh -c "$*"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project with git, in which the test runs; nothing of the user's is read or written."""
    root = tmp_path / 'project'
    (root / 'sub').mkdir(parents=True)
    (root / 'sub' / 'work.py').write_text('print(1)\n')
    (root / 'tool.sh').write_text('exit 0\n')
    (root / 'tool.sh').chmod(0o755)
    (root / '.gitignore').write_text('*.ckpt\n')
    (root / 'big.ckpt').write_bytes(b'x' * 1000)
    (root / 'link').symlink_to('sub/work.py')
    repository(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))
    monkeypatch.setenv('TOKEN', SECRET)
    return root


@pytest.fixture
def near(project, tmp_path, monkeypatch):
    """Hosts h1, h2, … that are folders here, reached by an ssh that stays on this machine."""
    if not shutil.which('rsync') or not shutil.which('setsid'):
        pytest.skip('needs rsync and setsid')
    program(tmp_path / 'bin' / 'ssh', FAKE.replace('FOLDER', str(tmp_path / 'hosts')))
    (tmp_path / 'hosts').mkdir()
    monkeypatch.setenv('PATH', f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    yield tmp_path / 'hosts'
    for pid in (tmp_path / 'hosts').glob('h*/.bigjax/jobs/*/*.pid'):
        keeper, _, group, *_ = pid.read_text().split()
        for kill, number in ((os.kill, int(keeper)), (os.killpg, int(group))):
            with contextlib.suppress(ProcessLookupError):
                kill(number, signal.SIGKILL)


def make(on='ssh:h1,h2', command=('sh', '-c', 'echo hello; sleep 0.2'), **more):
    return base.engine(Job('e1', on, tuple(command), created='2026-01-01T00:00:00+00:00', **more))
