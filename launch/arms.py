"""Runs one worker's share of a sweep's arms, one after the other, and skips those that are done.

    python -m launch.arms --arms='[{"optimizer.lr": 0.1}, …]' [--together] -- python -m experiments.X --workdir=DIR …

BIGJAX_SHARE=i/N selects the share; without it the worker runs all arms. Each arm is the command with its own values and its own
folder under DIR, in which the experiment resumes after a kill. With --together, arms that differ only in the seed and in
numbers of the optimizer are the members of one population. A lock in DIR/.locks keeps two workers from running the same arm.

exit 0: all of them are done, or another worker has them · 1: some have failed · 75: interrupted, run it again
"""
import argparse
import contextlib
import dataclasses
import fcntl
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from bigjax import sweep
from bigjax.errors import UserError
from bigjax.io.atomic import write_json
from bigjax.runs.reader import FINISHED
from launch.job import Job, flags_of, without
from launch.lines import log
from launch.outcome import DONE, FAILED, NO, PREEMPTED, USER


@dataclasses.dataclass(frozen=True)
class Work:
    """One run of a sweep.

    Attributes:
      arms: its arms by number; several if they are the members of a population.
      folder: its workdir.
      command: its command.
      members: members of the population per arm: arm k has those from k * members on. 0 if the run is a single arm.
    """

    arms: tuple[int, ...]
    folder: pathlib.Path
    command: tuple[str, ...]
    members: int = 0


def main(argv: Sequence[str]) -> int:
    """Runs the worker; returns its exit code."""
    at = argv.index('--') if '--' in argv else len(argv)
    parser = argparse.ArgumentParser(prog='python -m launch.arms')
    parser.add_argument('--arms', required=True)
    parser.add_argument('--together', action='store_true')
    options = parser.parse_args(argv[:at])
    try:
        arms = json.loads(options.arms)
        work, root = plan(arms, argv[at + 1:], options.together), folder_of(argv[at + 1:])
        index, count = share()
        if index == 0:
            keep(root, arms, argv[at + 1:], options.together)
        return run([w for i, w in enumerate(work) if i % count == index], root)
    except UserError as error:
        log(str(error))
        return USER


def share() -> tuple[int, int]:
    """(number of this worker, number of workers)."""
    index, _, count = os.environ.get('BIGJAX_SHARE', '0/1').partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"BIGJAX_SHARE={index}/{count}: expected i/N with i < N; fix: unset it, the engine sets it",
                        code='sweep/bad-share')
    return int(index), int(count)


def plan(arms: Sequence[Mapping], command: Sequence[str], together: bool) -> list[Work]:
    """The runs of a sweep, the same on every worker.

    Raises:
      UserError: an arm has a key or value that the experiment's config does not allow.
    """
    root, rest = folder_of(command), without(command, 'workdir')
    configs = [config_of(command, arm) for arm in arms]
    if not together:
        return [_alone(root, rest, arms, i) for i in range(len(arms))]
    numbers = [f'optimizer.{key}' for config in configs for key, value in dict(config.optimizer).items()
               if isinstance(value, int | float) and not isinstance(value, bool)]
    return [_population(root, rest, arms, group, configs[group[0]]) if len(group) > 1 else _alone(root, rest, arms, group[0])
            for group in sweep.together(arms, numbers)]


def _alone(root, rest, arms, place: int) -> Work:
    folder = root / sweep.name(arms[place])
    return Work((place,), folder, (*rest, f'--workdir={folder}', *sweep.flags(arms[place])))


def _population(root, rest, arms, group: Sequence[int], config) -> Work:
    """A population of several arms, each with as many seeds as it would have alone."""
    seeds, own = config.population, {'seed', *(key for key in arms[group[0]] if key.startswith('optimizer.'))}
    members = []
    for place in group:
        arm = arms[place]
        for k in range(seeds):
            values = {**{key: arm[key] for key in arm if key in own}, 'seed': int(arm.get('seed', config.seed)) + k}
            members.append(' '.join(f'{key}={value}' for key, value in values.items()))
    shared = {key: value for key, value in arms[group[0]].items() if key not in own}
    folder = root / f'together,{sweep.name({**shared, "arms": ";".join(sweep.name(arms[place]) for place in group)})}'
    extra = (*sweep.flags(shared), '--config.population=1', f"--config.population_over={'; '.join(members)}")
    return Work(tuple(group), folder, (*rest, f'--workdir={folder}', *extra), seeds)


def config_of(command: Sequence[str], arm: Mapping):
    """The config of one arm, with the command's own overrides.

    Raises:
      UserError: the command is no experiment, or a key or a value is not one of its config.
    """
    from bigjax.train.job import Job as ExperimentJob
    experiment = Job('', '', tuple(command)).experiment
    if not experiment:
        raise UserError(f"got the command '{' '.join(command)}', expected 'python -m experiments.NAME …'; fix: sweep an "
                        'experiment', code='sweep/not-an-experiment')
    try:
        module = importlib.import_module(f'experiments.{experiment}')
    except ModuleNotFoundError as error:
        raise UserError(f'experiments.{experiment}: cannot be imported here ({error})', code='sweep/not-importable') from None
    given = flags_of(command)
    variant = str(arm.get('variant', given.get('variant', '')))
    if not variant and len(getattr(module, 'TABLE', ())) > 1:
        raise UserError(f"{experiment}: a sweep needs one row of the table; fix: add --variant=…, one of "
                        f"{', '.join(module.TABLE)}, or sweep over variant", code='sweep/several-rows')
    overrides = {key.removeprefix('config.'): value for key, value in given.items() if key.startswith('config.')}
    own = {key: str(value) for key, value in arm.items() if key != 'variant'}
    return ExperimentJob(module, experiment, {**overrides, **own}).config(variant)


def folder_of(command: Sequence[str]) -> pathlib.Path:
    """The sweep's folder.

    Raises:
      UserError: the command names no --workdir.
    """
    if not (name := Job('', '', tuple(command)).workdir):
        raise UserError('--workdir is missing after --; fix: add it: the arms are its sub-folders', code='sweep/no-workdir')
    return pathlib.Path(name).expanduser()


def keep(root: pathlib.Path, arms: Sequence[Mapping], command: Sequence[str], together: bool) -> None:
    """Writes sweep.json, which `sweep table` reads.

    Raises:
      UserError: the folder holds another sweep: another command, or other arms trained together.
    """
    path, new = root / 'sweep.json', {'command': list(command), 'together': together, 'arms': list(arms)}
    try:
        before = json.loads(path.read_text()) if path.exists() else None
        if before and (before['command'] != new['command'] or before['together'] != together
                       or (together and before['arms'] != new['arms'])):
            raise UserError(f'{root}: holds a sweep of another command, or of other arms together; fix: choose another '
                            '--workdir', code='sweep/another')
        if before:  # arms may be added
            names = {sweep.name(arm) for arm in new['arms']}
            new['arms'] = [arm for arm in before['arms'] if sweep.name(arm) not in names] + new['arms']
        root.mkdir(parents=True, exist_ok=True)
        write_json(path, new)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror}); fix: choose another --workdir',
                        code='sweep/not-writable') from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: damaged ({error}); fix: delete this file; the runs stay', code='sweep/damaged') from None


def finished(folder: pathlib.Path) -> bool:
    """Whether the run in this folder has finished."""
    try:
        return json.loads((folder / 'run.json').read_text())['status'] in FINISHED
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run(work: Sequence[Work], root: pathlib.Path) -> int:
    """Runs each that is neither done nor locked by another worker; returns the exit code."""
    failed = 0
    for number, each in enumerate(work, 1):
        with locked(root / '.locks' / each.folder.name) as own:
            if not own:
                log(f'{each.folder.name}: another worker has it')
                continue
            if finished(each.folder):
                log(f'{each.folder.name}: done')
                continue
            log(f'run {number} of {len(work)}: {each.folder.name}')
            code = _run_one(each.command)
        if code == PREEMPTED:
            return PREEMPTED
        if code not in (DONE, NO):
            log(f'{each.folder.name}: ended with {code}; continues with the next')
            failed += 1
    return FAILED if failed else DONE


def _run_one(command: Sequence[str]) -> int:
    """Runs a command; returns its exit code, or 75 after a signal to this worker, which is passed on as SIGTERM."""
    received = []
    process = subprocess.Popen(command)
    before = {number: signal.signal(number, lambda n, _: (received.append(n), process.send_signal(signal.SIGTERM)))
              for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return PREEMPTED if received else code


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[bool]:
    """Takes a lock, which the system releases when the process ends; yields False if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
