"""The loop: every family of models, every experiment, one run at a time.

At the boundary after step t the order is always the same, so that a run that was killed and one that was not write the
same numbers: metrics are read and logged, evaluators run, the best weights are kept, then the checkpoint is saved. The
loop stays a little ahead of the device, and does not wait for the newest step: the metrics of an interval are read while the
next one runs, except at boundaries that evaluate or save. A run that is asked to stop saves before its evaluators have run;
the next start runs them first.
"""
import contextlib
import dataclasses
import pathlib
import sys
import time

import jax
import numpy as np

from bigjax.checkpoint.manager import Checkpoints
from bigjax.errors import NonFinite, Preempted, UserError
from bigjax.io import storage
from bigjax.nn import rng
from bigjax.sharding import mesh as meshes
from bigjax.tasks import mean
from bigjax.train import nonfinite, optimizers, stuck_params
from bigjax.train.compile_cache import METER, told
from bigjax.train.evaluate import Stopped
from bigjax.train.flops import StepCost
from bigjax.train.in_flight import InFlight
from bigjax.train.profile import Profile
from bigjax.train.program import Program, abstract, member
from bigjax.watchdog.watchdog import Asked, Guard

LEAVING = 5.0  # seconds that a process of several which fails waits for its save, of which the others may know nothing


class _Halted(Exception):
    """(step, member) of a step that was not applied."""


@dataclasses.dataclass
class Outcome:
    """How a run ended: metrics {name: [one value a member]} of the reported weights, their artifacts, what was compiled."""

    step: int
    status: str
    final: dict
    artifacts: list
    compiled: dict


class Loop:
    """Trains one program in one workdir.

    Args:
      records: `bigjax.runs.writer.Records` of the workdir.
      progress: told what happens; see `bigjax.runs.progress`.
      work: what a step computes (`bigjax.train.flops`), for the utilisation in the log.
      profile: (start after, until): the steps to trace.
      guard: watches over the process (`bigjax.watchdog.watchdog`).
    """

    def __init__(self, program: Program, workdir, records, progress, *, init_from: str = '', work: StepCost | None = None,
                 profile: tuple[int, int] | None = None, guard: Guard | None = None):
        self._program, self._settings = program, program.settings
        self._workdir, self._records, self._progress = workdir, records, progress
        self._init_from, self._work = init_from, work
        self._profile = profile and Profile(profile, pathlib.Path(workdir) / 'profile', progress.say, program.compiled_text)
        self._guard = guard or Guard()
        self._phases = self._guard.clock
        # Several processes stop after the same step, for which all of them need its data.
        self._waiting = self._guard.waiting if jax.process_count() == 1 else contextlib.nullcontext
        s = self._settings
        with self._phases.within('restore'):
            self._checkpoints = Checkpoints(workdir, keep=s.checkpoint_keep, best=s.best, higher=s.best_is_higher,
                                            say=progress.say, before_seal=records.flush)
        records.damaged(self._checkpoints.damaged)
        self._pending = None
        self._saved = None  # (step, unjudged) of the newest checkpoint of this start
        self._clock = time.perf_counter()
        self._judged = None  # (metrics, artifacts) of the reported weights, where the last boundary has them already
        self._latest = {}  # {name: (step, values)}, for the choice of the best checkpoint

    def run(self) -> Outcome:
        """Trains to the end and evaluates the reported weights.

        Raises:
          Preempted: after a signal, once the state is saved.
          NonFinite: a loss or gradient was not finite.
        """
        self._compiled, self._told = METER.since(), False
        try:
            with self._phases.within('restore'):
                carry, step, unjudged = self._start()
            carry, step, status = self._train(carry, step, unjudged)
            self._settle(carry, step)
            with self._phases.within('evaluation'):
                final, artifacts = self._judged or self._evaluate(self._program.variables(carry))
                artifacts[0].update(self._samples(carry))
            return Outcome(step, status, final, artifacts, METER.since(**self._compiled))
        except (Stopped, Asked):
            raise Preempted(f'{self._guard.asked} in the last evaluation: the state is saved, run the same command again'
                            ) from None
        finally:
            with self._phases.within('save'):
                self._checkpoints.close(None if _together(sys.exception()) else LEAVING)

    def _asked(self) -> bool:
        """Whether to stop here; several processes all say so after the same step."""
        self._guard.rounds += 1
        return meshes.asked_to_stop(self._guard.rounds) if jax.process_count() > 1 else bool(self._guard.asked)

    def _evaluate(self, variables, names=None):
        """As `evaluate`; left when the run is asked to stop, by several processes before the same batch."""
        return evaluate(self._program, variables, names, stop=self._asked, waiting=self._waiting)

    def _start(self):
        """Own checkpoint, then --init_from, then scratch: the precedence is `bigjax.checkpoint.manager`'s."""
        carry = self._program.init()
        steps = self._checkpoints.steps()
        step = steps[-1] if steps else 0
        unjudged = bool(steps) and self._checkpoints.unjudged(step)
        self._unmoved = None if self._init_from else stuck_params.StuckParams(self._program, carry['state'].params, 0)
        if steps:
            carry = self._checkpoints.restore(step, jax.tree.map(abstract, carry))
            self._progress.say(f'resuming from step {step}')
        elif self._init_from:
            carry = self._program.load_weights(carry, self._init_from)
            self._progress.say(f'starting from the weights of {self._init_from}')
        self._unmoved = self._unmoved or stuck_params.StuckParams(self._program, carry['state'].params, step)
        found = meshes.everywhere(step)
        if len(set(found)) > 1:
            raise UserError(f'{self._workdir}: the processes find different checkpoints there (of steps {found[:8]}); the '
                            'workdir has to be on a file system that all hosts share')
        self._records.truncate_after(step, unjudged)
        return carry, step, unjudged

    def _train(self, carry, step, unjudged=False):
        s, program = self._settings, self._program
        with self._phases.within('data'):
            feed = program.feed(step)
        many, total = program.steps_per_call, s.steps
        self._progress.start(step, total)
        self._clock, self._since, status = time.perf_counter(), step, 'done'
        phase, flying = 'compile', InFlight()
        try:
            if unjudged:
                carry = self._judge(carry, step, self._evaluators(step))
                self._save(carry, step)  # else the checkpoint would go on without what was judged, and at the end for ever
            early = step > 0 and self._early(carry, step)
            while step < total and not early:
                self._phases.enter('data', step)
                items = feed.at(step, many)
                self._phases.enter(phase, step)
                if self._profile:
                    self._profile.before(step)
                state, totals, halted = program.call(carry['state'], carry['totals'], feed.arrays, items)
                carry = {**carry, 'state': state, 'totals': totals}
                step += many
                flying.add(halted)
                phase, self._guard.unsaved = 'step', True
                self._phases.enter('data', step)
                asked = self._ahead(feed, step)
                self._phases.enter('step', step)
                if self._profile:
                    self._profile.after(step, halted)
                self._checkpoints.raise_error()
                self._records.look()
                self._flush(feed)
                if self._unmoved.due(step):
                    _check(halted)  # what was not applied has moved nothing
                    self._unmoved.warn(carry['state'].params, step)
                carry = self._boundary(carry, step, halted, feed, self._asked() or asked)
                early = self._early(carry, step)
            if early:
                status = 'stopped early'
                self._save(carry, step)
            self._flush(feed)
        except _Halted as halted:
            error = self._keep_evidence(carry, feed, *halted.args)
            self._log_what_broke(carry, *halted.args)
            raise error from None
        finally:
            feed.close()
            if self._profile:
                self._profile.close(step)
            self._progress.stop()
        return carry, step, status

    def _ahead(self, feed, step) -> bool:
        """Fetches the batch after `step`; whether the run was asked to stop instead."""
        try:
            feed.ahead(step, self._waiting)
        except Asked:
            return True
        return False

    def _log_what_broke(self, carry, step, index):
        """A line for the step that was not applied, of what is not finite in its interval."""
        totals = self._pending[1] if self._pending else carry['totals']
        values = {name: value for name, value in _means(totals).items() if not np.isfinite(value[index])}
        if values:
            self._records.metrics(step + 1, values, applied=False)

    def _keep_evidence(self, carry, feed, step, index) -> NonFinite:
        """The batch and the state of the step that was not applied; every later step left the state alone."""
        state = member(carry['state'], index, self._program.members)
        with self._phases.within('save'):
            self._checkpoints.rest()
        facts = {**self._records.facts(), 'parts': self._program.mesh.size if self._settings.reduce_dtype else 0}
        folder = nonfinite.keep(self._workdir, state, feed.host_batch(step, index), member=index, facts=facts)
        who = f' of member {index}' if self._program.members else ''
        return NonFinite(f'the loss, a gradient or the update{who} is not finite at step {step}; the step was not '
                                f'applied, its batch and state are in {folder}; look at them with --replay={folder}')

    def _due(self, step, every) -> bool:
        return step == self._settings.steps or (bool(every) and step % every == 0)

    def _evaluators(self, step) -> list[str]:
        """Those that are due after `step`."""
        s = self._settings
        return [n for n, e in self._program.experiment.evaluators.items()
                if self._due(step, s.cadence(e.every) if e.every else s.eval_every)]

    def _boundary(self, carry, step, halted, feed, asked):
        """What is due after `step`, in the order that the module's head gives.

        Raises:
          Preempted: where the run is asked to stop, once the state is saved.
        """
        s, program = self._settings, self._program
        evaluators, save = self._evaluators(step), self._checkpoints.lost() or self._due(step, s.checkpoint_every)
        if self._due(step, s.log_every):
            self._pending = (step, carry['totals'], halted, optimizers.plateau_factor(carry['state'].opt_state) + 0)
            if s.best.startswith('train/'):
                value = mean(carry['totals'][s.best.removeprefix('train/')])
                carry = {**carry, 'best': program.keep_best(carry['best'], value, carry['state'])}
            carry = {**carry, 'totals': program.zero_totals(carry)}
        if evaluators or save or asked:
            _check(halted)
            self._flush(feed)
        if asked:
            self._save_and_leave(carry, step, bool(evaluators))
        if evaluators:
            try:
                carry = self._judge(carry, step, evaluators)
            except (Stopped, Asked):
                self._save_and_leave(carry, step, True)
        if save:
            self._save(carry, step)
        return carry

    def _judge(self, carry, step, evaluators):
        """Runs and records evaluators; the best weights are kept."""
        s, program = self._settings, self._program
        with self._phases.within('evaluation'):
            values, artifacts = self._evaluate(carry['state'].variables(), evaluators)
        if step == s.steps and not s.best:
            self._judged = values, artifacts
        self._latest |= {name: (step, value) for name, value in values.items()}
        self._records.metrics(step, values)
        self._progress.metrics(step, values)
        if s.best not in values:
            return carry
        value = np.asarray(values[s.best], np.float32)
        return {**carry, 'best': program.keep_best(
            carry['best'], value if program.members else value[0], carry['state'])}

    def _save_and_leave(self, carry, step, unjudged: bool):
        """Saves before the evaluators have run (`unjudged`), and ends the run."""
        self._save(carry, step, unjudged)
        self._settle(carry, step, unjudged)
        raise Preempted(f'{self._guard.asked or "SIGTERM"} at step {step}: the state is saved; run the same command again')

    def _settle(self, carry, step, unjudged: bool = False):
        """The last save into a store is there before the state is gone."""
        while storage.remote(self._workdir) and self._checkpoints.lost(wait=True):
            self._saved = None
            self._save(carry, step, unjudged)

    def _save(self, carry, step, unjudged: bool = False):
        """A checkpoint counts for the best by what was measured of its own weights; twice the same one is written once."""
        if (step, unjudged) == self._saved:
            return
        measured = {name: float(np.mean(values)) for name, (at, values) in self._latest.items() if at == step}
        with self._phases.within('save'):
            self._checkpoints.save(step, carry, measured, unjudged)
            self._records.saved(step)
        self._saved = step, unjudged

    def _flush(self, feed):
        """Reads and logs the metrics of the interval that ended last; by now the next step is under way."""
        if self._pending is None:
            return
        step, totals, halted, plateau = self._pending
        _check(halted)
        self._pending = None
        if not self._told:
            self._told = True
            self._progress.say(told(METER.since(**self._compiled)))
        values, now = _means(totals), time.perf_counter()
        seconds, steps = max(now - self._clock, 1e-9), step - self._since
        waited = feed.taken() / seconds
        self._clock, self._since = now, step
        self._latest |= {name: (step, value) for name, value in values.items()}
        rates = [float(rate) for rate in np.atleast_1d(self._program.learning_rate(max(0, step - 1)) * np.asarray(plateau))]
        rates_of_work = (self._work.rates(steps / seconds) if self._work else
                         {'examples_per_second': steps / seconds * self._settings.batch_size})
        timing = {'steps_per_second': steps / seconds, **rates_of_work, 'data_wait': waited}
        self._records.metrics(step, values | {'train/learning_rate': rates} | {f'time/{k}': [v] for k, v in timing.items()})
        self._progress.metrics(step, values)
        self._progress.speed(step, timing, feed.stages)

    def _early(self, carry, step) -> bool:
        s = self._settings
        if not (s.patience and s.best and (self._due(step, s.eval_every) or self._due(step, s.checkpoint_every))):
            return False  # only where the loop stands still anyway
        return bool(np.all(step - np.atleast_1d(np.asarray(carry['best']['step'])) > s.patience))

    def _samples(self, carry) -> dict:
        samples = self._program.experiment.samples
        if samples is None:
            return {}
        variables = member(self._program.variables(carry), 0, self._program.members)
        if jax.process_count() > 1:  # process 0 alone draws them, on its own devices
            variables = meshes.whole(variables)
            if jax.process_index() > 0:
                return {}
        return dict(samples(self._program.apply, variables, rng.key(self._settings.seed)))


def evaluate(program: Program, variables, names=None, stop=None, waiting=contextlib.nullcontext) -> tuple[dict, list]:
    """The named evaluators, or all: metrics {name: [one value a member]} and the artifacts of each member.

    Raises:
      Stopped: `stop()` said so between two batches.
      Asked: `waiting()`, in which batches are waited for, said so.
    """
    metrics, artifacts = {}, [{} for _ in range(program.members or 1)]
    for name in program.experiment.evaluators if names is None else names:
        values, extra = program.evaluation.run(name, variables, stop, waiting)
        metrics |= values
        for mine, more in zip(artifacts, extra, strict=True):
            mine |= more
    return metrics, artifacts


def _together(error: BaseException | None) -> bool:
    """Whether all processes are leaving, or there is one alone."""
    return error is None or getattr(error, 'shared', False) or jax.process_count() == 1


def _check(halted) -> None:
    """Raises `_Halted` where a member's step was not applied; of several, the first such step."""
    halted = np.atleast_1d(np.asarray(halted))
    if (halted >= 0).any():
        index = int(np.argmin(np.where(halted >= 0, halted, np.iinfo(halted.dtype).max)))
        raise _Halted(int(halted[index]), index)


def _means(totals) -> dict[str, list[float]]:
    """{'train/name': [one value a member]} of sums and counts."""
    return {f'train/{name}': [float(x) for x in np.atleast_1d(mean(metric))] for name, metric in jax.device_get(totals).items()}
