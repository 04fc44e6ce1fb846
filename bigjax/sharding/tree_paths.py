"""The leaves of a tree by the path that rules, messages and files name them by, such as 'block_0/attn/query/kernel'."""
from collections.abc import Callable
from typing import Any

import jax


def name(path: tuple) -> str:
    """The keys of JAX's path, joined by '/'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def leaves(tree) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf."""
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_leaves(function: Callable, tree, *rest):
    """The tree of `function(path, leaf, *leaves of the rest)`."""
    return jax.tree_util.tree_map_with_path(lambda path, *values: function(name(path), *values), tree, *rest)
