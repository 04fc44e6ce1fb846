"""Fingerprints of parameters: which of them have not moved, and whether a run can be repeated bit for bit."""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.train.compiled import Watch

STEPS = 20  # in which a parameter that learns has moved, and which --deterministic repeats


class NotDeterministic(Exception):
    """The same steps from the same state gave other numbers."""


@jax.jit
def _prints(tree):
    def one(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        unsigned = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}') if x.dtype != bool else x
        bits = unsigned.astype(jnp.uint32).reshape(-1)
        place = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
        return jnp.sum(bits * (place | 1), dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def of(tree) -> dict[str, int]:
    """{path: 32 bits that change with the bits of the array, and with their places}; waits for the arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(_prints(tree)))[0]
    return {jax.tree_util.keystr(path, simple=True, separator='/'): int(np.asarray(x)) for path, x in leaves}


class Unmoved:
    """Looks once, after `STEPS` steps with a rate above zero, for parameters that are as they were initialised.

    Args:
      params: before the first step.
      still: paths that are meant to stay.
      watch: told of the others.
    """

    def __init__(self, params, still: set[str], watch: Watch):
        self._before, self._still, self._watch = of(params), still, watch

    def look(self, params) -> None:
        """Names what has not moved."""
        now = of(params)
        stuck = [path for path, value in self._before.items() if now[path] == value and path not in self._still]
        if stuck:
            more = f' and {len(stuck) - 3} more' if len(stuck) > 3 else ''
            self._watch.warn(f"{', '.join(stuck[:3])}{more}: not frozen, and not changed by {STEPS} steps; does the loss "
                             'depend on it? freeze it (optimizer.frozen) if it is meant to stay')


def prove(program) -> str:
    """Trains the first steps twice from scratch and compares the bits; a line that says so.

    Raises:
      NotDeterministic: they differ; the first arrays that do are named.
    """
    rounds = max(1, min(STEPS, program.settings.steps) // program.steps_per_call)
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
