"""The code of a run: its commit, the difference from it, and the versions of the libraries."""
import importlib.metadata
import json
import pathlib
import platform
import subprocess

import bigjax

PATCH = 'source.patch'
SENT = '.commit.json'  # in code that a launcher has sent without its repository
LARGEST = 10_000_000  # bytes of a patch


def git() -> dict:
    """{'sha', 'dirty'} of the checkout that bigjax is imported from; None where it is not one."""
    root = _root()
    try:
        if _top() != root:
            sent = json.loads((root / SENT).read_text())
            return {'sha': str(sent['sha']), 'dirty': bool(sent['dirty'])}
        return {'sha': _git_output('rev-parse', 'HEAD').decode().strip(),
                'dirty': bool(_git_output('status', '--porcelain', '--untracked-files=no').strip())}
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return {'sha': None, 'dirty': None}


def patch() -> str:
    """The patch from the commit to this code, for `git apply`: changed files, and new ones that git does not ignore; '' where
    nothing differs, where there is no commit, where it is larger than 10 MB or no text."""
    try:
        if _top() != _root():
            return ''
        changed = _git_output('diff', '--binary', 'HEAD')
        new = _git_output('ls-files', '-z', '--others', '--exclude-standard', '--', '*.py').split(b'\0')
        for name in filter(None, new):  # a difference is exit 1
            changed += subprocess.run(['git', '-C', _root(), 'diff', '--binary', '--no-index', '--', '/dev/null', name],
                                      capture_output=True, timeout=10, check=False).stdout
        return changed.decode() if len(changed) <= LARGEST else ''
    except (OSError, ValueError, subprocess.SubprocessError):
        return ''


def versions() -> dict:
    """Versions of Python, bigjax and the libraries that decide its numbers."""
    libraries = {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    return {'python': platform.python_version(), 'bigjax': bigjax.__version__, **libraries}


def _root() -> pathlib.Path:
    return pathlib.Path(bigjax.__file__).resolve().parent.parent


def _top() -> pathlib.Path | None:
    """The top of the repository that the code is in: another folder than its own where it is installed inside another's."""
    try:
        return pathlib.Path(_git_output('rev-parse', '--show-toplevel').decode().strip())
    except subprocess.CalledProcessError:
        return None


def _git_output(*command: str) -> bytes:
    return subprocess.run(['git', '-C', _root(), *command], capture_output=True, timeout=10, check=True).stdout
