"""Stacked layers in an optimizer: every layer is updated as if it stood alone.

A scanned or pipelined model keeps its blocks in arrays with a leading axis of layers, [L, …], and a mixture keeps its
experts in arrays with an axis of experts, [E, …] ([L, E, …] in a stack). A rule that looks at the shape of an array
(matrices and vectors, the norm of a layer) would otherwise take the stack for one larger layer.
"""
import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from bigjax.nn.stacking import STACKED
from bigjax.sharding.tree_paths import leaves, map_leaves

EXPERTS = re.compile(r'(.*/)?moe/(up|gate|down)')  # the arrays of `bigjax.nn.moe.MoE`


def leads(params) -> dict[str, tuple[int, ...]]:
    """{path: sizes of the leading axes over which layers are stacked}; () for a parameter that is one layer's.

    The leaves under 'blocks' are stacked when their first axes agree; a module that merely has this name is not a stack.
    """
    stacks: dict[str, set] = {}
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves(params)}
    for path, shape in shapes.items():
        for stack in _stacks(path):
            stacks.setdefault(stack, set()).add(shape[:1])
    found = {}
    for path, shape in shapes.items():
        axes = any(len(stacks[stack]) == 1 and shape for stack in _stacks(path))
        found[path] = shape[:axes + bool(EXPERTS.fullmatch(path))]
    return found


def _stacks(path: str) -> list[str]:
    """The stacks that hold a parameter: 'a/blocks/b/kernel' -> ['a/blocks']."""
    parts = path.split('/')
    return ['/'.join(parts[:i + 1]) for i, part in enumerate(parts[:-1]) if part == STACKED]


def per_layer(tx: optax.GradientTransformation, leads: Mapping[str, tuple[int, ...]]) -> optax.GradientTransformation:
    """`tx`, mapped over the layers of stacked parameters.

    It must treat each array by itself, as trust ratios and factored moments do. A rule that sums over the whole tree (a
    global norm, a distance from the start) gives the same for stacks and layers, and would be broken by this.

    Args:
      leads: {path: sizes of the stacked axes} of the parameters that `tx` is given, from `leads`.
    """
    kinds = set(leads.values())
    if kinds <= {()}:
        return tx
    tx = optax.with_extra_args_support(tx)
    parts = {str(kind): functools.reduce(lambda inner, _: _mapped(inner), kind, tx) for kind in kinds}
    return optax.partition(parts, functools.partial(map_leaves, lambda path, _: str(leads[path])))


def _mapped(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`tx` over the first axis of every leaf. Counters stay one number: a condition on them must not become a select."""

    def init(params):
        one = jax.eval_shape(tx.init, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params))
        counter = lambda x: x.ndim == 0 and not jnp.issubdtype(x.dtype, jnp.floating)
        return jax.tree.map(lambda x, all_layers: all_layers[0] if counter(x) else all_layers, one, jax.vmap(tx.init)(params))

    def update(updates, state, params=None, **extra):
        axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, state)
        call = lambda updates, state, params: tx.update(updates, state, params, **extra)
        return jax.vmap(call, in_axes=(0, axes, 0), out_axes=(0, axes))(updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update)
