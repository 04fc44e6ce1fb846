"""Tasks on tokens share the cross entropy of labels, the arrays that a model receives beside its tokens, and packed documents.

Glossary: B examples · T tokens of a row · V vocabulary, or classes.
"""
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigjax.tasks import Batch, Term, check_shape

IGNORE = -1  # a target that does not count; that of `bigjax.data.windows`, too
BESIDE = ('mask', 'positions', 'segments', 'types')  # keys of a batch that a model receives by name, where they are there


def beside(batch: Batch) -> dict[str, jax.Array]:
    """{name: [B, T]} of the arrays beside the tokens that the batch has, as keyword arguments of the model.

    mask is true where a token counts, positions are numbers of places, segments numbers of the documents in a row, of which 0
    is padding, and types those of the sentences of a pair.
    """
    return {name: batch[name] for name in BESIDE if name in batch}


class CrossEntropy(NamedTuple):
    """Float32 numbers of each label: `loss`, smoothed where asked for, `nats` without, `log_z` of the normaliser."""

    loss: jax.Array
    nats: jax.Array
    log_z: jax.Array


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> CrossEntropy:
    """The cross entropy of logits [..., V] at int labels [...], without an array of one-hot targets.

    Args:
      smoothing: the share of a target that is spread evenly over all V (Szegedy et al. 2016, section 7).
    """
    logits = logits.astype(jnp.float32)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    # (1 - s) nats + s (log Z - mean of the logits), as nats = log Z - own
    loss = nats + smoothing * (own - jnp.mean(logits, axis=-1)) if smoothing else nats
    return CrossEntropy(loss, nats, nats + own)


def z_term(log_z: jax.Array, weights: jax.Array, scale: float) -> dict[str, Term]:
    """{'z': the mean of log² Z}, which holds the normaliser of the softmax near 1 (Chowdhery et al. 2022, section 5); {} at a
    scale of 0."""
    return {'z': Term(jnp.square(log_z), weights, scale)} if scale else {}


def segments_between(tokens: jax.Array, separator: int) -> jax.Array:
    """int32 [B, T] numbers of the documents in rows of a stream, from 1: a document ends with its separator."""
    ends = tokens == separator
    return 1 + jnp.cumsum(ends, axis=1, dtype=jnp.int32) - ends


def within(segments: jax.Array) -> jax.Array:
    """bool [B, T - 1]: whether a token and the next one are of one document, padding (0) excepted."""
    return (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)


def labelled(logits: jax.Array, labels: jax.Array, ignore: int | None) -> tuple[jax.Array, jax.Array]:
    """(labels without the ignored ones, float32 weights [B, T]) of logits [B, T, V], whose shape is checked."""
    check_shape("the model's output", logits, (*jnp.shape(labels), logits.shape[-1]))
    if ignore is None:
        return labels, jnp.ones(jnp.shape(labels), jnp.float32)
    counts = labels != ignore
    return jnp.where(counts, labels, 0), counts.astype(jnp.float32)


def one_of(tokens: jax.Array, special: Sequence[int]) -> jax.Array:
    """bool of the shape of the tokens: whether a token is one of a few."""
    return jnp.isin(tokens, jnp.asarray(tuple(special), tokens.dtype)) if special else jnp.zeros(tokens.shape, bool)
