"""Fingerprints of parameters: which of them have not moved, and whether a run repeats bit for bit."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.sharding import tree_paths
from bigjax.train.optimizers import as_spec, frozen_paths

STEPS = 20  # a parameter that receives gradient has moved within so many steps; --deterministic repeats as many


class NotDeterministic(Exception):
    """The same steps from the same state gave different numbers."""


def _fingerprint(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    unsigned = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}') if x.dtype != bool else x
    bits = unsigned.astype(jnp.uint32).reshape(-1)
    factors = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
    return jnp.sum(bits * (factors | 1), dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnames='members')
def _fingerprints(tree, members: bool):
    return jax.tree.map(jax.vmap(_fingerprint) if members else _fingerprint, tree)


def fingerprints(tree, members: bool = False) -> dict[str, np.ndarray]:
    """{path: 32 bits that change with the bits of the array, and with their order}; waits for the arrays.

    Args:
      members: the leading axis of every array is a population's, and so is that of the results, [members].
    """
    found = jax.device_get(_fingerprints(tree, members=members))
    return {path: np.asarray(x)[()] for path, x in tree_paths.leaves(found)}


class StuckParams:
    """Looks once, after `STEPS` steps, for parameters that are as they were before them.

    After a resume, compare with the initial parameters: late in a schedule an update can be below float32 resolution, and a
    parameter that ever moved does receive gradient.

    Args:
      program: whose parameters, with their rates and with those that are meant to stay.
      found: the result of an earlier start of the run, or None; it is reported again, and nothing is looked at.
    """

    def __init__(self, program, found: list[str] | None = None):
        self._program, self._many = program, program.members is not None
        self._done, self._before, self._start = found is not None or program.settings.steps < STEPS, None, 0
        self._report(found or [])

    @property
    def waits(self) -> bool:
        """Whether `begin` is still to be called."""
        return self._before is None and not self._done

    def begin(self, params, start: int) -> None:
        """Takes the parameters before step `start`, the run's first or the nearest known; later calls change nothing."""
        if not self.waits:
            return
        self._start, optimizer = start, as_spec(self._program.experiment.optimizer)
        self._done = self._program.settings.steps - start < STEPS
        self._before = {} if self._done else fingerprints(params, self._many)
        self._frozen = [frozen_paths({**optimizer, **values}, params) for values in self._program.population.numbers()]

    def due(self, step: int) -> bool:
        """Whether to look after `step`. A rate may begin at zero; where it stays there, nothing has to move."""
        if self._done or step - self._start < STEPS:
            return False
        rates = self._program.learning_rate(step - STEPS)
        if step >= self._program.settings.steps:
            rates = np.max([self._program.learning_rate(k) for k in range(step - STEPS, step)], axis=0)
        self._learns = np.broadcast_to(rates > 0, len(self._frozen))
        return bool(self._learns.any())

    def warn(self, params, step: int) -> list[str]:
        """Warns of the parameters that have not moved, and returns their paths."""
        self._done = True
        now, stuck = fingerprints(params, self._many), []
        for path, before in self._before.items():
            same = np.broadcast_to(now[path] == before, len(self._frozen))
            found = [m for m, frozen in enumerate(self._frozen) if same[m] and self._learns[m] and path not in frozen]
            if found:
                few = len(found) < len(self._frozen)
                stuck.append(f"{path} (member{'s' * (len(found) > 1)} {', '.join(map(str, found))})" if few else path)
        self._report(stuck, f'{step - self._start} ')
        return stuck

    def _report(self, stuck: list[str], steps: str = 'the first ') -> None:
        if stuck:
            more = f' and {len(stuck) - 3} more' if len(stuck) > 3 else ''
            self._program.watch.warn(f"{', '.join(stuck[:3])}{more}: not frozen, and not changed by {steps}steps; does the "
                                     'loss depend on it? fix: freeze it (optimizer.frozen) if it is meant to stay')


def check_deterministic(program) -> str:
    """Trains the first steps twice from scratch and compares the bits; returns a line for the log.

    Raises:
      NotDeterministic: they differ; the first arrays that do are named.
    """
    calls = max(1, -(-min(STEPS, program.settings.steps) // program.steps_per_call))
    first, second = (_trained(program, calls) for _ in range(2))
    if differing := [path for path in first if first[path] != second[path]]:
        raise NotDeterministic(f'--deterministic: {calls * program.steps_per_call} steps from the same state gave other '
                               f'numbers in {len(differing)} of {len(first)} arrays, {differing[0]} first; on GPUs, look for '
                               'operations without a deterministic form')
    return f'deterministic: {calls * program.steps_per_call} steps done twice, {len(first)} arrays equal bit for bit'


def _trained(program, calls: int) -> dict[str, int]:
    carry, feed = program.init(), program.feed(0)
    try:
        state, totals = carry['state'], carry['totals']
        for k in range(calls):
            step = k * program.steps_per_call
            state, totals, _ = program.train_steps(state, totals, feed.arrays, feed.at(step, program.steps_per_call))
            feed.ahead(step + program.steps_per_call)
        return fingerprints(state)
    finally:
        feed.close()
