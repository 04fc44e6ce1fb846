"""The records of a run: the files of its workdir that are not checkpoints.

    config.json    the resolved config
    source.patch   what of the code differed from the commit in run.json, if anything did
    run.json       command, versions, devices, status, and at the end the metrics beside what was expected
    metrics.jsonl  {"step": 100, "train/loss": 0.3}; of a population "m" is the mean, and "m/std" and "m/members" stand
                   beside it. Each (step, name) once, also after crashes. A value that is not finite is null.
    artifacts/     see `bigjax.runs.artifacts`

Only process 0 writes. In an object store metrics.jsonl and run.json are replaced whole every few seconds, by a thread
(`bigjax.io.async_writer`), and before a checkpoint is sealed.
"""
import contextlib
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
from bigjax.errors import NonFinite, Preempted, UserError
from bigjax.experiment import Expected
from bigjax.io import atomic, storage
from bigjax.io.async_writer import Outbox
from bigjax.runs import artifacts as artifact_files
from bigjax.runs import lock, provenance
from bigjax.runs.reader import lines_of, read_run
from bigjax.runs.sinks import Sinks
from bigjax.sharding import mesh as meshes
from bigjax.watchdog.phases import Clock

# Keys that say how long and where a run trains and what it writes, not what it learns: they may differ on resuming.
CADENCE = ('steps', 'log_every', 'eval_every', 'checkpoint_every', 'checkpoint_keep', 'patience')
MACHINE = ('data_dir', 'data_threads', 'data_workers', 'resident', 'mesh', 'steps_per_call', 'eval_batch_size', 'sinks')
FINISHED = ('done', 'stopped early')
SHARED_SECONDS = 30.0  # in which all hosts see what process 0 has written
KEPT = 8  # checkpoints whose time is remembered
REFRESH_SECONDS = 10.0  # between updates of run.json while a run goes on
LAST_SECONDS = 10.0  # in which the last words of a run that failed must have reached a store


class Records:
    """Writes the records of one run, or goes on with those that are there.

    Args:
      workdir: the folder; made when it is not there.
      experiment, variant, command: what is run, and how it was asked for.
      config: the resolved config.
      devices: {'platform', 'kind', 'count'}.
      parameters: how many numbers the model has.
      info: facts about the data; JSON.
      sinks: 'tensorboard', 'wandb', or objects with `write(step, {name: float})` and `close()`.
      clock: where the time of this start goes.

    Attributes:
      run: the contents of run.json.
      finished: the workdir already holds this run, done to its last step.

    Raises:
      UserError: the workdir cannot be written, or holds another run.
    """

    def __init__(self, workdir, *, experiment: str, variant: str, config: Mapping, command: str,
                 devices: Mapping | None = None, parameters: int = 0, seed: int = 0, population: int = 1,
                 info: Mapping | None = None, sinks: Sequence = (), clock: Clock | None = None):
        self.workdir = storage.place(workdir)
        self._writes = jax.process_index() == 0
        self._outbox = Outbox() if self._writes and storage.remote(self.workdir) else None
        config = atomic.plain(config)
        is_finished = lambda run: run.get('status') in FINISHED and run.get('config') == config
        before, self._lock = self._previous(experiment, variant, config), None
        if self._writes and not is_finished(before):
            self._enter()
            before = self._previous(experiment, variant, config)  # what the one before has written to its very end
        self.finished = is_finished(before)
        self._clock, self._shown = clock or Clock(), 0.0
        self._earlier = earlier_seconds(before, self.workdir, self._lock.before if self._lock else 0.0)
        self._text, self._flushing = '', threading.Lock()
        if self.finished:
            self.run, self._sinks = before, Sinks((), self.workdir, before)
            self._release()
            return
        self.run = {
            'experiment': experiment, 'variant': variant, 'command': command, 'config': config, 'git': provenance.git(),
            'versions': versions(), 'devices': atomic.plain(devices or {}), 'host_cpus': os.cpu_count(), 'seed': seed,
            'population': population, 'parameters': parameters,
            'started': before.get('started') or datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'starts': before.get('starts', 0) + 1, 'wall_seconds': 0.0, 'seconds': {}, 'saved': before.get('saved', {}),
            'damaged': before.get('damaged', []), 'steps': 0, 'steps_per_second': None, 'status': 'running', 'error': None,
            'final': {}, 'expected': [], 'info': atomic.plain(info or {})}
        if self._writes:
            with self._blaming():
                self._begin()
        self._sinks = Sinks(sinks if self._writes else (), self.workdir, self.run)
        self._speeds = []

    def _previous(self, experiment, variant, config) -> dict:
        """The run.json that is there, after it has been found to be of the same run."""
        if not storage.exists(self.workdir / 'run.json'):
            return {}
        run = read_run(self.workdir)
        for key, mine in (('experiment', experiment), ('variant', variant)):
            if run.get(key) != mine:
                raise UserError(f'{self.workdir}: it holds a run of another {key} ({run.get(key)!r}, not {mine!r}); '
                                'choose another --workdir')
        before, after = flat(run.get('config', {})), flat(config)
        differing = [key for key in {**before, **after} if key not in CADENCE + MACHINE
                     and before.get(key, 'absent') != after.get(key, 'absent')]
        if differing:
            shown = ', '.join(f'{key} (there {before.get(key, "absent")!r}, now {after.get(key, "absent")!r})'
                              for key in differing[:3])
            more = f' and {len(differing) - 3} more' if len(differing) > 3 else ''
            raise UserError(f'{self.workdir}: it holds a run with another config: {shown}{more}; '
                            'choose another --workdir, or the config of that run')
        return run

    def _enter(self):
        """From here on no other process writes there."""
        with self._blaming():
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
    def _blaming(self):
        """What a workdir that cannot be written raises, as an error of who named it."""
        try:
            yield
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise UserError(f'{self.workdir}: the workdir cannot be written ({error.strerror}); '
                            'choose another --workdir') from None
        except OSError as error:
            if error.strerror == 'Read-only file system':
                raise UserError(f'{self.workdir}: the workdir is on a read-only file system; '
                                'choose another --workdir') from None
            raise

    def agree(self) -> None:
        """To be called by all processes once the records are open.

        Raises:
          UserError: they do not see the same workdir.
        """
        if jax.process_count() == 1:
            return
        finished = meshes.everywhere(int(self.finished))
        until = time.time() + SHARED_SECONDS
        while not (there := storage.exists(self.workdir / 'config.json')) and time.time() < until:
            time.sleep(0.5)  # a network file system may be slow to show what process 0 has written
        if len(set(finished)) > 1 or not all(meshes.everywhere(int(there))):
            raise UserError(f'{self.workdir}: the processes do not see the same workdir; it has to be on a file system that '
                            'all hosts share')

    def _write_run(self):
        if self._writes:
            self._note_run()
            if not self._outbox:
                self.flush()
            self._shown = time.time()

    def _note_run(self):
        """What run.json is to hold, from the next `flush` on."""
        self._add_seconds()
        self._text = atomic.dumps(self.run, indent=1) + '\n'
        if self._outbox:
            self._outbox.put(self.workdir / 'run.json', self._text)

    def _add_seconds(self):
        """Where the time of all starts went."""
        now = self._clock.spent()
        seconds = {k: self._earlier.get(k, 0.0) + now.get(k, 0.0) for k in {**now, **self._earlier}}
        self.run['seconds'] = {k: round(v, 3) for k, v in seconds.items()}
        self.run['wall_seconds'] = round(sum(seconds.values()), 3)

    def saved(self, step: int) -> None:
        """A checkpoint of `step` has its copy of the state: what was spent until here is not lost with this process.

        It is on the disk with the next `flush`, which is when the checkpoint is sealed.
        """
        self._add_seconds()
        self.run['saved'] = dict([*self.run['saved'].items(), (str(step), self.run['seconds'])][-KEPT:])
        if self._writes:
            self._note_run()

    def damaged(self, found: Sequence[Mapping]) -> None:
        """Checkpoints that were not what had been written."""
        self.run['damaged'] = [*self.run.get('damaged', []), *map(dict, found)]
        if found:
            self._write_run()

    def metrics(self, step: int, values: Mapping[str, Sequence[float]], applied: bool = True) -> None:
        """Appends one line. `values` is {name: [one value a member]}; a list of one is a plain number. A step that was not
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
            if time.time() - self._shown > REFRESH_SECONDS:
                self._write_run()
        self._sinks.write(int(step), {k: v for k, v in scalars.items() if math.isfinite(v)})

    def truncate_after(self, step: int, eval_pending: bool = False) -> None:
        """Drops the lines of later steps, and any half line that a crash left; at the start of every run.

        Args:
          eval_pending: the evaluations of `step` itself are to come, too.
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

    def flush(self) -> None:
        """Returns when all that was recorded is on the disk, or in the store; for any thread."""
        if self._outbox:
            self._outbox.flush()
        elif self._text:
            with self._flushing:  # whoever comes last writes what is newest
                atomic.sync(self.workdir / 'metrics.jsonl')
                atomic.write_text(self.workdir / 'run.json', self._text)

    def look(self) -> None:
        """Raises where the store has failed for good; costs nothing."""
        if self._outbox:
            self._outbox.look()

    def _lose_after(self, step: int) -> None:
        """What earlier starts spent after the checkpoint of `step` is lost: it has to be done again."""
        kept = self.run['saved'].get(str(step), {})
        lost = sum(self._earlier.values()) - sum(kept.values())
        if self._earlier and lost > 0:
            self._earlier = {**kept, 'lost': kept.get('lost', 0.0) + lost}

    def save_artifact(self, name: str, value: Any) -> None:
        """See `bigjax.runs.artifacts.save`."""
        if self._writes:
            artifact_files.save(self.workdir, name, value)

    def facts(self) -> dict:
        """What identifies the run, to be kept with evidence about it."""
        return {key: self.run[key] for key in ('experiment', 'variant', 'command', 'config', 'git', 'versions')}

    def finish(self, status: str, step: int, final: Mapping[str, Sequence[float]], expected: Iterable[Expected] = (),
               artifacts: Sequence[Mapping[str, Any]] | Mapping[str, Any] = (), compiled: Mapping | None = None) -> None:
        """The end of a run: final metrics {name: [one value a member]}, judged, artifacts, and what it compiled."""
        for name, value in artifact_files.merge(
                [artifacts] if isinstance(artifacts, Mapping) else artifacts).items():
            self.save_artifact(name, value)
        final = {name: summarise(members) for name, members in final.items()}
        self.run.update(status=status, steps=int(step), final=atomic.plain(final), error=None,
                        steps_per_second=float(f'{np.median(self._speeds):.5g}') if self._speeds else None,
                        expected=atomic.plain(judge(final, expected)), compiled=dict(compiled or {}))
        self._write_run()
        if self._outbox:
            self._outbox.close()
        self._sinks.close()

    def close(self) -> None:
        """The very end of a run that is finished: the time that its report took is noted, and others may write there."""
        if not self._outbox:
            self._write_run()
        self._release()

    def fail(self, error: BaseException) -> None:
        """The run ended by an exception; says so in run.json as far as the disk allows, and raises nothing."""
        status = ('nonfinite' if isinstance(error, NonFinite) else 'preempted' if isinstance(error, Preempted) else
                  'stopped' if isinstance(error, KeyboardInterrupt) else 'failed')
        text = ' '.join(str(error).split())[:500]
        self.run.update(status=status, error=f'{type(error).__name__}: {text}' if text else type(error).__name__)
        with contextlib.suppress(OSError, UserError):
            self._write_run()
            if self._outbox:
                self._outbox.close(LAST_SECONDS)
        self._sinks.close()
        self._release()


def earlier_seconds(run: Mapping, workdir, alive: float = 0.0) -> dict[str, float]:
    """{phase: seconds} of the starts before this one, until their last sign of life; what no record tells is 'lost'.

    Args:
      alive: when the one before was last known to live, in seconds since 1970.
    """
    if not run:
        return {}
    seconds = dict(run.get('seconds') or {'lost': run.get('wall_seconds') or 0.0})
    told, line = (storage.facts(workdir / name) for name in ('run.json', 'metrics.jsonl'))
    if told:
        seconds['lost'] = seconds.get('lost', 0.0) + max(0.0, alive - told.when, line.when - told.when if line else 0.0)
    return seconds


def summarise(members: Sequence[float]) -> dict:
    """{'mean', 'std' (of a sample, n - 1; None for one), 'members'}; nine digits, which is every bit of a float32."""
    short = lambda v: float(f'{float(v):.9g}')
    values = np.atleast_1d(np.asarray(members, np.float64))
    with np.errstate(invalid='ignore'):  # inf - inf
        std = short(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': short(np.mean(values)), 'std': std, 'members': [short(v) for v in values]}


def judge(final: Mapping[str, Mapping], expected: Iterable[Expected | Mapping]) -> list[dict]:
    """Measured beside expected: the fields of `Expected` with 'measured' (a mean), 'spread' (its std) and 'ok'.

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
    """One line at the end of a file, or nothing: on a full disk what stood there is intact."""
    data = memoryview(line.encode() + b'\n')
    with open(path, 'ab', buffering=0) as file:  # a buffer would be written once more when the file is closed
        size = file.tell()
        try:
            while data:
                data = data[file.write(data):]
        except OSError as error:
            os.truncate(path, size)
            raise atomic.explained(error, path) from error


def flat(config: Mapping, prefix: str = '') -> dict:
    """{'optimizer.lr': 0.1, …} of a nested config."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f'{prefix}{key}.') if isinstance(value, Mapping) else {f'{prefix}{key}': value}
    return found


def versions() -> dict:
    """Versions of Python, bigjax and the libraries that decide its numbers."""
    libraries = {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    return {'python': platform.python_version(), 'bigjax': bigjax.__version__, **libraries}
