"""The code that is copied for a job: the files that git tracks or does not ignore, as they are now in the working tree.

A copy is kept with the job, named by a hash of its content, so that a restart days later runs the same code. Files whose names
suggest secrets are left out. Beside the copy are the commit and the differences from it:

    JOB/code/HASH/…    with .commit.json, from which a run's record takes its commit on machines without the repository
    JOB/changes.diff   the diff of tracked files against the commit
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
from launch.lines import log

LIMIT_MB = 200.0
COMMIT = '.commit.json'
SECRET = ('.env*', '*.pem', '*.key', '*.p12', '*.pfx', 'id_rsa*', 'id_dsa*', 'id_ecdsa*', 'id_ed25519*', '.netrc', '.pypirc',
          '.git-credentials', 'kaggle.json')  # file names, in any folder
HARMLESS = ('*.example', '*.sample', '*.template', '*.pub')


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A working tree.

    Attributes:
      root: its top folder.
      within: the current folder relative to `root`, where the command runs: 'sub/folder', or '.'.
      files: (path relative to `root`, bytes), sorted.
      commit: the commit's hash, '' before the first commit.
      changed: whether tracked files differ from the commit, or there are untracked ones.
      hash: the hash of everything that is copied.
    """

    root: pathlib.Path
    within: str
    files: tuple[tuple[str, int], ...]
    commit: str
    changed: bool
    hash: str

    @property
    def size(self) -> int:
        """The total size in bytes."""
        return sum(size for _, size in self.files)

    def __str__(self) -> str:
        at = f"commit {self.commit[:10]}{' with changes' if self.changed else ''}" if self.commit else 'no commit yet'
        return f'{len(self.files)} files, {self.size / 1e6:.1f} MB, from {self.root} ({at})'


def collect(folder: pathlib.Path, limit: float = LIMIT_MB) -> Bundle:
    """The bundle of the repository that contains a folder.

    Raises:
      UserError: there is no git repository, or the bundle exceeds `limit` MB.
    """
    try:
        root = pathlib.Path(_git(folder, 'rev-parse', '--show-toplevel').strip())
    except FileNotFoundError:
        raise UserError("'git': no such program here; fix: install it: it lists the files to copy",
                        code='launch/no-program') from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[0].removeprefix('fatal: ')
        raise UserError(f"{folder}: {reason}; fix: change to the project's folder, or run 'git init' there: only files that "
                        'git lists are copied', code='launch/no-repository') from None
    listed = sorted(_listed(root))
    if kept := [path for path in listed if secret(path)]:
        more = f' and {len(kept) - 3} more' if len(kept) > 3 else ''
        log(f"not copied, as its name suggests a secret: {', '.join(map(printable, kept[:3]))}{more}; fix: pass what the job "
            'needs by --env')
    files = tuple((path, (root / path).lstat().st_size) for path in listed if not secret(path))
    total = sum(size for _, size in files) / 1e6
    if total > limit:
        largest = ', '.join(f'{path} ({size / 1e6:.0f} MB)' for path, size in sorted(files, key=lambda file: -file[1])[:3])
        raise UserError(f'{root}: got {total:.0f} MB to copy, expected at most limit={limit:.0f}, largest {largest}; fix: add '
                        'files that are not code to .gitignore, or raise limit=…', code='launch/code-too-large')
    try:
        commit = _git(root, 'rev-parse', '--verify', '--quiet', 'HEAD').strip()
    except subprocess.CalledProcessError:
        commit = ''
    changed = bool(_git(root, 'status', '--porcelain', '--untracked-files=normal').strip())
    within = folder.resolve().relative_to(root.resolve()).as_posix()
    record = _record(commit, changed)
    return Bundle(root, within, files, commit, changed, _hash(root, [path for path, _ in files], record))


def keep(bundle: Bundle, job: pathlib.Path) -> pathlib.Path:
    """Copies a bundle into a job's folder; returns the folder of the copy.

    Raises:
      UserError: it cannot be written, or a file has changed since `collect`.
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
            raise UserError(f'{bundle.root}: files changed while they were copied; fix: run the same command again',
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
    """Whether a file's name suggests a secret: a key, or variables with passwords."""
    name = path.rsplit('/', 1)[-1].lower()
    matches = lambda patterns: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    return matches(SECRET) and not matches(HARMLESS)


def _listed(root: pathlib.Path) -> list[str]:
    """The paths of all files and links, including submodules."""
    found = []
    for path in _git(root, 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0'):
        place = root / path
        if path and place.is_dir() and not place.is_symlink():  # a submodule, or a repository in the repository
            found += [f"{path.rstrip('/')}/{inner}" for inner in _listed(place)] if (place / '.git').exists() else []
        elif path and (place.is_file() or place.is_symlink()):  # neither deleted nor a socket
            found.append(path)
    return sorted(set(found))


def _hash(root: pathlib.Path, paths: list[str], record: str) -> str:
    """A hash of names, contents, permission to execute, and the commit, which a run's record shows."""
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
