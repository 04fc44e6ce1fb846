"""Arrays that a model reads and no step changes: `Experiment.frozen`, seen by the task as `variables['frozen']`.

A teacher's weights, a table of embeddings. They are sharded by the experiment's partition rules, shared by all members of a
population, and are in neither the train state nor the checkpoints: `get_experiment` makes them again at every start.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.sharding import mesh as meshes
from bigjax.sharding import rules, tree_paths


def place(frozen: Mapping, partition_rules, mesh, axes: Mapping) -> dict:
    """The arrays on the mesh; shapes alone on a mesh that is only described.

    Raises:
      UserError: a leaf that is not an array.
    """
    for path, leaf in tree_paths.leaves(dict(frozen)):
        if not hasattr(leaf, 'shape') or not hasattr(leaf, 'dtype'):
            raise UserError(f"Experiment.frozen: got {type(leaf).__name__} at '{path}', expected arrays; fix: give "
                            'functions and numbers to the task or the model', code='experiment/frozen')
    shardings = rules.suffix_shardings(dict(frozen), partition_rules, mesh, axes)
    if frozen and not set(mesh.devices.flat) <= set(jax.devices()):  # `plan` describes devices that are not here
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), dict(frozen), shardings)
    placed = lambda x, s: x if isinstance(x, jax.Array) and x.sharding == s else meshes.device_put_global(x, s)
    return jax.tree.map(placed, dict(frozen), shardings)


def shapes(tree) -> dict:
    """The abstract arrays of a frozen tree, with their places."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.result_type(x), sharding=x.sharding), tree)
