"""Whether a workdir may be used: it can be written, all processes see it, and a run in it is an earlier start of this one."""
import contextlib
import dataclasses
import time
from collections.abc import Mapping

import jax

from bigjax.data import sources
from bigjax.errors import UserError
from bigjax.io import storage
from bigjax.io.nested import leaves, plain
from bigjax.runs.reader import FINISHED, read_run
from bigjax.sharding import mesh as meshes

# Keys of how long and where a run trains and of what it writes, not of what it learns: they may differ on resuming.
CADENCE = ('steps', 'log_every', 'eval_every', 'checkpoint_every', 'checkpoint_keep', 'patience')
MACHINE = ('data_dir', 'data_threads', 'data_workers', 'damaged', 'resident', 'mesh', 'steps_per_call', 'eval_batch_size',
           'sinks')
SHARED_WORKDIR_TIMEOUT_S = 30.0  # until all hosts see the files that process 0 has written


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The facts of a run that are known before its first step.

    Attributes:
      experiment, variant, command: the script, its row, and the command line.
      config: the resolved config.
      devices: {'platform', 'kind', 'count'}.
      parameters: the number of the model's parameters.
      seed, population: of the first member, and the number of members.
      info: facts about the data; JSON.
      data: `bigjax.data.sources.identity` of the data; a later start with other data is refused.
      total_steps: the steps of the run, 0 where they are not known.
    """

    experiment: str
    variant: str
    config: Mapping
    command: str
    devices: Mapping = dataclasses.field(default_factory=dict)
    parameters: int = 0
    seed: int = 0
    population: int = 1
    info: Mapping = dataclasses.field(default_factory=dict)
    data: Mapping = dataclasses.field(default_factory=dict)
    total_steps: int = 0


def previous_run(workdir, facts: RunFacts) -> dict:
    """The run.json of a workdir, {} where there is none.

    Raises:
      UserError: it is that of another run, has done more steps than this one would, or was trained on other data.
    """
    workdir = storage.place(workdir)
    if not storage.exists(workdir / 'run.json'):
        return {}
    run, another = read_run(workdir), 'fix: choose another --workdir'
    for key in ('experiment', 'variant'):
        if run.get(key) != getattr(facts, key):
            raise UserError(f'{workdir}: got a run of the {key} {run.get(key)!r}, expected {getattr(facts, key)!r}; {another}',
                            code='workdir/another-run')
    before, after = leaves(run.get('config', {})), leaves(plain(facts.config))
    differing = [key for key in {**before, **after} if key not in CADENCE + MACHINE
                 and before.get(key, 'absent') != after.get(key, 'absent')]
    if differing:
        shown = ', '.join(f'{key} (there {before.get(key, "absent")!r}, now {after.get(key, "absent")!r})'
                          for key in differing[:3])
        more = f' and {len(differing) - 3} more' if len(differing) > 3 else ''
        raise UserError(f'{workdir}: got a workdir of a run with another config: {shown}{more}; {another}, or the config of '
                        'that run', code='workdir/another-config')
    done = max([*map(int, run.get('saved') or {}), run['steps'] if run['status'] in FINISHED else 0])
    if 0 < facts.total_steps < done:
        raise UserError(f'{workdir}: got {facts.total_steps} steps, expected at least the {done} that the run there has done; '
                        f'fix: --config.steps={done} or more, or another --workdir', code='workdir/fewer-steps')
    if changed := data_difference(run, facts.data):
        raise UserError(f'{workdir}: got other data than the run there was trained on: {changed}; examples held out then may '
                        f'be trained on now; {another}, or bring the data back', code='data/changed')
    return run


def data_difference(run: Mapping, identity: Mapping) -> str:
    """The first difference between the data of a recorded run and `bigjax.data.sources.identity` of the present data, or ''."""
    before = run.get('data')
    return sources.difference(before, identity) if before and identity else ''


@contextlib.contextmanager
def refuse_unwritable(workdir):
    """Turns the errors of a workdir that cannot be written into `UserError`s."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        raise UserError(f'{workdir}: got a workdir that cannot be written ({error.strerror}); fix: choose another '
                        '--workdir', code='workdir/unwritable') from None
    except OSError as error:
        if error.strerror == 'Read-only file system':
            raise UserError(f'{workdir}: got a workdir on a read-only file system; fix: choose another --workdir',
                            code='workdir/unwritable') from None
        raise


def check_shared(workdir, finished: bool) -> None:
    """Checks that all processes see one workdir; a collective, which every process calls once its records are open.

    Raises:
      UserError: they do not.
    """
    if jax.process_count() == 1:
        return
    states = meshes.allgather_int(int(finished))
    until = time.time() + SHARED_WORKDIR_TIMEOUT_S
    while not (written := storage.exists(workdir / 'config.json')) and time.time() < until:
        time.sleep(0.5)  # a network file system may be slow to show what process 0 has written
    if len(set(states)) > 1 or not all(meshes.allgather_int(int(written))):
        raise UserError(f'{workdir}: got another workdir on each process, expected the same; fix: put it on a file '
                        'system that all hosts share', code='workdir/not-shared')
