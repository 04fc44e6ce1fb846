"""One step of training, for every model, task and optimizer: a pure function of (state, batch).

    key       = fold_in(seed key, step)
    objective = Σ_terms scale · Σ_i w_i v_i / Σ_i w_i, sums over the global batch
    gradient  = that of the objective, and of the auxiliary losses sown into 'losses', accumulated over micro-batches
    state     = optimizer(gradient), moving average, model state; or the same state, where something is not finite

A sum over the batch is exact under any split of it. One term is divided by its weights after the gradient, at no cost. With
several terms each needs its own divisor inside the gradient: weights do not depend on parameters, so they are summed over the
global batch first, by a pass of the loss of which the compiler keeps the weights alone.
"""
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from bigjax.nn import cpu
from bigjax.sharding import logical
from bigjax.tasks import FROZEN, LEAST_COUNT, LOSSES, loss_metrics, mean
from bigjax.train.state import TrainState

Metrics = dict  # name -> (sum, count); see `bigjax.tasks.loss_metrics`


def deal(batch, micro: int):
    """{name: [B, …]} -> {name: [micro, B / micro, …]}: row r goes to micro-batch r % micro, as row r // micro of it.

    Each device deals its own rows. Consecutive rows in a micro-batch would be those of a few devices: the compiler would gather
    all rows on all devices, and each would compute every micro-batch whole.
    """
    def one(x):
        dealt = x.reshape(x.shape[0] // micro, micro, *x.shape[1:]).swapaxes(0, 1)
        return logical.constrain(dealt, None, 'batch', *[None] * (x.ndim - 1))

    return jax.tree.map(one, batch)


def micro_gradients(loss: Callable, apply: Callable, params, collections: Mapping, batch, rng, divisors: Mapping | None = None):
    """(gradient, (metrics, model state)) of one micro-batch.

    The gradient is that of the summed loss of a single term, to be divided by the sum of all weights; of several terms it is
    the micro-batch's part of the objective's gradient.

    Args:
      collections: the variables beside params; frozen among them stay out of the returned model state.
      divisors: {term: sum of weights over the global batch} of several terms; None where this is the global batch.
    """
    def objective(params):
        terms, aux = loss(apply, {'params': params, **collections}, batch, rng, True)
        changed = dict(aux.model_state)
        sown = sum(jnp.sum(x) for x in jax.tree.leaves(changed.pop(LOSSES, {})))
        after = {name: changed.get(name, value) for name, value in collections.items() if name != FROZEN}
        metrics = {**aux.metrics, **loss_metrics(terms)}
        totals, weights = metrics['loss']
        if len(terms) == 1:
            value = totals + weights * sown
        else:
            by = weights if divisors is None else divisors
            share = sum(weights.values()) / jnp.maximum(sum(by.values()), LEAST_COUNT)
            value = sum(total / jnp.maximum(by[name], LEAST_COUNT) for name, total in totals.items()) + share * sown
        return value, (metrics, after)

    return jax.grad(objective, has_aux=True)(params)


def gradients(loss: Callable, apply: Callable, params, collections: Mapping, batch, rng, micro: int,
              divisors: Mapping | None = None, reduce_fn: Callable | None = None):
    """`micro_gradients` summed over the `micro` micro-batches of a batch; micro-batch k has the key fold_in(rng, k).

    Args:
      divisors: {term: sum of weights over the global batch}, where the caller has it; else it is computed when it is needed.
      reduce_fn: see `train_step`.
    """
    own = (loss, apply, params, collections)
    if micro == 1 and reduce_fn is None:
        return micro_gradients(*own, batch, rng, divisors)
    parts = deal(batch, micro) if micro > 1 else None
    first = jax.tree.map(lambda x: x[0], parts) if micro > 1 else batch
    shapes, (metrics, _) = jax.eval_shape(lambda: micro_gradients(*own, first, rng, divisors))
    if divisors is None and isinstance(metrics['loss'][1], Mapping):
        divisors = term_weights(*own, batch, rng, micro)
        divisors = divisors if reduce_fn is None else reduce_fn(({}, divisors))[1]
    if micro == 1:
        grads, (metrics, model_state) = micro_gradients(*own, batch, rng, divisors)
    else:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes, metrics))
        grads, (metrics, model_state) = _accumulated(*own, parts, rng, divisors, zeros)
    if reduce_fn:
        grads, metrics = reduce_fn((grads, metrics))
    return grads, (metrics, model_state)


def _accumulated(loss, apply, params, collections, parts, rng, divisors, zeros):
    """The scan over the micro-batches; the model state goes from one to the next."""
    frozen = {name: tree for name, tree in collections.items() if name == FROZEN}

    def body(carry, xs):
        sums, model_state = carry
        part, index = xs
        key = jax.random.fold_in(rng, index)
        grads, (metrics, model_state) = micro_gradients(loss, apply, params, {**model_state, **frozen}, part, key, divisors)
        return (jax.tree.map(jnp.add, sums, (grads, metrics)), model_state), None

    model_state = {name: tree for name, tree in collections.items() if name != FROZEN}
    indices = jnp.arange(jax.tree.leaves(parts)[0].shape[0])
    ((grads, metrics), model_state), _ = jax.lax.scan(body, (zeros, model_state), (parts, indices))
    return grads, (metrics, model_state)


def term_weights(loss: Callable, apply: Callable, params, collections: Mapping, batch, rng, micro: int) -> dict:
    """{term: sum of its weights over the micro-batches}; the compiler removes the rest of the loss."""
    def weights(part, key):
        terms, _ = loss(apply, {'params': params, **collections}, part, key, True)
        return {name: jnp.sum(term[1]) for name, term in terms.items()}

    if micro == 1:
        return weights(batch, rng)
    keys = jax.vmap(lambda k: jax.random.fold_in(rng, k))(jnp.arange(micro))
    return jax.tree.map(jnp.sum, jax.lax.map(lambda xs: weights(*xs), (deal(batch, micro), keys)))


def normalized(grads, loss_metric: tuple):
    """The gradient of the objective, from what `gradients` returns: that of a single term is still to be divided."""
    weight = loss_metric[1]
    if isinstance(weight, Mapping):
        return grads
    return jax.tree.map(lambda g: g / jnp.maximum(weight, LEAST_COUNT), grads)


def grad_norm_or_inf(grads, updates) -> jax.Array:
    """The norm of the gradients, infinite where an update is not finite: one pass over both, for the price of the norm."""
    return optax.tree.norm(jax.tree.map(lambda g, u: jnp.where(jnp.isfinite(u), g, jnp.inf), grads, updates))


def prepare(batch, rng, preprocess: Callable | None, augment: Callable | None):
    """The batch as the model sees it; the randomness of `augment` is the step's."""
    batch = preprocess(batch) if preprocess else batch
    return augment(batch, jax.random.fold_in(rng, 0xA06)) if augment else batch


def _applied(ok: jax.Array, update: Callable, old):
    """`update()` where ok, else `old`.

    On one CPU device it is a branch: a selection between old and new arrays makes the compiler copy every donated array first.
    On accelerators a branch would wait for `ok` on the host, and selections are fused into the update.
    """
    mesh = logical.current()
    if cpu.on_cpu() and (mesh is None or mesh.size == 1):
        return jax.lax.cond(ok, update, lambda: old)
    return jax.tree.map(lambda new, kept: jnp.where(ok, new, kept), update(), old)


def train_step(state: TrainState, batch, *, apply: Callable, loss: Callable, tx: optax.GradientTransformation,
               accumulate: int = 1, ema: float = 0.0, preprocess: Callable | None = None, augment: Callable | None = None,
               frozen: Mapping | None = None, bounded: bool = False, shard_grads: Callable | None = None,
               reduce_fn: Callable | None = None) -> tuple[TrainState, Metrics]:
    """One update. Keyword arguments are static, `frozen` aside; see `bigjax.experiment` for `loss`, `preprocess` and `augment`.

    Args:
      state: the state before the step.
      batch: {name: [B, …]} with B divisible by `accumulate`.
      apply: the model, bound by `bigjax.tasks.bind`.
      tx: the optimizer; its `update` is given the loss as `value`.
      ema: decay of the moving average of the parameters, 0 for none.
      frozen: {name: tree}, given to the loss as variables['frozen'].
      bounded: finite gradients of a finite norm are known to give a finite update (`bigjax.train.update_bound`), which is then
        not looked at.
      shard_grads: `shard_grads(grads)`: the gradients, on the devices where the optimizer wants them.
      reduce_fn: `reduce_fn((grads, sums))`: sums over the parts of the batch that other devices have, where the compiler does
        not insert them.

    Returns:
      the state after it and the metrics as sums and counts. Where the loss, a gradient, their norm or the update is not finite,
      the state is unchanged but for `halted`, and so it stays in every later step.
    """
    rng = jax.random.fold_in(state.key, state.step)
    batch = prepare(batch, rng, preprocess, augment)
    collections = {**state.model_state, **({FROZEN: frozen} if frozen else {})}
    grads, (metrics, model_state) = gradients(loss, apply, state.params, collections, batch, rng, accumulate,
                                              reduce_fn=reduce_fn)
    grads = grads if shard_grads is None else shard_grads(grads)
    grads = normalized(grads, metrics['loss'])
    value = mean(metrics['loss'])

    def update():
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        average = optax.incremental_update(params, state.ema, 1.0 - ema) if ema else state.ema
        return updates, (params, model_state, opt_state, average)

    old = (state.params, state.model_state, state.opt_state, state.ema)
    finite = lambda norm: jnp.isfinite(value) & jnp.isfinite(norm) & (state.halted < 0)
    if bounded:
        norm = optax.tree.norm(grads)
        ok = finite(norm)
        params, model_state, opt_state, average = _applied(ok, lambda: update()[1], old)
    else:
        updates, new = update()
        norm = grad_norm_or_inf(grads, updates)
        ok = finite(norm)
        params, model_state, opt_state, average = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
    after = TrainState(
        step=state.step + ok.astype(jnp.int32), key=state.key, params=params, model_state=model_state,
        opt_state=opt_state, ema=average,
        halted=jnp.where(ok | (state.halted >= 0), state.halted, state.step))
    return after, {**metrics, 'grad_norm': (norm, jnp.float32(1))}
