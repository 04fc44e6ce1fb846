"""One step of training, for every model, task and optimizer: a pure function of (state, batch).

    key   = fold_in(seed key, step)
    g, l  = gradient and value of  sum_i w_i loss_i / sum_i w_i  over the global batch, accumulated over micro-batches;
            g is also that of what layers have sown into 'losses', l is not
    state = optimizer(g), moving average, model state — or the same state, where l, g or the update is not finite
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bigjax.nn.cpu import global_norm
from bigjax.tasks import LOSSES
from bigjax.train.state import TrainState

Metrics = dict  # name -> (sum, count)


def _where(ok, new, old):
    """`new` where ok, else `old`, leaf by leaf; typed keys pass through."""
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


def _gradients(loss: Callable, apply: Callable, params, model_state, batch, rng):
    """(gradient of the summed loss, (sum of weights, sum of losses, model state, metrics)) of one micro-batch."""

    def objective(params):
        per_example, weights, aux = loss(apply, {'params': params, **model_state}, batch, rng, True)
        total, weight = jnp.sum(jnp.where(weights > 0, per_example * weights, 0.0)), jnp.sum(weights)
        after = dict(aux.model_state)
        sown = sum(jnp.sum(x) for x in jax.tree.leaves(after.pop(LOSSES, {})))
        return total + weight * sown, (weight, total, after, dict(aux.metrics))

    return jax.grad(objective, has_aux=True)(params)


def _accumulated(loss, apply, params, model_state, batch, rng, micro: int):
    """As `_gradients`, by a scan over `micro` slices of the batch, each weighted by its examples."""
    slices = jax.tree.map(lambda x: x.reshape(micro, x.shape[0] // micro, *x.shape[1:]), batch)

    def body(carry, xs):
        grads, weight, total, model_state, metrics = carry
        part, index = xs
        g, (w, t, model_state, m) = _gradients(loss, apply, params, model_state, part, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, (grads, weight, total), (g, w, t)) + (
            model_state, jax.tree.map(jnp.add, metrics, m)), None

    first = jax.tree.map(lambda x: x[0], slices)
    shape = jax.eval_shape(lambda: _gradients(loss, apply, params, model_state, first, rng))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    start = (zeros[0], zeros[1][0], zeros[1][1], model_state, zeros[1][3])
    (grads, weight, total, model_state, metrics), _ = jax.lax.scan(body, start, (slices, jnp.arange(micro)))
    return grads, (weight, total, model_state, metrics)


def gradients(loss: Callable, apply: Callable, params, model_state, batch, rng, micro: int):
    """(gradient of the summed loss, (sum of weights, sum of losses, model state, metrics)) of a batch in `micro` slices."""
    parts = (loss, apply, params, model_state, batch, rng)
    return _gradients(*parts) if micro == 1 else _accumulated(*parts, micro)


def size(grads, updates) -> jax.Array:
    """The norm of the gradients, infinite where an update is not finite: one pass over both, for the price of the norm."""
    return global_norm(jax.tree.map(lambda g, u: jnp.where(jnp.isfinite(u), g, jnp.inf), grads, updates))


def prepare(batch, rng, preprocess: Callable | None, augment: Callable | None):
    """The batch as the model sees it; the randomness of `augment` is the step's."""
    batch = preprocess(batch) if preprocess else batch
    return augment(batch, jax.random.fold_in(rng, 0xA06)) if augment else batch


def train_step(state: TrainState, batch, *, apply: Callable, loss: Callable, tx: optax.GradientTransformation,
               accumulate: int = 1, ema: float = 0.0, preprocess: Callable | None = None,
               augment: Callable | None = None, place: Callable | None = None,
               across: Callable | None = None) -> tuple[TrainState, Metrics]:
    """One update. Keyword arguments are static; see `bigjax.experiment` for `loss`, `preprocess` and `augment`.

    Args:
      state: the state before the step.
      batch: {name: [B, …]} with B divisible by `accumulate`.
      apply: the model, bound by `bigjax.tasks.bind`.
      tx: the optimizer; its `update` is given the loss as `value`.
      ema: decay of the moving average of the parameters, 0 for none.
      place: `place(grads)`: the gradients, on the devices where the optimizer wants them.
      across: `across(sums)`: sums over parts of the batch that other devices have, where the compiler does not know of them.

    Returns:
      the state after it and the metrics as sums and counts. Where the loss, a gradient, their norm or the update is not
      finite, the state is unchanged but for `halted`, and so it stays in every later step.
    """
    rng = jax.random.fold_in(state.key, state.step)
    batch = prepare(batch, rng, preprocess, augment)
    grads, (weight, total, model_state, metrics) = gradients(
        loss, apply, state.params, state.model_state, batch, rng, accumulate)
    if across:
        grads, weight, total, metrics = across((grads, weight, total, metrics))
    grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-8), grads if place is None else place(grads))
    value = total / jnp.maximum(weight, 1e-8)

    updates, opt_state = tx.update(grads, state.opt_state, state.params, value=value)
    norm = size(grads, updates)
    params = optax.apply_updates(state.params, updates)
    average = optax.incremental_update(params, state.ema, 1.0 - ema) if ema else state.ema

    ok = jnp.isfinite(value) & jnp.isfinite(norm) & (state.halted < 0)
    old = (state.params, state.model_state, state.opt_state, state.ema)
    params, model_state, opt_state, average = _where(ok, (params, model_state, opt_state, average), old)
    after = TrainState(
        step=state.step + ok.astype(jnp.int32), key=state.key, params=params, model_state=model_state,
        opt_state=opt_state, ema=average,
        halted=jnp.where(ok | (state.halted >= 0), state.halted, state.step))
    metrics = {'loss': (total, weight), **metrics, 'grad_norm': (norm, jnp.float32(1))}
    return after, metrics
