"""The weights of another run, or of another library, as the start of this one (`--init_from`); the models may differ in part.

Arrays are matched by path and shape. Layers may be stacked there and not here, or the other way round
(`bigjax.nn.stacking`). Arrays that the checkpoint lacks, or has in another shape (a new head over an old trunk), keep
their fresh initialisation; they are listed, as are arrays of the checkpoint that have no place here. The weights are those
that the other run reports (`bigjax.checkpoint.reported`), which a line names where they are not its newest ones.
"""
from collections.abc import Callable, Mapping

import jax

from bigjax import weights
from bigjax.checkpoint import manager, reported
from bigjax.errors import UserError
from bigjax.nn import stacking

PARTS = ('params', 'model_state')
SHOWN = 4  # names per list in a message


def load(folder, params: Mapping, model_state: Mapping, say: Callable[[str], None] = print, *,
         model=None, members: int = 0) -> tuple:
    """(params, model_state) with the arrays of the newest checkpoint in `folder`, placed like the given ones.

    Args:
      folder: of a run or a checkpoint; or weights of another library, 'hf:FOLDER' (`bigjax.weights`), for which `model` and
        the `members` of a population are needed.
      params, model_state: freshly initialised; they fill in what the checkpoint lacks.
      say: called with a line where not every array was found.

    Raises:
      UserError: no checkpoint there, or none of its arrays fits.
    """
    if weights.is_place(folder):
        return weights.into(folder, model, params, model_state, say, members)
    path = manager.newest(folder)
    whole = manager.stored(path)
    saved = {p: s for p, s in whole.items() if p.startswith(tuple(f'state/{part}/' for part in PARTS))}
    like = min((_abstract(form, params, model_state) for form in (None, stacking.stack, stacking.unstack)),
               key=lambda tree: len(_unfit(saved, manager.paths(tree))))
    wanted = manager.paths(like)
    unfit = _unfit(saved, wanted)
    _check_some_fit(path, saved, wanted, unfit)
    found = manager.load_part(path, {'state': _without(like['state'], {p.removeprefix('state/') for p in unfit})})['state']
    values, words = reported.weights(path, whole)
    found = _replaced(found, values, 'state/')
    if words:
        say(f'{path}: {words} are taken, which that run reports, not its newest weights')
    if unfit or set(saved) - set(wanted):
        say(_summary(path, saved, wanted, unfit))
    same = jax.tree.structure(like['state']['params']) == jax.tree.structure(params)
    fresh = params if same else (stacking.stack if stacking.is_stacked(like['state']['params']) else stacking.unstack)(params)
    loaded = _merge(fresh, found.get('params', {}))
    loaded = loaded if same else stacking.like(loaded, params)
    placed = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), loaded, params)
    return placed, _merge(model_state, found.get('model_state', {}))


def check(folder, params: Mapping, model_state: Mapping, *, model=None, members: int = 0) -> None:
    """Raises what `load` would, less damage within an array, given shapes alone: before a run leaves anything behind."""
    if weights.is_place(folder):
        weights.check(folder, model, params, model_state, members)
        return
    manager.stored(manager.newest(folder))


def _abstract(form, params, model_state) -> dict:
    """The trees as shapes, with the layers in another form; those of another form are replicated."""
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
    if form is None:
        return {'state': {'params': shapes(params), 'model_state': shapes(model_state)}}
    sharding = jax.tree.leaves(params)[0].sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(form, params))
    return {'state': {'params': other, 'model_state': shapes(model_state)}}


def _unfit(saved: Mapping, wanted: Mapping) -> list[str]:
    """The wanted paths that the checkpoint lacks or has in another shape."""
    return [p for p, shape in wanted.items() if saved.get(p) != shape]


def _check_some_fit(path, saved, wanted, unfit) -> None:
    """Raises UserError where no kernel fits: biases of equal length match by chance."""
    params = [p for p in wanted if p.startswith('state/params/')]
    kernels = [p for p in params if len(wanted[p]) > 1] or params
    if set(kernels) <= set(unfit):
        raise UserError(f'--init_from: {path}: got a checkpoint of another model ({manager.differences(saved, wanted)}), '
                        'expected one that shares some kernels with this model; fix: use the config it was trained with',
                        code='checkpoint/another-model')


def _summary(path, saved, wanted, unfit) -> str:
    name = lambda p: p.removeprefix('state/').removeprefix('params/')
    fresh = [f'{name(p)} ({list(saved[p])} there, {list(wanted[p])} here)' if p in saved else name(p) for p in unfit]
    unused = [name(p) for p in saved if p not in wanted]
    parts = [f'{len(wanted) - len(unfit)} of {len(wanted)} arrays are those of {path}']
    parts += [f'initialised anew: {_listed(fresh)}'] if fresh else []
    return '; '.join([*parts, *([f'not used: {_listed(unused)}'] if unused else [])])


def _listed(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more


def _without(tree, dropped: set[str], prefix: str = ''):
    """The nested dict less some paths, and less branches that are empty then."""
    kept = {}
    for key, value in tree.items():
        path = f'{prefix}{key}'
        if isinstance(value, Mapping):
            if inside := _without(value, dropped, f'{path}/'):
                kept[key] = inside
        elif path not in dropped:
            kept[key] = value
    return kept


def _replaced(tree, values: Mapping, prefix: str):
    """The nested dict with the arrays of `values` {path: array} in the places of its own."""
    return {key: _replaced(value, values, f'{prefix}{key}/') if isinstance(value, Mapping) else
            jax.device_put(values[f'{prefix}{key}'], value.sharding) if f'{prefix}{key}' in values else value
            for key, value in tree.items()}


def _merge(tree: Mapping, found: Mapping) -> dict:
    """`tree` with the leaves of `found` in their places."""
    return {key: _merge(value, found.get(key, {})) if isinstance(value, Mapping) else found.get(key, value)
            for key, value in tree.items()}
