"""Examples to batches on the host, one way for training, evaluation and what is kept of a batch.

A ragged example (its arrays differ in length from record to record) needs `Data.collate`, which must give batches of one
shape per number of examples: XLA compiles a step for each shape it meets, and devices and hosts must agree on it. Pad to
a fixed length, or make examples of one length bucket in the source. Every array it returns has the examples as its first
axis; how much of a row is padding goes into an array of its own (lengths, or a mask). Padding examples, which complete
the last batch of an evaluation, are copies of an example and need no treatment.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigjax.data import sources
from bigjax.errors import UserError

Batch = dict[str, np.ndarray]


def stack(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """{name: [B, …]} of examples of equal shapes.

    Raises:
      UserError: two examples differ in shape, or one has other names.
    """
    out = {}
    for name in examples[0]:
        rows = [np.asarray(example[name]) if name in example else None for example in examples]
        other = next((row for row in rows if row is None or row.shape != rows[0].shape), rows[0])
        if other is not rows[0]:
            raise UserError(f"'{name}' of two examples of a batch: got {'none' if other is None else list(other.shape)}, "
                            f'expected {list(rows[0].shape)}; fix: give Data a collate that pads them', code='data/ragged')
        out[name] = np.stack(rows)
    return out


def collated(examples: Sequence[Mapping[str, Any]], collate: Callable | None,
             spec: Mapping[str, jax.ShapeDtypeStruct] | None = None) -> Batch:
    """A batch of examples by `collate`, or by `stack` where there is none.

    Args:
      spec: the shapes that the rows of every batch have (`Data.spec`); None for the first one, which sets them.

    Raises:
      UserError: an array of the batch does not have the examples as its first axis, or another shape than `spec` has.
    """
    if collate is None:
        return stack(examples)
    batch = {name: np.asarray(value) for name, value in collate(list(examples)).items()}
    for name, value in batch.items():
        if value.ndim == 0 or len(value) != len(examples):
            raise UserError(f"'{name}' of Data.collate: got {list(value.shape)}, expected {len(examples)} rows as the first "
                            'axis; fix: return one row per example', code='data/collate')
    for name in dict.fromkeys([*(spec or ()), *batch]) if spec is not None else ():
        got, expected = (None if x is None else list(x.shape) for x in (batch.get(name), spec.get(name)))
        if got is None or expected is None or got[1:] != expected:
            raise UserError(f"'{name}' of Data.collate: got {got} for {len(examples)} examples, expected "
                            f'{None if expected is None else [len(examples), *expected]} as in other batches; fix: pad to one '
                            'length', code='data/collate')
    return batch


def gathers(source: Any, transform: Callable | None, collate: Callable | None) -> bool:
    """Whether batches are rows of arrays, gathered in one call."""
    return transform is None and collate is None and sources.array_shapes(source) is not None


def shapes(data: Any, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of `rows` examples of `bigjax.experiment.Data`, before `preprocess`; no device is touched.

    A source with a `spec` is not read: `transform` and `collate` run on an example of zeros, whose open dimensions (None)
    are 1. Of any other source the first example is read.
    """
    source = data.train
    spec = sources.shapes(source)
    if spec is not None and data.transform is None and data.collate is None:
        return {name: jax.ShapeDtypeStruct((rows, *s.shape), s.dtype) for name, s in spec.items()}
    example = sources.first(source) if spec is None else {
        name: np.zeros([n or 1 for n in s.shape], s.dtype) for name, s in spec.items()}
    if data.transform is not None:
        example = data.transform(example, np.random.default_rng(0), True)
    batch = collated([example] * (rows if data.collate else 1), data.collate)
    return {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in batch.items()}
