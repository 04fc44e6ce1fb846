"""Functions that several tests of the launcher use: they wait, list processes, and make repositories, programs and copies."""
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = ('python', '-m', 'experiments.mnist1d', '--workdir=gs://b/exp7')
SOON_S = 20.0  # in which everything happens that needs no training


def until(true, seconds: float = SOON_S, what: str = 'it') -> None:
    """Returns once `true()` holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f'{what} did not happen'
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    return _listed('-p', pid, lambda words: True)


def group_alive(group: int) -> bool:
    """Whether a process of a group runs."""
    return _listed('-e', None, lambda words: int(words[0]) == group)


def _listed(which: str, value, wanted) -> bool:
    argv = ['ps', '-o', 'pgid=,stat=', which, *([] if value is None else [str(value)])]
    rows = map(str.split, subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines())
    return any(wanted(words) and words[1][0] != 'Z' for words in rows)


def git(root, *words: str) -> str:
    """Runs git there as a user of its own; returns its output."""
    done = subprocess.run(['git', '-c', 'user.name=t', '-c', 'user.email=t@example.com', '-c', 'protocol.file.allow=always',
                           *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(root, *paths: str) -> pathlib.Path:
    """Makes the folder a repository whose first commit has these files, by default all."""
    for words in (('init', '-q'), ('add', *(paths or ('.',))), ('commit', '-q', '-m', 'first')):
        git(root, *words)
    return pathlib.Path(root)


def program(path, text: str, shell: str = '/bin/sh') -> pathlib.Path:
    """Writes an executable script."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!{shell}\n{text}\n')
    path.chmod(0o755)
    return path


def copy_of_code(folder) -> pathlib.Path:
    """Copies the packages, without records of runs."""
    for package in ('bigjax', 'experiments', 'launch'):
        shutil.copytree(ROOT / package, pathlib.Path(folder) / package, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns('__pycache__', 'results'))
    return pathlib.Path(folder)


def assert_secret(secret: str, *texts: str, folders=()) -> None:
    """Asserts that no text, and no file below the folders, has the value; logs of the program itself are exempt."""
    files = [path for folder in folders for path in pathlib.Path(folder).rglob('*') if path.is_file() and path.suffix != '.log']
    for path in files:
        assert secret not in path.read_text(errors='replace'), path
    for text in texts:
        assert secret not in text


def launcher(*words: str) -> list[str]:
    """The command line of the launcher."""
    return [sys.executable, '-m', 'launch', *words]


class Clock:
    """In the place of `time`: sleeping takes no time. `at` holds functions to call once it has slept so often."""

    def __init__(self, now: float = 0.0):
        self.now, self.slept, self.sleeps, self.at = now, 0.0, 0, {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now, self.slept, self.sleeps = self.now + seconds, self.slept + seconds, self.sleeps + 1
        assert self.sleeps < 3000, 'it waits without end'
        self.at.pop(self.sleeps, lambda: None)()
