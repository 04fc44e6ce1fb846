"""The metrics between two logs: summed on the device, read on the host while the next interval runs."""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.io.stopwatch import Stopwatch
from bigjax.tasks import mean
from bigjax.train import optimizers
from bigjax.train.compile_cache import STATS, describe
from bigjax.train.diagnostics import check_applied


class IntervalLog:
    """Holds the sums of the interval that ended last until `flush`, and writes them with rates and times.

    Args:
      compiled: `STATS.since()` at the start of the run; what was compiled is reported with the first interval.
    """

    def __init__(self, program, records, progress, step_cost, compiled: dict):
        self._program, self._records, self._progress = program, records, progress
        self._cost, self._compiled, self._pending = step_cost, compiled, None

    def begin(self, step: int) -> None:
        """The clock starts: `step` steps were done before."""
        self._watch, self._since = Stopwatch(), step

    def hold(self, step: int, carry: dict, halted) -> dict:
        """The carry with fresh sums; the old ones wait for `flush`, without a wait for the device."""
        self._pending = step, carry['totals'], halted, optimizers.plateau_factor(carry['state'].opt_state) + 0
        return {**carry, 'totals': jax.tree.map(jnp.zeros_like, carry['totals'])}

    def flush(self, feed) -> None:
        """Reads and logs the interval that ended last, if it was not yet; by now the next step is under way.

        Raises:
          Halted: a step of it was not applied.
        """
        if self._pending is None:
            return
        step, totals, halted, plateau = self._pending
        check_applied(halted)
        self._pending = None
        if self._compiled is not None:
            self._progress.say(describe(STATS.since(**self._compiled)))
            self._compiled = None
        values, seconds, steps = means(totals), max(self._watch.lap(), 1e-9), step - self._since
        waited = feed.taken() / seconds
        self._since = step
        rates = np.atleast_1d(self._program.learning_rate(max(0, step - 1)) * np.asarray(plateau))
        work = self._cost.rates(steps / seconds) if self._cost else {
            'examples_per_second': steps / seconds * self._program.settings.batch_size}
        timing = {'steps_per_second': steps / seconds, **work, 'data_wait': waited}
        self._records.metrics(step, values | {'train/learning_rate': [float(rate) for rate in rates]} |
                              {f'time/{name}': [value] for name, value in timing.items()})
        self._progress.metrics(step, values)
        self._progress.speed(step, timing, feed.stages)

    def record_halted(self, carry: dict, step: int, member: int) -> None:
        """A line for the step that was not applied: the metrics of its interval that are not finite."""
        totals = self._pending[1] if self._pending else carry['totals']
        if broken := {name: value for name, value in means(totals).items() if not np.isfinite(value[member])}:
            self._records.metrics(step + 1, broken, applied=False)


def means(totals) -> dict[str, list[float]]:
    """{'train/name': [one value per member]} of sums and counts."""
    return {f'train/{name}': [float(x) for x in np.atleast_1d(mean(metric))] for name, metric in jax.device_get(totals).items()}
