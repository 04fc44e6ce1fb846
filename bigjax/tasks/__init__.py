"""The contract of a task: the loss, the prediction and the metrics of one kind of problem, as pure functions.

Glossary: B examples in a batch; `variables` = {'params': …, other linen collections}; `apply` is the model bound by `bind`
below; `batch` maps names to arrays with leading dimension B.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError

Batch = Mapping[str, jax.Array]

MASK = '_mask'  # [B] float32 in padded batches: 1 for an example, 0 for padding. Absent means all ones.
LOSSES = 'losses'  # the collection of auxiliary losses that layers sow, such as a load balance
FROZEN = 'frozen'  # the collection of teachers and tables: read by tasks and models, never updated, without gradients
RNG_STREAMS = ('dropout', 'sample')  # linen rng names that `bind` provides when it is given an rng
LEAST_COUNT = 1e-8  # of the weights in a mean: an empty sum has the mean 0


class Term(NamedTuple):
    """One term of an objective, scale · Σ weights · values / Σ weights over the global batch.

    Attributes:
      values: float32, [B] or any shape, such as [B, T] of tokens.
      weights: the same shape; zero hides a value, even one that is not finite. Weights are no function of the parameters.
      scale: the factor of the term in the objective.
    """

    values: jax.Array
    weights: jax.Array
    scale: float | jax.Array = 1.0


class Aux(NamedTuple):
    """The second result of a loss.

    Attributes:
      model_state: the collections that the call changed (`{}` where it changed none).
      metrics: name -> (sum, count), scalars; any split of the batch then gives the same mean.
    """

    model_state: Mapping[str, Any]
    metrics: Mapping[str, tuple[jax.Array, jax.Array]]


class Range(NamedTuple):
    """The integers that a key of the data may hold: 0 <= x < size, and `ignore`. A size of None sets no upper bound."""

    size: int | None
    ignore: int | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of problem.

    Attributes:
      inputs: `inputs(batch) -> tuple`: the positional arguments with which the model's `__call__` is initialised.
      loss: `loss(apply, variables, batch, rng, train) -> ({name: Term}, Aux)`. The objective is the sum over the terms of
        scale · Σ w·v / Σ w over the global batch.
      predict: `predict(apply, variables, batch, rng) -> tree of arrays with leading dimension B`.
      unit: what throughput counts: 'examples', 'images', 'tokens', 'seconds', 'interactions'.
      size: `size(batch) -> int`, the number of units in a batch, from the shapes of its arrays; None counts examples.
      ranges: `ranges(output) -> {key: Range}`: the integers that the data may hold, given the shapes of the model's output,
        whose structure it checks (`of_parts`).
    """

    inputs: Callable[[Batch], tuple]
    loss: Callable[..., tuple[Mapping[str, Term], Aux]]
    predict: Callable[..., Any]
    unit: str = 'examples'
    size: Callable[[Batch], int] | None = None
    ranges: Callable[[Any], Mapping[str, Range]] | None = None


def bind(model: Any) -> Callable:
    """Returns the model as `apply(variables, *args, train=False, rng=None, method=None, mutable=(), **kw)`.

    Its result is (output, {the collections that were mutable, as the call left them}). In training every collection of
    `variables` but params and frozen is mutable, and LOSSES, which layers sow; `mutable` names more, in evaluation as well: a
    'cache', or 'intermediates' with capture_intermediates=True. `model` is anything with linen's `apply`.
    """

    def apply(variables, *args, train: bool = False, rng=None, method=None, mutable: Sequence[str] = (), **kwargs):
        mutable = [mutable] if isinstance(mutable, str) else list(mutable)
        if train:
            mutable += [name for name in (*variables, LOSSES) if name not in ('params', FROZEN, *mutable)]
        rngs = None if rng is None else {s: jax.random.fold_in(rng, i) for i, s in enumerate(RNG_STREAMS)}
        kwargs = dict(kwargs, train=train, rngs=rngs, mutable=mutable or False)
        if method is not None:
            kwargs['method'] = method
        out = model.apply(variables, *args, **kwargs)
        return (out[0], dict(out[1])) if mutable else (out, {})

    return apply


def mask(batch: Batch) -> jax.Array:
    """[B] float32 weights of the examples: the padding mask, or ones."""
    if MASK in batch:
        return batch[MASK].astype(jnp.float32)
    return jnp.ones(jax.tree.leaves(batch)[0].shape[0], jnp.float32)


def weighted(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of a metric of examples or tokens. A weight of zero hides even a value that is not finite."""
    return jnp.sum(jnp.where(weights > 0, values * weights, 0.0)), jnp.sum(weights)


def loss_metrics(terms: Mapping[str, Term]) -> dict:
    """The metrics of an objective, as pairs (sums, counts) whose means are its parts.

    A single term is {'loss': (sum, count)}. Several terms are a metric each, without their scale, and 'loss' is a pair of trees
    {term: sum}, {term: count}, of which `mean` adds up the means: sums of batches then give the objective of all of them.

    Raises:
      UserError: a term's weights do not have the shape of its values, or there is no term.
    """
    pairs, scaled = {}, {}
    for name, term in terms.items():
        values, weights, scale = Term(*term)
        if jnp.shape(values) != jnp.shape(weights):
            raise UserError(f"loss term '{name}': got values {list(jnp.shape(values))} and weights {list(jnp.shape(weights))}, "
                            'expected the same shape; fix: a weight for every value', code='task/term-shape')
        pairs[name] = total, count = weighted(values, jax.lax.stop_gradient(weights))
        scaled[name] = scale * total, count
    if not pairs:
        raise UserError('loss: got no term, expected {name: Term(values, weights, scale)}', code='task/no-term')
    if len(pairs) == 1:
        return {'loss': scaled[name]}
    return {**pairs, 'loss': ({n: s for n, (s, _) in scaled.items()}, {n: c for n, (_, c) in scaled.items()})}


def mean(metric: tuple):
    """The value of a metric (sums, counts): the sum over its leaves of sum / count. NumPy and JAX arrays both work."""
    pairs = zip(*map(jax.tree.leaves, metric), strict=True)
    return sum(total / count.clip(min=LEAST_COUNT) for total, count in pairs)


def of_parts(output, parts: int = 1):
    """The model's output or its shapes, where it has as many parts as the task reads: one array, or a tuple.

    Raises:
      UserError: it is another structure.
    """
    found = len(output) if isinstance(output, tuple | list) else 1 if hasattr(output, 'dtype') else None
    if found != parts or (parts == 1) != hasattr(output, 'dtype'):
        what = 'one array' if hasattr(output, 'dtype') else f'a {type(output).__name__}' + (f' of {found}' if found else '')
        expected = 'one array' if parts == 1 else f'a tuple of {parts} arrays'
        raise UserError(f"the model's output: got {what}, expected {expected}; fix: return that, and sow what else is wanted",
                        code='task/output')
    return output


def check_shape(what: str, x, expected: Sequence[int]) -> None:
    """Raises UserError where an array of a batch or of a model has another shape; it is called while the loss is traced."""
    if tuple(jnp.shape(x)) != tuple(expected):
        raise UserError(f'{what}: got the shape {list(jnp.shape(x))}, expected {list(expected)}; fix: the data or the model',
                        code='task/shape')


CHECKED, BLOCKS = 2**24, 64  # numbers of one array that `check_data` reads at most, in so many blocks at equal distances


def check_data(task: Task, output, data: Any) -> None:
    """Compares the integers of all splits with the model's output, once at the start of a run.

    Arrays in memory are read, also those that examples are cut from (`source.cut_from`, {key of an example: array}); of other
    sources, and of one that opens late, the number of classes in `data.info` is compared.

    Args:
      output: the model's output for `task.inputs`, or its shapes (`jax.eval_shape`).
      data: `bigjax.experiment.Data`.

    Raises:
      UserError: a label or token is negative, or no smaller than the number of the model's outputs.
    """
    ranges = task.ranges(output) if task.ranges else {}
    for split, source in {'train': data.train, **data.evals}.items():
        arrays = getattr(source, 'arrays', None) if getattr(source, 'opened', True) else None
        if arrays is None:
            classes = data.info.get('classes', ())
            arrays = {'label': np.arange(len(classes))} if classes else {}
        cut_from = getattr(source, 'cut_from', {})
        for key in ranges:
            values = arrays.get(cut_from.get(key, key))
            if values is not None:
                _check_range(split, key, values, *ranges[key])


def _check_range(split: str, key: str, values, size: int | None, ignore: int | None) -> None:
    """Names the first number that is no integer of its range, and its place in the array."""
    if values.dtype.kind not in 'iuf' or not values.size:
        return
    shape, values = values.shape, values.reshape(-1)
    starts, block = np.zeros(1, np.int64), len(values)
    if len(values) > CHECKED:  # blocks, not single numbers: each number of a file that is mapped costs a page
        block = CHECKED // BLOCKS
        starts = np.linspace(0, len(values) - block, BLOCKS).astype(np.int64)
    limit = 'at least 0' if size is None else f'0 to {size - 1}'
    for start in starts:
        found = np.asarray(values[start:start + block])
        whole = np.isfinite(found) & (found == np.floor(found))  # the one-hot vector of NaN is zero, and its loss is 0
        outside = (found < 0) | (False if size is None else found >= size)
        wrong = ~whole | (outside if ignore is None else outside & (found != ignore))
        if wrong.any():
            first = int(np.argmax(wrong))
            place = ', '.join(str(i) for i in np.unravel_index(start + first, shape))
            expected = limit if whole[first] else 'whole numbers'
            raise UserError(f"{split} data: got '{key}'[{place}] = {found[first]}, expected {expected}; fix: the data"
                            + (", or the model's number of outputs" if whole[first] else ''), code='task/range')
