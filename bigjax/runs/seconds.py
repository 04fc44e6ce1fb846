"""The wall time of a run by phase, over all its starts."""
from collections.abc import Mapping

from bigjax.io import storage
from bigjax.watchdog.phases import Clock


class Seconds:
    """Adds the seconds of this start, which `clock` counts by phase, to those of the starts before it.

    Args:
      earlier: {phase: seconds} of the starts before; see `earlier_seconds`.
    """

    def __init__(self, clock: Clock, earlier: Mapping[str, float]):
        self._clock, self._earlier = clock, dict(earlier)

    def total(self) -> dict[str, float]:
        """{phase: seconds} of all starts until now."""
        now = self._clock.spent()
        return {phase: round(self._earlier.get(phase, 0.0) + now.get(phase, 0.0), 3) for phase in {**now, **self._earlier}}

    def lose_after(self, kept: Mapping[str, float]) -> None:
        """Counts what earlier starts spent after a checkpoint as 'lost', because its steps are repeated.

        Args:
          kept: `total()` when the checkpoint was saved.
        """
        lost = sum(self._earlier.values()) - sum(kept.values())
        if lost > 0:
            self._earlier = {**kept, 'lost': kept.get('lost', 0.0) + lost}


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
