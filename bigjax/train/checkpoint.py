"""Checkpoints: the only module that knows Orbax (its v1 API).

A checkpoint is one pytree of arrays at one step, written in the background, and complete or absent.

Which state a run starts from, first match wins:
  1. the newest checkpoint in the run's own workdir: the run goes on;
  2. `--init_from=DIR`: the weights of another run's newest checkpoint (parameters, model state, moving average);
     the step counter, the optimizer and the seed are the new run's;
  3. scratch: the model's initialisation from the seed.
"""
import logging
import pathlib

import jax
from orbax.checkpoint import v1 as ocp

from bigjax import UserError
from bigjax.train import layers

FOLDER = 'checkpoints'
NAME = 'state'


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay.
      best: a metric whose best checkpoint stays too, '' for none.
      higher: whether more of that metric is better.
    """

    def __init__(self, workdir, *, keep: int = 2, best: str = '', higher: bool = False):
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(max(1, keep))]
        if best:
            kept.append(policies.BestN(get_metric_fn=lambda m: m[best], reverse=not higher, n=1,
                                       keep_checkpoints_without_metrics=False))
        logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax tells every move of every thread at INFO
        self._best = best
        self._orbax = ocp.training.Checkpointer(
            pathlib.Path(workdir).resolve() / FOLDER, preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True)

    def save(self, step: int, tree, metrics: dict | None = None) -> None:
        """Starts writing; returns when the arrays are copied. Waits for the save before it, and raises its error."""
        known = metrics is not None and self._best in metrics
        self._orbax.save_async(step, tree, checkpointable_name=NAME, overwrite=True, force=True,
                               metrics={self._best: float(metrics[self._best])} if known else None)

    def steps(self) -> list[int]:
        """Complete checkpoints, oldest first."""
        return sorted(c.step for c in self._orbax.checkpoints)

    def restore(self, step: int, like):
        """The tree at `step`; `like` has the same structure, with arrays or `jax.ShapeDtypeStruct`s."""
        return load(pathlib.Path(str(self._orbax.directory)) / str(step), like)

    def close(self) -> None:
        """Waits until everything is on the disk."""
        self._orbax.wait()
        self._orbax.close()


def newest(folder) -> pathlib.Path:
    """The newest complete checkpoint of a workdir, of its checkpoints folder, or `folder` itself.

    Raises:
      UserError: there is none.
    """
    folder = pathlib.Path(folder)
    if (folder / NAME).is_dir():
        return folder
    base = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    steps = sorted((int(p.name) for p in base.glob('*') if p.name.isdigit() and (p / NAME).is_dir()), reverse=True)
    if not steps:
        raise UserError(f'{folder}: no checkpoint there; name the workdir of a run that has saved one')
    return base / str(steps[0])


def _paths(tree) -> dict[str, tuple]:
    """Path -> shape; a typed key has the shape of its data, as it has on the disk."""
    def shape(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return tuple(leaf.shape)

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator='/'): shape(leaf) for path, leaf in leaves}


def differences(saved: dict[str, tuple], wanted: dict[str, tuple], limit: int = 3) -> str:
    """'' or the first parameters in which two trees differ, in words."""
    rows = [f'{p} is {list(saved[p])} there and {list(wanted[p])} here' for p in wanted
            if p in saved and saved[p] != wanted[p]]
    rows += [f'{p} is not there' for p in wanted if p not in saved]
    rows += [f'{p} is only there' for p in saved if p not in wanted]
    more = f' (and {len(rows) - limit} more)' if len(rows) > limit else ''
    return '; '.join(rows[:limit]) + more


def load(path, like):
    """Reads one checkpoint as arrays placed like `like`.

    Raises:
      UserError: it holds another model; the first parameters that differ are named.
    """
    path = pathlib.Path(path).resolve()
    if rows := differences(_paths(ocp.metadata(path, checkpointable_name=NAME).metadata), _paths(like)):
        raise UserError(f'{path}: a checkpoint of another model: {rows}; use the config it was trained with, '
                        'or another --workdir')
    return ocp.load(path, like, checkpointable_name=NAME)


def write(path, tree) -> None:
    """One tree at a path, at once, replacing what was there."""
    ocp.save(pathlib.Path(path).resolve(), tree, checkpointable_name=NAME, overwrite=True)


def weights(folder, params, model_state) -> tuple:
    """(params, model_state) of the newest checkpoint in `folder`, placed like the given ones.

    Layers may be stacked there and not here, or the other way round (`bigjax.train.layers`).

    Raises:
      UserError: no checkpoint there, or one of another model.
    """
    path = newest(folder)
    saved = {p: s for p, s in _paths(ocp.metadata(path, checkpointable_name=NAME).metadata).items()
             if p.startswith(('state/params/', 'state/model_state/'))}
    like = {'state': {'params': params, 'model_state': model_state}}
    rows = differences(saved, _paths(like))
    if not rows:
        state = _load_part(path, like)
        return state['params'], state['model_state']
    for form in (layers.stack, layers.unstack):
        other = {'state': {'params': _replicated(jax.eval_shape(form, params), params), 'model_state': model_state}}
        if not differences(saved, _paths(other)):
            state = _load_part(path, other)
            placed = jax.tree.map(lambda x: x.sharding, params)
            return jax.device_put(layers.like(state['params'], params), placed), state['model_state']
    raise UserError(f'{path}: a checkpoint of another model: {rows}; use the config it was trained with')


def _replicated(shapes, arrays):
    """Shapes of whole arrays on the devices of `arrays`."""
    sharding = jax.tree.leaves(arrays)[0].sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def _load_part(path, like):
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    with context:
        return ocp.load(path, like, checkpointable_name=NAME)['state']
