"""What a task is: the loss, the prediction and the metrics of one kind of problem, as pure functions.

Glossary: B examples in a batch; `variables` = {'params': …, other linen collections}; `apply` is the model bound by
`bind` below; `batch` maps names to arrays with leading dimension B.
"""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
Variables = Mapping[str, Any]

MASK = '_mask'  # [B] float32 in padded batches: 1 for an example, 0 for padding. Absent means all ones.
LOSSES = 'losses'  # the collection of auxiliary losses that layers sow, such as a load balance
RNG_STREAMS = ('dropout', 'sample')  # linen rng names that `bind` provides when it is given an rng


class Aux(NamedTuple):
    """What a loss returns beside itself.

    Attributes:
      model_state: the collections other than params after the call (`{}` when the model has none).
      metrics: name -> (sum, count), scalars; any split of the batch then gives the same mean.
    """

    model_state: Mapping[str, Any]
    metrics: Mapping[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of problem.

    Attributes:
      inputs: `inputs(batch) -> tuple`: the positional arguments with which the model's `__call__` is initialised.
      loss: `loss(apply, variables, batch, rng, train) -> (per_example [B], weights [B], Aux)`, float32. The objective
        is sum(per_example * weights) / sum(weights) over the global batch.
      predict: `predict(apply, variables, batch) -> tree of arrays with leading dimension B`.
    """

    inputs: Callable[[Batch], tuple]
    loss: Callable[..., tuple[jax.Array, jax.Array, Aux]]
    predict: Callable[..., Any]


def bind(model: Any) -> Callable:
    """The model as `apply(variables, *args, train=False, rng=None, method=None, **kw) -> (output, model_state)`.

    Collections other than params may change only when `train`; then model_state also has 'losses', what layers have sown
    for the objective, where there is any. `model` is anything with linen's `apply`.
    """

    def apply(variables, *args, train: bool = False, rng=None, method=None, **kwargs):
        names = [name for name in variables if name != 'params']
        rngs = None if rng is None else {s: jax.random.fold_in(rng, i) for i, s in enumerate(RNG_STREAMS)}
        kwargs = dict(kwargs, train=train, rngs=rngs, mutable=[*names, LOSSES] if train else False)
        if method is not None:
            kwargs['method'] = method
        out = model.apply(variables, *args, **kwargs)
        return out if train else (out, {name: variables[name] for name in names})

    return apply


def mask(batch: Batch) -> jax.Array:
    """[B] float32 weights of the examples: the padding mask, or ones."""
    if MASK in batch:
        return batch[MASK].astype(jnp.float32)
    return jnp.ones(jax.tree.leaves(batch)[0].shape[0], jnp.float32)


def weighted(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of a per-example metric. A weight of zero hides even a value that is not finite."""
    return jnp.sum(jnp.where(weights > 0, values * weights, 0.0)), jnp.sum(weights)
