"""The loop: every family of models, every experiment, one run at a time.

The order at the boundary after a step is always the same, so that a run that was killed and one that was not write the same
numbers: metrics are logged, evaluators run, the best weights are kept, then the checkpoint is saved. The loop runs a little
ahead of the device and never waits for the newest step: an interval's metrics are read while the next one runs, except at
boundaries that evaluate or save. A run that receives a stop request saves before its evaluators have run; the next start runs
them first.
"""
import dataclasses

from bigjax.errors import Preempted, UserError
from bigjax.sharding import mesh as meshes
from bigjax.tasks import mean
from bigjax.train import best, cautions
from bigjax.train.compile_cache import STATS
from bigjax.train.diagnostics import Diagnostics, Halted, check_applied
from bigjax.train.evaluate import Stopped
from bigjax.train.evaluations import Evaluations
from bigjax.train.in_flight import InFlight
from bigjax.train.interval_log import IntervalLog
from bigjax.train.program import Program
from bigjax.train.saver import Saver
from bigjax.train.stop_request import StopRequest
from bigjax.watchdog.signals import StopRequested
from bigjax.watchdog.watchdog import Guard


@dataclasses.dataclass
class Outcome:
    """How a run ended: metrics {name: [one value per member]} of the reported weights, their artifacts, what was compiled."""

    step: int
    status: str
    final: dict
    artifacts: list
    compiled: dict


class Loop:
    """Trains one program in one workdir.

    Args:
      records: `bigjax.runs.writer.Records` of the workdir.
      progress: receives lines, metrics and rates; see `bigjax.runs.progress`.
      init_from: the workdir of another run whose weights a fresh run starts from.
      work: what a step computes (`bigjax.train.flops`), for the utilisation in the log.
      profile: (start after, until): the steps to trace.
      guard: watches over the process (`bigjax.watchdog.watchdog`).
    """

    def __init__(self, program: Program, workdir, records, progress, *, init_from: str = '', work=None,
                 profile: tuple[int, int] | None = None, guard: Guard | None = None):
        self._program, self._settings, self._workdir = program, program.settings, workdir
        self._records, self._progress, self._init_from = records, progress, init_from
        self._guard = guard or Guard()
        self._phases, self._stop = self._guard.clock, StopRequest(self._guard)
        self._saver = Saver(workdir, records, progress, self._phases, self._settings.checkpoint_keep)
        self._compiled = STATS.since()
        self._log = IntervalLog(program, records, progress, work, self._compiled)
        self._diagnostics = Diagnostics(program, workdir, records, progress, profile)
        self._evaluations = Evaluations(program, records, progress, self._phases, self._stop)

    def run(self) -> Outcome:
        """Trains to the end and evaluates the reported weights.

        Raises:
          Preempted: after a signal, once the state is saved.
          NonFinite: a loss or gradient was not finite.
          UserError: the checkpoint is of another model, or `config.best` names a metric that no evaluator computes.
        """
        try:
            with self._phases.within('restore'):
                eval_pending = self._start()
            status = self._train(eval_pending)
            self._saver.wait_for_upload(self._step, self._carry)
            final, artifacts = self._evaluations.final(self._carry, self._step)
            return Outcome(self._step, status, final, artifacts, STATS.since(**self._compiled))
        except (Stopped, StopRequested):
            raise Preempted(f'{self._stop.signal} in the last evaluation: the state is saved; run the same command again'
                            ) from None
        finally:
            self._saver.close()

    def _start(self) -> bool:
        """The state to start from: own checkpoint, then --init_from, then scratch (`bigjax.checkpoint.manager`).

        Returns whether evaluators that were due after it have yet to run.
        """
        program, checkpoints = self._program, self._saver.checkpoints
        self._step = max(checkpoints.steps(), default=0)
        steps = meshes.allgather_int(self._step)
        if len(set(steps)) > 1:
            raise UserError(f'{self._workdir}: got different checkpoints on each process (of steps {steps[:8]}), expected the '
                            'same; fix: put the workdir on a file system that all hosts share', code='workdir/not-shared')
        eval_pending = bool(self._step) and checkpoints.eval_pending(self._step)
        if self._step:  # restored into shapes: beside an initialised state it would need twice the memory
            if self._diagnostics.stuck.waits and not self._init_from:
                self._diagnostics.stuck.begin(program.init()['state'].params, 0)
            self._carry = checkpoints.restore(self._step, program.abstract)
            self._progress.say(f'resuming from step {self._step}')
        else:
            self._carry = program.init()
            if self._init_from:
                self._progress.say(f'starting from the weights of {self._init_from}')
                self._carry = program.load_weights(self._carry, self._init_from, self._progress.say)
        self._records.truncate_after(self._step, eval_pending)
        self._diagnostics.stuck.begin(self._carry['state'].params, self._step)
        return eval_pending

    def _train(self, eval_pending: bool) -> str:
        """All steps that are left; how they ended, 'done' or 'stopped early'."""
        s, program, phases = self._settings, self._program, self._phases
        with phases.within('data'):
            feed = program.feed(self._step)
        phase, in_flight = 'compile', InFlight()
        for line in cautions.lines(program.experiment, s):
            self._progress.say(line)
        self._progress.start(self._step, s.steps)
        self._log.begin(self._step)
        try:
            if eval_pending:
                self._carry = self._evaluations.run(self._carry, self._step, self._evaluators())
                self._saver.save(self._step, self._carry)  # else the next start would run them once more
            while self._step < s.steps and not self._patience_is_over():
                # 1. steps_per_call steps are dispatched; nothing waits for the device
                phases.enter('data', self._step)
                items = feed.at(self._step, program.steps_per_call)
                phases.enter(phase, self._step)
                self._diagnostics.before(self._step)
                state, totals, halted = program.train_steps(self._carry['state'], self._carry['totals'], feed.arrays, items)
                self._carry = {**self._carry, 'state': state, 'totals': totals}
                self._step += program.steps_per_call
                in_flight.add(halted)
                phase, self._guard.unsaved = 'step', True
                # 2. while they run: the next batch is fetched, the last interval is logged
                phases.enter('data', self._step)
                stop = self._stop.while_prefetching(feed, self._step)
                phases.enter('step', self._step)
                self._saver.checkpoints.raise_error()
                self._records.look()
                self._log.flush(feed)
                self._diagnostics.after(self._step, self._carry, halted)
                # 3. what is due at this boundary
                self._boundary(halted, feed, self._stop() or stop)
            status = 'stopped early' if self._step < s.steps else 'done'
            if status == 'stopped early':
                self._saver.save(self._step, self._carry)
            self._log.flush(feed)
            return status
        except Halted as halted:
            with phases.within('save'):
                self._saver.checkpoints.rest()
                error = self._diagnostics.evidence(self._carry, feed, *halted.args)
            self._log.record_halted(self._carry, *halted.args)
            raise error from None
        finally:
            feed.close()
            self._diagnostics.close(self._step)
            self._progress.stop()

    def _boundary(self, halted, feed, stop: bool) -> None:
        """Does everything that is due after this step, in the order of the module's head.

        Raises:
          Preempted: the run is to stop; the state is saved.
        """
        s, judged = self._settings, self._program.best
        evaluators = self._evaluators()
        save = self._saver.checkpoints.lost() or self._due(s.checkpoint_every)
        if self._due(s.log_every):
            if judged and judged.metric.startswith('train/'):
                value = mean(self._carry['totals'][judged.metric.removeprefix('train/')])
                self._carry = self._evaluations.keep_best(self._carry, value)
            self._carry = self._log.hold(self._step, self._carry, halted)
        if evaluators or save or stop:
            check_applied(halted)
            self._log.flush(feed)
        if stop:
            self._save_and_leave(bool(evaluators))
        if evaluators:
            try:
                self._carry = self._evaluations.run(self._carry, self._step, evaluators)
            except (Stopped, StopRequested):
                self._save_and_leave(True)
        if save:
            self._saver.save(self._step, self._carry)

    def _due(self, every: int) -> bool:
        return self._step == self._settings.steps or (bool(every) and self._step % every == 0)

    def _evaluators(self) -> list[str]:
        """The evaluators that are due after this step."""
        s = self._settings
        return [name for name, e in self._program.experiment.evaluators.items()
                if self._due(s.cadence(e.every) if e.every else s.eval_every)]

    def _patience_is_over(self) -> bool:
        """Whether `patience` has run out; waits for the device, so only where the loop does anyway."""
        s = self._settings
        looks = self._step and s.patience and (self._due(s.eval_every) or self._due(s.checkpoint_every))
        return bool(looks) and best.stale(self._carry['best'], self._step, s.patience)

    def _save_and_leave(self, eval_pending: bool) -> None:
        """Saves, before evaluators have run where `eval_pending`, and ends the run."""
        self._saver.save(self._step, self._carry, eval_pending)
        self._saver.wait_for_upload(self._step, self._carry, eval_pending)
        raise Preempted(f'{self._stop.signal} at step {self._step}: the state is saved; run the same command again')
