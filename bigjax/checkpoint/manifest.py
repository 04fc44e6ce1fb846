"""The manifest of a checkpoint: its files with their sizes and SHA-256 sums, written last.

    manifest.json   {"format": 2, "bigjax": "0.1", "step": 400, "unjudged": false,
                     "files": {"state/_METADATA": {"bytes": 812, "sha256": "…"}}, "sha256": "… of the rest"}

A folder without it was not finished; one that differs from it is damaged, or copied in part. It travels with the folder. In
format 1 the manifest had no sum of its own.
"""
import concurrent.futures
import hashlib
import json

import bigjax
from bigjax.io import atomic, storage
from bigjax.io.text import printable

NAME = 'manifest.json'
EVAL_PENDING = 'unjudged'  # the key of formats 1 and 2
FORMAT = 2
UNFINISHED = f'{NAME} is missing: it was not written to its end'
THREADS = 4  # hashing releases Python's lock


def seal(folder, step: int, eval_pending: bool = False) -> None:
    """Writes the manifest of a finished checkpoint; until it is there, the checkpoint does not count.

    Args:
      eval_pending: the evaluators that are due after this step have not run yet.
    """
    folder = storage.place(folder)
    paths = list(_files(folder))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        sums = list(pool.map(lambda p: storage.sha256(folder / p), paths))
    listed = {p: {'bytes': size, 'sha256': digest} for p, (size, digest) in zip(paths, sums, strict=True)}
    manifest = {'format': FORMAT, 'bigjax': bigjax.__version__, 'step': int(step), EVAL_PENDING: eval_pending, 'files': listed}
    atomic.write_json(folder / NAME, {**manifest, 'sha256': _sum(manifest)})


def fault(folder, deep: bool = True) -> str:
    """The fault of a checkpoint as text, '' where it is as it was written.

    Args:
      deep: also reads every file; otherwise names and sizes alone are compared.
    """
    folder = storage.place(folder)
    try:
        manifest = read(folder)
    except FileNotFoundError:
        return UNFINISHED
    except storage.StorageUnavailable:
        raise
    except (OSError, ValueError, RecursionError) as error:
        return f'{NAME} cannot be read ({type(error).__name__}), or is not what was written'
    if folder.name.isdigit() and manifest['step'] != int(folder.name):
        return f"it is the checkpoint of step {manifest['step']}, renamed"
    listed, there = manifest['files'], _files(folder)
    for missing in sorted(set(listed) - set(there)):
        return f'{printable(missing)} is missing'
    for strange in sorted(set(there) - set(listed)):
        return f'{printable(strange)} does not belong to it'
    for name, facts in listed.items():
        if (size := there[name].size) != facts['bytes']:
            return f"{printable(name)} has {size:,} bytes instead of {facts['bytes']:,}"
    if not deep:
        return ''
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for name, digest in zip(listed, pool.map(lambda p: _readable_sum(folder / p), listed), strict=True):
            if not digest:
                return f'{printable(name)} cannot be read'
            if digest != listed[name]['sha256']:
                return f'{printable(name)} is not what was written: its checksum differs'
    return ''


def sealed(folder) -> bool:
    """Whether a checkpoint has a manifest: it was written to its end."""
    return storage.facts(storage.place(folder) / NAME) is not None


def read(folder) -> dict:
    """The manifest of a checkpoint.

    Raises:
      OSError, ValueError, RecursionError: there is none, or it is not one.
    """
    found = json.loads(storage.read(storage.place(folder) / NAME).decode())
    if not isinstance(found, dict) or found.get('format') not in (1, FORMAT) or not isinstance(found.get('files'), dict):
        raise ValueError('not a manifest of a known format')
    if found.pop('sha256', None) != (_sum(found) if found['format'] > 1 else None):
        raise ValueError('not what was written')
    if type(found.get('step')) is not int or type(found.get(EVAL_PENDING)) is not bool:
        raise ValueError('no step, or not whether it was judged')
    for facts in found['files'].values():
        if not isinstance(facts, dict) or type(facts.get('bytes')) is not int or not isinstance(facts.get('sha256'), str):
            raise ValueError('not sizes and checksums of files')
    return found


def _sum(manifest: dict) -> str:
    """The sum of a manifest's contents, whatever their layout."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def _files(folder) -> dict[str, storage.Facts]:
    """The files of a folder but the manifest, relative, sorted."""
    return {name: facts for name, facts in storage.files(folder).items() if name != NAME}


def _readable_sum(path) -> str:
    try:
        return storage.sha256(path)[1]
    except storage.StorageUnavailable:
        raise
    except OSError:
        return ''
