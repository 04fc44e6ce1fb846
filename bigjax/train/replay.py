"""A loss that was not finite: what is kept of it, and how it is looked at again.

Kept in `workdir/nonfinite/`: `info.json` (step, member, config), `batch.npz` (the batch as it came from the data) and
`state/` (the state before the step).
"""
import io
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax import UserError
from bigjax.data import storage
from bigjax.data.untrusted import archive, first_line, parsed
from bigjax.train import checkpoint, step
from bigjax.train.state import TrainState

FOLDER = 'nonfinite'


class NonFinite(Exception):
    """A loss or a gradient was not finite; the message says when and where the evidence lies."""

    shared = True  # all processes of a run find it at the same step


def keep(workdir, state: TrainState, batch, *, member: int, facts: dict):
    """Writes the state before the step and the batch that broke it."""
    folder = storage.place(workdir) / FOLDER
    storage.make(folder)
    checkpoint.write(folder / 'state', state)
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
            raise UserError(f'--replay={folder}: {name} is missing; name the {FOLDER}/ folder of a run that exited 3')
    try:
        info = parsed(storage.read(folder / 'info.json').decode())
    except (OSError, ValueError) as error:
        raise UserError(f'--replay={folder}: info.json cannot be read ({first_line(error)}); run the command of that run '
                        'again') from None
    kinds = {'step': int, 'variant': str, 'config': dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(info, dict) or not isinstance(info.get(key), kind)]
    if wrong:
        raise UserError(f'--replay={folder}: info.json says no {wrong[0]}; name the {FOLDER}/ folder of a run that exited 3')
    return info, archive(storage.fetched(folder / 'batch.npz'))


def first_nonfinite(call) -> str | None:
    """Runs `call()` eagerly and returns the path of the first linen module whose output is not finite, or None."""
    found = []

    def look(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        leaves = [x for x in jax.tree.leaves(out) if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
                  and jnp.issubdtype(x.dtype, jnp.floating)]
        if not found and not all(bool(jnp.isfinite(x).all()) for x in leaves):
            found.append('/'.join(context.module.path) + f' ({type(context.module).__name__}.{context.method_name})')
        return out

    with nn.intercept_methods(look):
        call()
    return found[0] if found else None


def explain(state: TrainState, batch, *, apply, loss, preprocess=None, augment=None) -> str:
    """In one line, what is not finite first: the batch, a parameter, a module's output, the loss, or a gradient."""
    def bad(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return [jax.tree_util.keystr(p, simple=True, separator='/') for p, x in leaves
                if jnp.issubdtype(x.dtype, jnp.floating) and not bool(jnp.isfinite(x).all())]

    rng = jax.random.fold_in(state.key, state.step)
    batch = step.prepare(jax.tree.map(jnp.asarray, batch), rng, preprocess, augment)
    if names := bad(batch):
        rows = np.flatnonzero(~np.isfinite(np.asarray(batch[names[0]])).reshape(len(batch[names[0]]), -1).all(1))
        return f"the batch: '{names[0]}' is not finite in row {rows[0]} ({len(rows)} of {len(batch[names[0]])} rows)"
    if names := bad(state.params):
        return f'the parameters before the step: {names[0]}'
    variables = state.variables(average=False)
    if name := first_nonfinite(lambda: loss(apply, variables, batch, rng, True)):
        return f'the output of {name}'

    def mean(params):
        per_example, weights, _ = loss(apply, {**variables, 'params': params}, batch, rng, True)
        return jnp.sum(jnp.where(weights > 0, per_example * weights, 0.0)) / jnp.maximum(jnp.sum(weights), 1e-8)

    value, grads = jax.value_and_grad(mean)(state.params)
    if not jnp.isfinite(value):
        return 'the loss, of finite outputs'
    if names := bad(grads):
        return f'the gradient of {names[0]} (the loss is {float(value):.6g})'
    return f'nothing: the loss is {float(value):.6g} and every gradient is finite on this machine'
