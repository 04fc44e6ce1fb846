"""The code that a job is sent: what git tracks, and what it does not ignore, as it is now in the working tree.

A copy of it is kept with the job, so that a restart days later runs the same code, whatever is edited meanwhile; its name is
a hash of its content. Files that hold secrets by their names stay where they are. Beside it lie the commit and what
differs from it:

    JOB/code/HASH/…    with .commit.json, from which a run's record takes its commit where there is no git
    JOB/changes.diff   against the commit, of tracked files
"""
import dataclasses
import fnmatch
import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess

from bigjax.errors import UserError
from bigjax.io.text import printable
from launch.lines import say

LIMIT = 200.0  # MB
COMMIT = '.commit.json'
SECRET = ('.env*', '*.pem', '*.key', '*.p12', '*.pfx', 'id_rsa*', 'id_dsa*', 'id_ecdsa*', 'id_ed25519*', '.netrc', '.pypirc',
          '.git-credentials', 'kaggle.json')  # names of files, in any folder
HARMLESS = ('*.example', '*.sample', '*.template', '*.pub')


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A working tree.

    Attributes:
      root: its top.
      within: the current folder below it, where the command runs: 'sub/folder', or '.'.
      files: (path below the root, bytes), sorted.
      commit: '' before the first one.
      changed: whether tracked files differ from it, or there are others.
      hash: of all that is sent.
    """

    root: pathlib.Path
    within: str
    files: tuple[tuple[str, int], ...]
    commit: str
    changed: bool
    hash: str

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, size in self.files)

    def __str__(self) -> str:
        at = f"commit {self.commit[:10]}{' with changes' if self.changed else ''}" if self.commit else 'no commit yet'
        return f'{len(self.files)} files, {self.size / 1e6:.1f} MB, of {self.root} ({at})'


def collect(folder: pathlib.Path, limit: float = LIMIT) -> Bundle:
    """What would be sent from a folder.

    Raises:
      UserError: it is in no git repository, or there is more than `limit` MB.
    """
    try:
        root = pathlib.Path(_git(folder, 'rev-parse', '--show-toplevel').strip())
    except FileNotFoundError:
        raise UserError('git: no such program here; install it: it says which files are sent',
                        code='launch/no-program') from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[0].removeprefix('fatal: ')
        raise UserError(f"{folder}: {said}; what is sent is what git tracks: change to the project's folder, or "
                        "begin one there with 'git init'", code='launch/no-repository') from None
    listed = sorted(_listed(root))
    if kept := [path for path in listed if secret(path)]:
        more = f' and {len(kept) - 3} more' if len(kept) > 3 else ''
        say(f"not sent, as a name for secrets: {', '.join(map(printable, kept[:3]))}{more}; what a job needs goes by --env")
    files = tuple((path, (root / path).lstat().st_size) for path in listed if not secret(path))
    total = sum(size for _, size in files) / 1e6
    if total > limit:
        largest = ', '.join(f'{path} ({size / 1e6:.0f} MB)' for path, size in sorted(files, key=lambda file: -file[1])[:3])
        raise UserError(f'{root}: {total:.0f} MB would be sent, more than limit={limit:.0f}; the largest are {largest}; put '
                        'what is no code into .gitignore, or raise limit=…', code='launch/code-too-large')
    try:
        commit = _git(root, 'rev-parse', '--verify', '--quiet', 'HEAD').strip()
    except subprocess.CalledProcessError:
        commit = ''
    changed = bool(_git(root, 'status', '--porcelain', '--untracked-files=normal').strip())
    within = folder.resolve().relative_to(root.resolve()).as_posix()
    record = _record(commit, changed)
    return Bundle(root, within, files, commit, changed, _hash(root, [path for path, _ in files], record))


def keep(bundle: Bundle, job: pathlib.Path) -> pathlib.Path:
    """Copies it into a job's folder; the folder of the copy.

    Raises:
      UserError: it cannot be written, or a file has been changed since `collect`.
    """
    to = job / 'code' / bundle.hash
    if to.exists():
        return to
    draft = to.with_name(f'{bundle.hash}.{os.getpid()}')
    try:
        draft.mkdir(parents=True)
        for path, _ in bundle.files:
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(bundle.root / path, draft / path, follow_symlinks=False)
        record = _record(bundle.commit, bundle.changed)
        if _hash(draft, [path for path, _ in bundle.files], record) != bundle.hash:
            raise UserError(f'{bundle.root}: files were changed while they were copied; run the same command again',
                            code='launch/code-changed')
        (draft / COMMIT).write_text(record)
        if bundle.commit:
            (job / 'changes.diff').write_bytes(_bytes(bundle.root, 'diff', 'HEAD', '--binary', '--', '.', *(
                f':(exclude,glob,icase)**/{pattern}' for pattern in SECRET)))
        draft.rename(to)
    except OSError as error:
        raise UserError(f'{error.filename or draft}: cannot be copied ({error.strerror})', code='launch/not-writable') from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return to


def secret(path: str) -> bool:
    """Whether a file is, by its name, one that is nobody else's business: keys, and variables with passwords."""
    name = path.rsplit('/', 1)[-1].lower()
    matches = lambda patterns: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    return matches(SECRET) and not matches(HARMLESS)


def _listed(root: pathlib.Path) -> list[str]:
    """Paths of files and links, also of submodules."""
    found = []
    for path in _git(root, 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0'):
        place = root / path
        if path and place.is_dir() and not place.is_symlink():  # a submodule, or a repository in the repository
            found += [f"{path.rstrip('/')}/{inner}" for inner in _listed(place)] if (place / '.git').exists() else []
        elif path and (place.is_file() or place.is_symlink()):  # and not deleted, nor a socket
            found.append(path)
    return sorted(set(found))


def _hash(root: pathlib.Path, paths: list[str], record: str) -> str:
    """Of names, content, and whether it may be executed; and of the commit, which a run's record shows."""
    total = hashlib.sha256(record.encode())
    for path in paths:
        place = root / path
        mode = place.lstat().st_mode
        content = os.readlink(place).encode() if stat.S_ISLNK(mode) else place.read_bytes()
        kind = 'link' if stat.S_ISLNK(mode) else 'program' if mode & stat.S_IXUSR else 'file'
        total.update(f'{kind}\0{path}\0{len(content)}\0'.encode(errors='surrogateescape') + content)
    return total.hexdigest()[:16]


def _record(commit: str, changed: bool) -> str:
    return json.dumps({'sha': commit or None, 'dirty': changed}) + '\n'


def _git(folder: pathlib.Path, *words: str) -> str:
    return os.fsdecode(_bytes(folder, *words))


def _bytes(folder: pathlib.Path, *words: str) -> bytes:
    done = subprocess.run(['git', '-C', str(folder), *words], capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr.decode(errors='replace'))
    return done.stdout
