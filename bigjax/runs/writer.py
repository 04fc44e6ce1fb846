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
import datetime
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigjax.errors import NonFinite, Preempted, UserError
from bigjax.experiment import Expected
from bigjax.io import atomic, storage
from bigjax.io.async_writer import Outbox
from bigjax.io.nested import plain
from bigjax.runs import artifacts as artifact_files
from bigjax.runs import lock, provenance
from bigjax.runs.reader import FINISHED, lines_of
from bigjax.runs.seconds import Seconds, earlier_seconds
from bigjax.runs.sinks import Sinks, check_names
from bigjax.runs.summary import judge, summarise
from bigjax.runs.workdir import RunFacts, previous_run, refuse_unwritable
from bigjax.watchdog.phases import Clock

CARRIED = ('stuck', 'wandb')  # keys of run.json that a later start of the run takes over
SAVED_TIMES = 8  # checkpoints whose time is remembered
RUN_JSON_INTERVAL_S = 10.0  # between updates of run.json during a run
FAILED_UPLOAD_TIMEOUT_S = 10.0  # for the record of a run that failed to reach a store


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
        check_names(sinks)  # before anything is written
        facts = RunFacts(**facts)
        config = plain(facts.config)
        is_finished = lambda run: run.get('status') in FINISHED and run.get('config') == config
        before, self._lock = previous_run(self.workdir, facts), None
        if self._writes and not is_finished(before):
            self._enter()
            before = previous_run(self.workdir, facts)  # the start before may have written until the lock was released
        self.finished = is_finished(before)
        alive = self._lock.before if self._lock else 0.0
        self._seconds = Seconds(clock or Clock(), earlier_seconds(before, self.workdir, alive))
        self._text, self._flushing, self._shown = '', threading.Lock(), 0.0
        if self.finished:
            self.run, self._sinks = before, Sinks((), self.workdir, before)
            self._release()
            return
        carried = {key: before[key] for key in CARRIED if key in before}
        self.run = {
            'experiment': facts.experiment, 'variant': facts.variant, 'command': facts.command, 'config': config,
            'git': provenance.git(), 'versions': provenance.versions(), 'devices': plain(facts.devices),
            'host_cpus': os.cpu_count(), 'seed': facts.seed, 'population': facts.population, 'parameters': facts.parameters,
            'data': plain(facts.data), **carried,
            'started': before.get('started') or datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'starts': before.get('starts', 0) + 1, 'wall_seconds': 0.0, 'seconds': {}, 'saved': before.get('saved', {}),
            'damaged': before.get('damaged', []), 'steps': 0, 'steps_per_second': None, 'status': 'running', 'error': None,
            'final': {}, 'expected': [], 'info': plain(facts.info)}
        self._sinks = Sinks(sinks if self._writes else (), self.workdir, self.run)
        if self._writes:
            with refuse_unwritable(self.workdir):
                atomic.write_json(self.workdir / 'config.json', self.run['config'])
                if not storage.exists(self.workdir / provenance.PATCH) and (patch := provenance.patch()):
                    atomic.write_text(self.workdir / provenance.PATCH, patch)
                self._note_run()
                self.flush()
        self._speeds = []

    def _enter(self):
        """Makes the workdir and locks it against other processes."""
        with refuse_unwritable(self.workdir):
            storage.make(self.workdir)
            if not storage.remote(self.workdir):
                self._lock = lock.Lock(self.workdir)
                atomic.tidy(self.workdir)

    def _release(self):
        if self._lock:
            self._lock.release()

    def _write_run(self):
        if self._writes:
            self._note_run()
            if not self._outbox:
                self.flush()
            self._shown = time.time()

    def _note_run(self):
        """Prepares the contents of run.json; `flush` writes them."""
        self.run['seconds'] = self._seconds.total()
        self.run['wall_seconds'] = round(sum(self.run['seconds'].values()), 3)
        self._text = atomic.dumps(self.run, indent=1) + '\n'
        if self._outbox:
            self._outbox.put(self.workdir / 'run.json', self._text)

    def saved(self, step: int) -> None:
        """Records the time spent until the checkpoint of `step`, which a resume from it does not lose.

        The next `flush` writes it, before the manifest of the checkpoint.
        """
        self.run['saved'] = dict([*self.run['saved'].items(), (str(step), self._seconds.total())][-SAVED_TIMES:])
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
                atomic.append(self.workdir / 'metrics.jsonl', atomic.dumps(line))
            if time.time() - self._shown > RUN_JSON_INTERVAL_S:
                self._write_run()
        self._sinks.write(int(step), {k: v for k, v in scalars.items() if math.isfinite(v)})

    def truncate_after(self, step: int, eval_pending: bool = False) -> None:
        """Drops the lines of later steps, and any half line that a crash left; at the start of every run.

        Args:
          eval_pending: the evaluators of `step` itself have yet to run, too.
        """
        self._seconds.lose_after(self.run['saved'].get(str(step), {}))
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
