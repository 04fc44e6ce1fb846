"""Checks beside training: steps that were not applied, parameters that do not move, a trace of some steps."""
import pathlib

import numpy as np

from bigjax.errors import NonFinite
from bigjax.train import nonfinite
from bigjax.train.profile import Profile
from bigjax.train.stuck_params import StuckParams


class Halted(Exception):
    """(step, member) of the first step that was not applied."""


def check_applied(halted) -> None:
    """Raises `Halted` where a member's step was not applied; waits for the device."""
    halted = np.atleast_1d(np.asarray(halted))
    if (halted >= 0).any():
        member = int(np.argmin(np.where(halted >= 0, halted, np.iinfo(halted.dtype).max)))
        raise Halted(int(halted[member]), member)


class Diagnostics:
    """Called before and after every call of the step.

    Args:
      profile: (start after, until): the steps to trace, or None.

    Attributes:
      stuck: looks for parameters that do not move; to be given the first ones.
    """

    def __init__(self, program, workdir, records, progress, profile: tuple[int, int] | None):
        self._program, self._workdir, self._records = program, workdir, records
        self.stuck = StuckParams(program, records.run.get('stuck'))
        self._profile = profile and Profile(
            profile, pathlib.Path(workdir) / 'profile', progress.say,
            lambda: program.compiled.lower(*program.arguments()).compile().as_text())

    def before(self, step: int) -> None:
        """`step` steps are done, and the next call begins."""
        if self._profile:
            self._profile.before(step)

    def after(self, step: int, carry, halted) -> None:
        """The call that leads to `step` was made.

        Raises:
          Halted: the parameters were to be looked at, and a step was not applied.
        """
        if self._profile:
            self._profile.after(step, halted)
        if self.stuck.due(step):
            check_applied(halted)  # a step that was not applied has moved nothing
            self._records.run['stuck'] = self.stuck.warn(carry['state'].params, step)

    def evidence(self, carry, feed, step: int, member: int) -> NonFinite:
        """Keeps the batch and the state of the step that was not applied; every later step left the state alone."""
        state = self._program.population.member(carry['state'], member)
        facts = {**self._records.facts(), 'parts': self._program.mesh.size if self._program.settings.reduce_dtype else 0}
        folder = nonfinite.keep(self._workdir, state, feed.host_batch(step, member), member=member, facts=facts)
        who = f' of member {member}' if self._program.members else ''
        return NonFinite(f'the loss, a gradient or the update{who} is not finite at step {step}; the step was not applied, '
                         f'its batch and state are in {folder}; fix: look at them with --replay={folder}')

    def close(self, step: int) -> None:
        """Ends a trace that is going on."""
        if self._profile:
            self._profile.close(step)
