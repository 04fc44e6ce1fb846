"""Converts between the two forms of a parameter tree: layers one by one, and the same layers stacked for a scan.

    {'block_0': tree, 'block_1': tree, …}   <->   {'blocks': tree with a leading axis of layers}
"""
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigjax.errors import UserError

STACKED, ONE = 'blocks', 'block_'


def stack(params: Mapping) -> dict:
    """Joins 'block_0', 'block_1', … to 'blocks', wherever they are in the tree."""
    if not isinstance(params, Mapping):
        return params
    numbers = sorted(int(k.removeprefix(ONE)) for k in params if re.fullmatch(ONE + r'\d+', k))
    rest = {k: stack(v) for k, v in params.items() if not re.fullmatch(ONE + r'\d+', k)}
    if not numbers:
        return rest
    if numbers != list(range(len(numbers))):
        raise UserError(f'layers: got {ONE}{numbers}, expected consecutive numbers from 0', code='nn/missing-layer')
    return {**rest, STACKED: jax.tree.map(lambda *x: jnp.stack(x), *(params[f'{ONE}{i}'] for i in numbers))}


def unstack(params: Mapping) -> dict:
    """Splits 'blocks' into 'block_0', 'block_1', …, wherever it is in the tree."""
    if not isinstance(params, Mapping):
        return params
    rest = {k: unstack(v) for k, v in params.items() if k != STACKED}
    if STACKED not in params:
        return rest
    count = jax.tree.leaves(params[STACKED])[0].shape[0]
    parts = {f'{ONE}{i}': jax.tree.map(lambda x, i=i: x[i], params[STACKED]) for i in range(count)}
    return {**rest, **parts}


def is_stacked(params: Mapping) -> bool:
    """Whether there are stacked layers anywhere in the tree."""
    return isinstance(params, Mapping) and any(name == STACKED or is_stacked(tree) for name, tree in params.items())


def like(params: Mapping, wanted: Mapping) -> dict:
    """`params` in the form of `wanted`: stacked where it is stacked."""
    structure = jax.tree.structure(wanted)
    for form in (params, stack(params), unstack(params)):
        if jax.tree.structure(form) == structure:
            return form
    return params
