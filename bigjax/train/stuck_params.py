"""Fingerprints of parameters: which of them have not moved, and whether a run repeats bit for bit."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

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
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(_fingerprints(tree, members=members)))[0]
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)[()] for path, x in leaves}


class StuckParams:
    """Warns once, after `STEPS` steps, of parameters that are equal to those before them.

    After a resume, the initial parameters are compared: late in a schedule an update can be below float32 resolution, and a
    parameter that ever moved does receive gradient.

    Args:
      program: the program whose parameters these are, with its learning rates and frozen paths.
      params: the parameters before step `start`, the first of the run, or the earliest that are there.
    """

    def __init__(self, program, params, start: int):
        self._program, self._start, self._population = program, start, program.members is not None
        self._done = program.settings.steps - start < STEPS
        self._before = {} if self._done else fingerprints(params, self._population)
        spec = as_spec(program.experiment.optimizer)
        self._frozen = [frozen_paths({**spec, **values}, params) for values in _values_by_member(program)]

    def due(self, step: int) -> bool:
        """Whether `warn` has to be called after `step`. Where the learning rate stays zero, no parameter has to move."""
        if self._done or step - self._start < STEPS:
            return False
        rates = self._program.learning_rate(step - STEPS)
        if step >= self._program.settings.steps:
            rates = np.max([self._program.learning_rate(k) for k in range(step - STEPS, step)], axis=0)
        self._learns = np.broadcast_to(rates > 0, len(self._frozen))
        return bool(self._learns.any())

    def warn(self, params, step: int) -> None:
        """Warns of the parameters that have not moved."""
        self._done = True
        now, stuck = fingerprints(params, self._population), []
        for path, before in self._before.items():
            same = np.broadcast_to(now[path] == before, len(self._frozen))
            members = [m for m, frozen in enumerate(self._frozen) if same[m] and self._learns[m] and path not in frozen]
            if members:
                some = len(members) < len(self._frozen)
                stuck.append(f"{path} (member{'s' * (len(members) > 1)} {', '.join(map(str, members))})" if some else path)
        if stuck:
            more = f' and {len(stuck) - 3} more' if len(stuck) > 3 else ''
            self._program.watch.warn(f"{', '.join(stuck[:3])}{more}: not frozen, and not changed by {step - self._start} "
                                     'steps; does the loss depend on it? freeze it (optimizer.frozen) if it is meant to stay')


def _values_by_member(program) -> list[dict]:
    """The optimizer's numbers that each member has of its own; [{}] for a run that is no population."""
    return [{key: float(value[m]) for key, value in program.values.items()} for m in range(program.members or 1)]


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
            state, totals, _ = program.call(state, totals, feed.arrays, feed.at(step, program.steps_per_call))
            feed.ahead(step + program.steps_per_call)
        return fingerprints(state)
    finally:
        feed.close()
