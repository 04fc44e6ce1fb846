"""Fingerprints of parameters: which of them have not moved, and whether a run can be repeated bit for bit."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.train.optimizers import as_spec, frozen_paths

STEPS = 20  # in which a parameter that learns has moved, and which --deterministic repeats


class NotDeterministic(Exception):
    """The same steps from the same state gave other numbers."""


def _print(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    unsigned = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}') if x.dtype != bool else x
    bits = unsigned.astype(jnp.uint32).reshape(-1)
    place = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
    return jnp.sum(bits * (place | 1), dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnames='members')
def _prints(tree, members: bool):
    return jax.tree.map(jax.vmap(_print) if members else _print, tree)


def of(tree, members: bool = False) -> dict[str, np.ndarray]:
    """{path: 32 bits that change with the bits of the array, and with their places}; waits for the arrays.

    `members`: of each member of a population, [members].
    """
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(_prints(tree, members=members)))[0]
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)[()] for path, x in leaves}


class Unmoved:
    """Looks once, after `STEPS` steps, for parameters that are as they were before them.

    A run that goes on is held to what it began with: at the end of a schedule a step may be smaller than what a parameter
    can tell, and whatever has moved once does depend on the loss.

    Args:
      program: whose parameters, with their rates and with those that are meant to stay.
      params: before step `start`, the first of the run, or as near to it as is known.
    """

    def __init__(self, program, params, start: int):
        self._program, self._start, self._many = program, start, program.members is not None
        self._done = program.settings.steps - start < STEPS
        self._before = {} if self._done else of(params, self._many)
        self._still = [frozen_paths({**as_spec(program.experiment.optimizer), **values}, params) for values in _each(program)]

    def due(self, step: int) -> bool:
        """Whether to look after `step`. A rate may begin at zero; where it stays there, nothing has to move."""
        if self._done or step - self._start < STEPS:
            return False
        rates = self._program.learning_rate(step - STEPS)
        if step >= self._program.settings.steps:
            rates = np.max([self._program.learning_rate(k) for k in range(step - STEPS, step)], axis=0)
        self._learns = np.broadcast_to(rates > 0, len(self._still))
        return bool(self._learns.any())

    def look(self, params, step: int) -> None:
        """Names what has not moved."""
        self._done = True
        now, stuck = of(params, self._many), []
        for path, before in self._before.items():
            same = np.broadcast_to(now[path] == before, len(self._still))
            found = [m for m, meant in enumerate(self._still) if same[m] and self._learns[m] and path not in meant]
            if found:
                few = len(found) < len(self._still)
                stuck.append(f"{path} (member{'s' * (len(found) > 1)} {', '.join(map(str, found))})" if few else path)
        if stuck:
            more = f' and {len(stuck) - 3} more' if len(stuck) > 3 else ''
            self._program.watch.warn(f"{', '.join(stuck[:3])}{more}: not frozen, and not changed by {step - self._start} "
                                     'steps; does the loss depend on it? freeze it (optimizer.frozen) if it is meant to stay')


def _each(program) -> list[dict]:
    """The numbers of the optimizer that each member has of its own; {} for a run that is no population."""
    return [{key: float(value[m]) for key, value in program.values.items()} for m in range(program.members or 1)]


def prove(program) -> str:
    """Trains the first steps twice from scratch and compares the bits; a line that says so.

    Raises:
      NotDeterministic: they differ; the first arrays that do are named.
    """
    rounds = max(1, -(-min(STEPS, program.settings.steps) // program.steps_per_call))
    first, second = (_trained(program, rounds) for _ in range(2))
    if differing := [path for path in first if first[path] != second[path]]:
        raise NotDeterministic(f'--deterministic: {rounds * program.steps_per_call} steps from the same state gave other '
                               f'numbers in {len(differing)} of {len(first)} arrays, {differing[0]} first; on GPUs, look for '
                               'operations without a deterministic form')
    return f'deterministic: {rounds * program.steps_per_call} steps done twice, {len(first)} arrays equal bit for bit'


def _trained(program, rounds: int) -> dict[str, int]:
    carry, feed = program.init(), program.feed(0)
    try:
        state, totals = carry['state'], carry['totals']
        for k in range(rounds):
            step = k * program.steps_per_call
            state, totals, _ = program.call(state, totals, feed.arrays, feed.at(step, program.steps_per_call))
            feed.ahead(step + program.steps_per_call)
        return of(state)
    finally:
        feed.close()
