"""The records of a run: the files of its workdir that are not checkpoints.

    config.json    the resolved config
    source.patch   the difference of the code from the commit in run.json, if there was one
    run.json       command, versions, devices, identity of the data, status; at the end the metrics beside the expected ones
    metrics.jsonl  {"step": 100, "train/loss": 0.3}; in a population "m" is the mean, with "m/std" and "m/members" beside it.
                   Each (step, name) once, also after crashes. A value that is not finite is null.
    artifacts/     see `bigjax.runs.artifacts`

Only process 0 writes. In an object store metrics.jsonl and run.json are replaced whole every few seconds, by a thread
(`bigjax.io.async_writer`), and before the manifest of a checkpoint is written.
"""
import contextlib
import dataclasses
import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import bigjax
from bigjax.data import sources
from bigjax.errors import NonFinite, Preempted, UserError
from bigjax.experiment import Expected
from bigjax.io import atomic, storage
from bigjax.io.async_writer import Outbox
from bigjax.io.nested import leaves, plain
from bigjax.runs import artifacts as artifact_files
from bigjax.runs import lock, provenance
from bigjax.runs.reader import lines_of, read_run
from bigjax.runs.sinks import Sinks
from bigjax.sharding import mesh as meshes
from bigjax.watchdog.phases import Clock

# Keys of how long and where a run trains and of what it writes, not of what it learns: they may differ on resuming.
CADENCE = ('steps', 'log_every', 'eval_every', 'checkpoint_every', 'checkpoint_keep', 'patience')
MACHINE = ('data_dir', 'data_threads', 'data_workers', 'resident', 'mesh', 'steps_per_call', 'eval_batch_size', 'sinks')
FINISHED = ('done', 'stopped early')
SHARED_WORKDIR_TIMEOUT_S = 30.0  # until all hosts see the files that process 0 has written
CARRIED = ('stuck', 'wandb')  # keys of run.json that a later start of the run takes over
SAVED_TIMES = 8  # checkpoints whose time is remembered
RUN_JSON_INTERVAL_S = 10.0  # between updates of run.json during a run
FAILED_UPLOAD_TIMEOUT_S = 10.0  # for the record of a run that failed to reach a store


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


class Records:
    """Writes the records of one run, or continues those of an earlier start.

    Args:
      workdir: the folder; made when it is not there.
      sinks: 'tensorboard', 'wandb', or objects with `write(step, {name: float})` and `close()`.
      clock: the clock of this start's phases.
      facts: the fields of `RunFacts`.

    Attributes:
      run: the contents of run.json.
      finished: the workdir already holds this run, done to its last step.

    Raises:
      UserError: the workdir cannot be written, holds another run, or more steps or other data than this one.
    """

    def __init__(self, workdir, *, sinks: Sequence = (), clock: Clock | None = None, **facts):
        self.workdir = storage.place(workdir)
        self._writes = jax.process_index() == 0
        self._outbox = Outbox() if self._writes and storage.remote(self.workdir) else None
        facts = RunFacts(**facts)
        config = plain(facts.config)
        is_finished = lambda run: run.get('status') in FINISHED and run.get('config') == config
        before, self._lock = previous_run(self.workdir, facts), None
        if self._writes and not is_finished(before):
            self._enter()
            before = previous_run(self.workdir, facts)  # the start before may have written until the lock was released
        self.finished = is_finished(before)
        self._clock, self._shown = clock or Clock(), 0.0
        self._earlier = earlier_seconds(before, self.workdir, self._lock.before if self._lock else 0.0)
        self._text, self._flushing = '', threading.Lock()
        if self.finished:
            self.run, self._sinks = before, Sinks((), self.workdir, before)
            self._release()
            return
        carried = {key: before[key] for key in CARRIED if key in before}
        self.run = {
            'experiment': facts.experiment, 'variant': facts.variant, 'command': facts.command, 'config': config,
            'git': provenance.git(), 'versions': versions(), 'devices': plain(facts.devices),
            'host_cpus': os.cpu_count(), 'seed': facts.seed, 'population': facts.population, 'parameters': facts.parameters,
            'data': plain(facts.data), **carried,
            'started': before.get('started') or datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'starts': before.get('starts', 0) + 1, 'wall_seconds': 0.0, 'seconds': {}, 'saved': before.get('saved', {}),
            'damaged': before.get('damaged', []), 'steps': 0, 'steps_per_second': None, 'status': 'running', 'error': None,
            'final': {}, 'expected': [], 'info': plain(facts.info)}
        self._sinks = Sinks(sinks if self._writes else (), self.workdir, self.run)
        if self._writes:
            with self._user_errors():
                self._begin()
        self._speeds = []

    def _enter(self):
        """Makes the workdir and locks it against other processes."""
        with self._user_errors():
            storage.make(self.workdir)
            if not storage.remote(self.workdir):
                self._lock = lock.Lock(self.workdir)
                atomic.tidy(self.workdir)

    def _release(self):
        if self._lock:
            self._lock.release()

    def _begin(self):
        atomic.write_json(self.workdir / 'config.json', self.run['config'])
        if not storage.exists(self.workdir / provenance.PATCH) and (patch := provenance.patch()):
            atomic.write_text(self.workdir / provenance.PATCH, patch)
        self._note_run()
        self.flush()

    @contextlib.contextmanager
    def _user_errors(self):
        """Turns the errors of a workdir that cannot be written into `UserError`s."""
        try:
            yield
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise UserError(f'{self.workdir}: got a workdir that cannot be written ({error.strerror}); fix: choose another '
                            '--workdir', code='workdir/unwritable') from None
        except OSError as error:
            if error.strerror == 'Read-only file system':
                raise UserError(f'{self.workdir}: got a workdir on a read-only file system; fix: choose another --workdir',
                                code='workdir/unwritable') from None
            raise

    def agree(self) -> None:
        """Checks that all processes see one workdir; every process calls it once its records are open.

        Raises:
          UserError: they do not.
        """
        if jax.process_count() == 1:
            return
        finished = meshes.allgather_int(int(self.finished))
        until = time.time() + SHARED_WORKDIR_TIMEOUT_S
        while not (written := storage.exists(self.workdir / 'config.json')) and time.time() < until:
            time.sleep(0.5)  # a network file system may be slow to show what process 0 has written
        if len(set(finished)) > 1 or not all(meshes.allgather_int(int(written))):
            raise UserError(f'{self.workdir}: got another workdir on each process, expected the same; fix: put it on a file '
                            'system that all hosts share', code='workdir/not-shared')

    def _write_run(self):
        if self._writes:
            self._note_run()
            if not self._outbox:
                self.flush()
            self._shown = time.time()

    def _note_run(self):
        """Prepares the contents of run.json; `flush` writes them."""
        self._add_seconds()
        self._text = atomic.dumps(self.run, indent=1) + '\n'
        if self._outbox:
            self._outbox.put(self.workdir / 'run.json', self._text)

    def _add_seconds(self):
        """Adds up the seconds of all starts by phase."""
        now = self._clock.spent()
        seconds = {k: self._earlier.get(k, 0.0) + now.get(k, 0.0) for k in {**now, **self._earlier}}
        self.run['seconds'] = {k: round(v, 3) for k, v in seconds.items()}
        self.run['wall_seconds'] = round(sum(seconds.values()), 3)

    def saved(self, step: int) -> None:
        """Records the time spent until the checkpoint of `step`, which a resume from it does not lose.

        The next `flush` writes it, before the manifest of the checkpoint.
        """
        self._add_seconds()
        self.run['saved'] = dict([*self.run['saved'].items(), (str(step), self.run['seconds'])][-SAVED_TIMES:])
        if self._writes:
            self._note_run()

    def damaged(self, found: Sequence[Mapping]) -> None:
        """Records checkpoints that differed from what had been written."""
        self.run['damaged'] = [*self.run.get('damaged', []), *map(dict, found)]
        if found:
            self._write_run()

    def metrics(self, step: int, values: Mapping[str, Sequence[float]], applied: bool = True) -> None:
        """Appends one line. `values` is {name: [one value per member]}; a list of one is a plain number. A step that was not
        `applied` does not count as done."""
        line, scalars = {'step': int(step)}, {}
        for name, members in values.items():
            summary = summarise(members)
            line[name] = scalars[name] = summary['mean']
            if len(summary['members']) > 1:
                line[f'{name}/std'] = scalars[f'{name}/std'] = summary['std']
                line[f'{name}/members'] = summary['members']
        if speed := line.get('time/steps_per_second'):
            self._speeds.append(speed)
        self.run['steps'] = int(step) - (not applied)
        if self._writes:
            if self._outbox:
                self._outbox.append(self.workdir / 'metrics.jsonl', atomic.dumps(line))
            else:
                append(self.workdir / 'metrics.jsonl', atomic.dumps(line))
            if time.time() - self._shown > RUN_JSON_INTERVAL_S:
                self._write_run()
        self._sinks.write(int(step), {k: v for k, v in scalars.items() if math.isfinite(v)})

    def truncate_after(self, step: int, eval_pending: bool = False) -> None:
        """Drops the lines of later steps, and any half line that a crash left; at the start of every run.

        Args:
          eval_pending: the evaluators of `step` itself have yet to run, too.
        """
        self._lose_after(step)
        path = self.workdir / 'metrics.jsonl'
        if self._writes and storage.exists(path):
            judged = step - eval_pending
            kept = [line for line in lines_of(path)
                    if line['step'] <= (step if any(k.startswith('train/') for k in line) else judged)]
            text = ''.join(atomic.dumps(line) + '\n' for line in kept)
            if self._outbox:
                self._outbox.put(path, text)
            else:
                atomic.write_text(path, text)
            self._speeds = [line['time/steps_per_second'] for line in kept if line.get('time/steps_per_second')]
        self.run['steps'] = int(step)
        self._sinks.open(step)

    def flush(self) -> None:
        """Returns when every record is on the disk, or in the store; any thread may call it."""
        if self._outbox:
            self._outbox.flush()
        elif self._text:
            with self._flushing:  # the last thread writes the newest text
                atomic.sync(self.workdir / 'metrics.jsonl')
                atomic.write_text(self.workdir / 'run.json', self._text)

    def look(self) -> None:
        """Raises where the store has failed for good; costs nothing."""
        if self._outbox:
            self._outbox.look()

    def _lose_after(self, step: int) -> None:
        """Counts the time that earlier starts spent after the checkpoint of `step` as lost: its steps are repeated."""
        kept = self.run['saved'].get(str(step), {})
        lost = sum(self._earlier.values()) - sum(kept.values())
        if self._earlier and lost > 0:
            self._earlier = {**kept, 'lost': kept.get('lost', 0.0) + lost}

    def save_artifact(self, name: str, value: Any) -> None:
        """See `bigjax.runs.artifacts.save`."""
        if self._writes:
            artifact_files.save(self.workdir, name, value)

    def facts(self) -> dict:
        """The facts that identify the run, to be kept with evidence about it."""
        return {key: self.run[key] for key in ('experiment', 'variant', 'command', 'config', 'git', 'versions')}

    def finish(self, status: str, step: int, final: Mapping[str, Sequence[float]], expected: Iterable[Expected] = (),
               artifacts: Sequence[Mapping[str, Any]] | Mapping[str, Any] = (), compiled: Mapping | None = None) -> None:
        """Writes the end of a run: final metrics {name: [one value per member]}, judged, artifacts, and compilations."""
        for name, value in artifact_files.merge(
                [artifacts] if isinstance(artifacts, Mapping) else artifacts).items():
            self.save_artifact(name, value)
        final = {name: summarise(members) for name, members in final.items()}
        self.run.update(status=status, steps=int(step), final=plain(final), error=None,
                        steps_per_second=float(f'{np.median(self._speeds):.5g}') if self._speeds else None,
                        expected=plain(judge(final, expected)), compiled=dict(compiled or {}))
        self._write_run()
        if self._outbox:
            self._outbox.close()
        self._sinks.close()

    def close(self) -> None:
        """Ends the records of a finished run: adds the time that its report took, and releases the workdir."""
        if not self._outbox:
            self._write_run()
        self._release()

    def fail(self, error: BaseException) -> None:
        """Records the exception that ended the run, as far as the disk allows; raises nothing."""
        status = ('nonfinite' if isinstance(error, NonFinite) else 'preempted' if isinstance(error, Preempted) else
                  'stopped' if isinstance(error, KeyboardInterrupt) else 'failed')
        text = ' '.join(str(error).split())[:500]
        self.run.update(status=status, error=f'{type(error).__name__}: {text}' if text else type(error).__name__)
        with contextlib.suppress(OSError, UserError):
            self._write_run()
            if self._outbox:
                self._outbox.close(FAILED_UPLOAD_TIMEOUT_S)
        self._sinks.close()
        self._release()


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


def earlier_seconds(run: Mapping, workdir, alive: float = 0.0) -> dict[str, float]:
    """{phase: seconds} of the starts before this one, until their last heartbeat; time without a record is 'lost'.

    Args:
      alive: the last heartbeat of the start before, in seconds since 1970.
    """
    if not run:
        return {}
    seconds = dict(run.get('seconds') or {'lost': run.get('wall_seconds') or 0.0})
    record, line = (storage.facts(workdir / name) for name in ('run.json', 'metrics.jsonl'))
    if record:
        after = max(0.0, alive - record.when, line.when - record.when if line else 0.0)
        seconds['lost'] = seconds.get('lost', 0.0) + after
    return seconds


def summarise(members: Sequence[float]) -> dict:
    """{'mean', 'std' (of a sample, n - 1; None for one), 'members'}; nine digits, which is every bit of a float32."""
    short = lambda v: float(f'{float(v):.9g}')
    values = np.atleast_1d(np.asarray(members, np.float64))
    with np.errstate(invalid='ignore'):  # inf - inf
        std = short(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': short(np.mean(values)), 'std': std, 'members': [short(v) for v in values]}


def judge(final: Mapping[str, Mapping], expected: Iterable[Expected | Mapping]) -> list[dict]:
    """Compares measured with expected: the fields of `Expected` with 'measured' (a mean), 'spread' (its std) and 'ok'.

    Args:
      final: {metric: {'mean', 'std', …}}; a metric that is not there is measured None, and not ok.
    """
    rows = []
    for e in expected:
        row = {key: e[key] if isinstance(e, Mapping) else getattr(e, key)
               for key in ('metric', 'value', 'tolerance', 'std', 'runs', 'source', 'better')}
        found = final.get(row['metric'])
        measured = None if found is None else found['mean']
        ok = False
        if measured is not None and math.isfinite(measured):
            off = {'higher': row['value'] - measured, 'lower': measured - row['value'],
                   None: abs(measured - row['value'])}[row['better']]
            ok = off <= row['tolerance'] + 1e-9 * max(1.0, abs(row['value']))  # 0.97 is within 0.03 of 0.94
        rows.append({**row, 'measured': measured, 'spread': None if found is None else found['std'], 'ok': ok})
    return rows


def append(path: pathlib.Path, line: str) -> None:
    """Appends one line to a file, or nothing: on a full disk the file stays as it was."""
    data = memoryview(line.encode() + b'\n')
    with open(path, 'ab', buffering=0) as file:  # a buffer would be written once more when the file is closed
        size = file.tell()
        try:
            while data:
                data = data[file.write(data):]
        except OSError as error:
            os.truncate(path, size)
            raise atomic.explained(error, path) from error


def versions() -> dict:
    """Versions of Python, bigjax and the libraries that decide its numbers."""
    libraries = {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    return {'python': platform.python_version(), 'bigjax': bigjax.__version__, **libraries}
