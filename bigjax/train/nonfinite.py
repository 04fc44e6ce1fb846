"""Evidence of a step that was not finite, and its replay, which names the first array that is not.

`workdir/nonfinite/` holds `info.json` (step, member, config; parts, the number of devices that each drew their own random
numbers), `batch.npz` (the batch as it came from the data) and `state/` (the state before the step).
"""
import collections
import io
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.checkpoint import manager
from bigjax.compat import Tracer
from bigjax.errors import UserError
from bigjax.io import local_copy, storage
from bigjax.io.safe_read import archive, parsed
from bigjax.io.text import first_line
from bigjax.nn.stacking import STACKED
from bigjax.sharding import tree_paths
from bigjax.tasks import FROZEN, LOSSES, loss_metrics, mean
from bigjax.train import step
from bigjax.train.state import TrainState

FOLDER = 'nonfinite'


def keep(workdir, state: TrainState, batch, *, member: int, facts: dict):
    """Writes the state before the step, and the batch whose step was not finite."""
    folder = storage.place(workdir) / FOLDER
    storage.make(folder)
    manager.write(folder / 'state', state)
    if jax.process_index() == 0:
        packed = io.BytesIO()
        np.savez(packed, **{k: np.asarray(v) for k, v in batch.items()})
        storage.write(folder / 'batch.npz', packed.getvalue())
        info = {'step': int(state.halted), 'member': member, **facts}
        storage.write(folder / 'info.json', json.dumps(info, indent=1).encode())
    return folder


def read(folder) -> tuple[dict, dict]:
    """(info, batch) of a kept step.

    Raises:
      UserError: the folder does not hold one, or its files are damaged.
    """
    folder = storage.place(folder)
    for name in ('info.json', 'batch.npz', 'state'):
        if not storage.exists(folder / name):
            raise UserError(f'--replay={folder}: got no {name}; fix: name the {FOLDER}/ folder of a run that exited 3',
                            code='replay/no-evidence')
    try:
        info = parsed(storage.read(folder / 'info.json').decode())
    except (OSError, ValueError) as error:
        raise UserError(f'--replay={folder}: info.json cannot be read ({first_line(error)}); fix: run the command of that run '
                        'again', code='replay/damaged') from None
    kinds = {'step': int, 'variant': str, 'config': dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(info, dict) or not isinstance(info.get(key), kind)]
    wrong += [key for key in ('member', 'parts') if not wrong and not isinstance(info.setdefault(key, 0), int)]
    if wrong:
        raise UserError(f'--replay={folder}: got info.json without {wrong[0]}; fix: name the {FOLDER}/ folder of a run that '
                        'exited 3', code='replay/no-evidence')
    return info, archive(local_copy.fetched(folder / 'batch.npz'))


def first_nonfinite(call) -> str | None:
    """Runs `call()` and returns the path of the first linen module whose output is not finite, or None.

    Loops run in Python, one iteration after the other, so that each layer of a scan is checked by itself. Where a module is
    traced nevertheless (under remat, vmap), the check of its output is traced with it.
    """
    found, calls = [], collections.Counter()  # calls: {path: how often, within the present call of the module around it}

    def note(path, method, name, finite):
        if not finite and not found:
            found.append(name + _which(path, calls))
        if method != '__call__':
            return
        calls[path] += 1
        for inner in [p for p in calls if len(p) > len(path) and p[:len(path)] == path]:
            del calls[inner]

    def check_output(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        leaves = [x for x in jax.tree.leaves(out) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)]
        path, method = context.module.path, context.method_name
        name = f"{'/'.join(path)} ({type(context.module).__name__}.{method})"
        if leaves:
            finite = jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
            if isinstance(finite, Tracer):
                jax.debug.callback(lambda finite: note(path, method, name, bool(finite)), finite)
            else:
                note(path, method, name, bool(finite))
        return out

    with jax.disable_jit(), nn.intercept_methods(check_output):
        call()
        jax.effects_barrier()
    return found[0] if found else None


def _which(path: tuple, calls) -> str:
    """The layer of a stack, or the number of the call of a module that is called repeatedly."""
    if STACKED in path:
        return f' in layer {calls[path[:path.index(STACKED) + 1]]}'
    return f' in its call {calls[path] + 1}' if calls[path] else ''


def explain(state: TrainState, batch, *, apply, loss, preprocess=None, augment=None, accumulate: int = 1, parts: int = 0,
            reduce_dtype: str = '', frozen=None, tx: optax.GradientTransformation | None = None) -> str:
    """Returns one line that names the first array that is not finite: the batch, a parameter, a module's output, the loss, a
    gradient, their norm or the update. The step is repeated with the same micro-batches and the same random numbers.

    Args:
      accumulate: the number of micro-batches.
      parts: the number of devices that each took a part of the batch and drew their own random numbers
        (`bigjax.sharding.explicit_reduce`); 0 where the compiler divided the work.
      reduce_dtype: the dtype in which the gradients were summed over those devices.
      frozen: the experiment's frozen trees.
      tx: the optimizer; without it the update is not checked.
    """
    shares = list(_shares(state, jax.tree.map(jnp.asarray, batch), parts, preprocess, augment))
    for first_row, _, ready in shares:
        if names := _bad(ready):
            rows = np.flatnonzero(~np.isfinite(np.asarray(ready[names[0]])).reshape(len(ready[names[0]]), -1).all(1))
            made = '' if _bad(batch) else ', as preprocess and augment make it'
            return (f"the batch{made}: '{names[0]}' is not finite in row {first_row + rows[0]} ({len(rows)} of "
                    f'{len(ready[names[0]])} rows)')
    if names := _bad(state.params):
        return f'the parameters before the step: {names[0]}'
    collections = {**state.model_state, **({FROZEN: frozen} if frozen else {})}
    for share, (_, rng, ready) in enumerate(shares):
        where = f' on device {share}' if parts > 1 else ''
        if what := _forward(state.params, collections, ready, rng, apply, loss, accumulate, where):
            return what
    value, grads = _summed(state.params, collections, shares, apply, loss, accumulate, reduce_dtype)
    if not jnp.isfinite(value):
        return 'the loss, of finite outputs'
    return _backward(state, value, grads, tx)


def _bad(tree) -> list[str]:
    """The paths of the arrays that are not finite."""
    return [path for path, x in tree_paths.leaves(tree)
            if jnp.issubdtype(x.dtype, jnp.floating) and not bool(jnp.isfinite(x).all())]


def _shares(state, batch, parts, preprocess, augment):
    """(first row, the step's key, the batch as the model sees it) of each device, or of all together."""
    rows = len(jax.tree.leaves(batch)[0]) // max(parts, 1)
    for i in range(max(parts, 1)):
        own = jax.tree.map(lambda x, i=i: x[i * rows:(i + 1) * rows], batch)
        rng = jax.random.fold_in(jax.random.fold_in(state.key, i) if parts else state.key, state.step)
        yield i * rows, rng, step.prepare(own, rng, preprocess, augment)


def _forward(params, collections, batch, rng, apply, loss, accumulate, where) -> str | None:
    """The first part on the way to the loss that is not finite, micro-batch by micro-batch."""
    for micro in range(accumulate):
        out = []
        here = f'{where} in micro-batch {micro}' if accumulate > 1 else where
        own = jax.tree.map(lambda x, micro=micro: x[micro::accumulate], batch)  # the rows that `step.deal` gives it
        key = jax.random.fold_in(rng, micro) if accumulate > 1 else rng
        variables = {'params': params, **collections}
        name = first_nonfinite(lambda v=variables, own=own, key=key, out=out: out.append(loss(apply, v, own, key, True)))
        if name:
            return f'the output of {name}{here}'
        terms, aux = out[0]
        changed = dict(aux.model_state)
        if names := _bad(changed.pop(LOSSES, {})):
            return f'the loss that a layer adds, {LOSSES}/{names[0]}{here}'
        collections = {name: changed.get(name, value) for name, value in collections.items()}
        if not all(jnp.isfinite(x) for x in jax.tree.leaves(loss_metrics(terms)['loss'])):
            return f'the loss, of finite outputs{here}'
    return None


def _summed(params, collections, shares, apply, loss, accumulate, reduce_dtype) -> tuple:
    """(loss, gradient) of the step."""
    add = lambda *x: sum(x[1:], x[0])
    own = lambda rng, batch: (loss, apply, params, collections, batch, rng, accumulate)
    term_weights = jax.jit(lambda rng, batch: step.term_weights(*own(rng, batch)))
    weights = [term_weights(rng, batch) for _, rng, batch in shares]
    divisors = jax.tree.map(add, *weights)
    gradients = jax.jit(lambda rng, batch: step.gradients(*own(rng, batch), divisors)[:2])
    found = [gradients(rng, batch) for _, rng, batch in shares]
    total = jax.tree.map(add, *(metrics['loss'] for _, (metrics, _) in found))
    narrow = lambda *x: sum(a.astype(reduce_dtype or a.dtype) for a in x).astype(x[0].dtype)
    grads = jax.tree.map(narrow, *(g for g, _ in found))
    return mean(total), step.normalized(grads, total)


def _backward(state, value, grads, tx) -> str:
    """The first array that is not finite, from the gradients on."""
    if names := _bad(grads):
        return f'the gradient of {names[0]} (the loss is {float(value):.6g})'
    sizes = [(float(jnp.abs(g).max(initial=0.0)), path) for path, g in tree_paths.leaves(grads)]
    largest = '{:.3g} in {}'.format(*max(sizes, key=lambda item: item[0]))
    if not jnp.isfinite(optax.tree.norm(grads)):
        return f'the norm of the gradients: each is finite, but the square of the largest, {largest}, is not'
    updates = tx.update(grads, state.opt_state, state.params, value=value)[0] if tx else {}
    if names := _bad(updates):
        return f'the update of {names[0]}, of finite gradients; the largest is {largest}'
    return f'nothing: the loss is {float(value):.6g} and every gradient is finite on this machine'
