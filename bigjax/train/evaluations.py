"""When evaluators run, of which weights, and what becomes of their results: the record, the best weights, the final metrics."""
import contextlib

import jax
import numpy as np

from bigjax.nn import rng
from bigjax.sharding import mesh as meshes
from bigjax.train import augmented, best
from bigjax.train.evaluate import mapping
from bigjax.train.program import Program


class Evaluations:
    """The evaluations of one run.

    Args:
      phases: the clock of the run's phases.
      stop: `bigjax.train.stop_request.StopRequest`; an evaluation is left between two batches where it is true.
    """

    def __init__(self, program: Program, records, progress, phases, stop):
        self._program, self._records, self._progress, self._phases, self._stop = program, records, progress, phases, stop
        self._last = None  # (metrics, artifacts) of all evaluators at the last step, where these are the reported weights
        self._warned = False

    def run(self, carry: dict, step: int, names: list[str]) -> dict:
        """Evaluates and records the newest weights by the named evaluators; the carry, in which the best weights are kept.

        Raises:
          UserError: all evaluators that could compute `config.best` have run, and none did.
        """
        judged = self._program.best
        with self._phases.within('evaluation'):
            values, artifacts = self._evaluate(carry, names, reported=False)
        if step == self._program.settings.steps and not judged:
            self._last = values, artifacts
        self._records.metrics(step, values)
        self._progress.metrics(step, values)
        if not judged:
            return carry
        if judged.metric not in values:
            self._check_may_come(judged.metric, names, values)
            return carry
        value = np.asarray(values[judged.metric], np.float32)
        if not np.isfinite(value).all() and not self._warned:
            self._warned = True
            self._progress.say(f'warning: {judged.metric} is not finite at step {step}; such a value is never the best')
        return self.keep_best(carry, value if self._program.members else value[0])

    def keep_best(self, carry: dict, value) -> dict:
        """The carry after `value`, of each member, was measured of its newest weights."""
        return {**carry, 'best': self._program.keep_best(carry['best'], value, carry['state'])}

    def final(self, carry: dict, step: int) -> tuple[dict, list]:
        """Metrics and artifacts of the reported weights."""
        with self._phases.within('evaluation'):
            metrics, artifacts = self._last or self._evaluate(carry, None, reported=True)
            artifacts[0].update(self._samples(carry))
            if jax.process_index() == 0:
                artifacts[0].update(augmented.sheet(self._program.datas[0], self._program.settings.seed))
        if self._program.best:
            self._note_best(carry['best'], step)
        return metrics, artifacts

    def _evaluate(self, carry, names, reported: bool):
        return evaluate(self._program, carry, names, reported=reported, stop=self._stop, interruptible=self._stop.interruptible)

    def _check_may_come(self, metric: str, names: list[str], values: dict) -> None:
        split = metric.partition('/')[0]
        able = {name for name, e in self._program.experiment.evaluators.items() if e.split == split}
        if able and able <= set(names):
            raise best.missing(metric, values)

    def _note_best(self, kept: dict, newest_step: int) -> None:
        """Writes into the record which step's weights are the reported ones."""
        judged, kept = self._program.best, jax.device_get({name: kept[name] for name in ('value', 'step')})
        steps = np.where(np.isfinite(kept['value']), kept['step'], newest_step)
        self._records.run['best'] = {
            'metric': judged.metric, 'better': 'higher' if judged.higher else 'lower', 'steps': np.atleast_1d(steps).tolist(),
            'values': [float(v) if np.isfinite(v) else None for v in np.atleast_1d(kept['value'])]}
        if never := best.never_finite(kept):
            who = f" of member{'s' * (len(never) > 1)} {', '.join(map(str, never))}" if self._program.members else ''
            self._progress.say(f'warning: {judged.metric}{who} was never finite; the newest weights are the ones reported')

    def _samples(self, carry) -> dict:
        samples = self._program.experiment.samples
        if samples is None:
            return {}
        variables = self._program.member_variables(carry, 0)
        if jax.process_count() > 1:  # process 0 alone draws them, on its own devices
            variables = meshes.to_host(variables)
            if jax.process_index() > 0:
                return {}
        return dict(mapping('samples', samples(self._program.apply, variables, rng.key(self._program.settings.seed))))


def evaluate(program: Program, carry, names=None, *, reported: bool = True, stop=None,
             interruptible=contextlib.nullcontext) -> tuple[dict, list]:
    """The named evaluators, or all: metrics {name: [one value per member]} and the artifacts of each member.

    Args:
      carry: whose weights; see `Program.variables` for it and for `reported`.

    Raises:
      Stopped: `stop()` was true between two batches.
      StopRequested: the wait for a batch was interrupted.
    """
    metrics, artifacts = {}, [{} for _ in range(program.members or 1)]
    for name in program.experiment.evaluators if names is None else names:
        variables = program.variables(carry, program.experiment.evaluators[name].weights, reported)
        values, extra = program.evaluation.run(name, variables, stop, interruptible)
        metrics |= values
        for member, more in zip(artifacts, extra, strict=True):
            member |= more
    return metrics, artifacts
