"""Sequence to sequence: cross entropy under teacher forcing.

Glossary: B examples · S source tokens · T target tokens, `eos` included · L decoded tokens · V target vocabulary.
"""
import math
from collections.abc import Callable

import jax.numpy as jnp

from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, weighted
from bigjax.tasks.tokens import cross_entropy, z_term


def teacher_forcing(source: str = 'source', target: str = 'target', pad: int = 0, label_smoothing: float = 0.0,
                    source_vocab: int | None = None, start: int | None = None, masked: bool = False, z_loss: float = 0.0,
                    decode: Callable | None = None) -> Task:
    """Next-token prediction of a target given its source; the model gives logits of (source, target so far).

    A target begins with `bos`, the model sees all of it but the last token, and predicts all but the first: logits [B, T - 1,
    V]. With a `start` token a target has no `bos`: the model sees `start` and all but the last token, and predicts all, [B,
    T, V], as T5 is trained. The loss is nats per target token that is not `pad`, over any split of a batch. Metrics: accuracy
    per token. Predictions: the decoded target [B, L].

    Args:
      source, target: keys of the batch.
      pad: fills rows of both; a target of `pad` does not count.
      label_smoothing: in training only (Szegedy et al. 2016, section 7).
      source_vocab: the number of source tokens, to check the data at the start of a run; None checks the target alone.
      start: see above; `pad` itself in T5.
      masked: the model receives `source_mask` [B, S], false where the source is `pad`.
      z_loss: the scale of the mean of log² Z, in training only.
      decode: `decode(apply, variables, source, rng) -> tokens [B, L]`; None calls the model's `decode` of the source.
    """
    def inputs(batch):
        if start is None:
            return batch[source], batch[target][:, :-1]
        return batch[source], jnp.pad(batch[target][:, :-1], ((0, 0), (1, 0)), constant_values=start)

    def beside(batch):
        return {'source_mask': batch[source] != pad} if masked else {}

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, *inputs(batch), **beside(batch), train=train, rng=rng)
        truth = batch[target] if start is not None else batch[target][:, 1:]
        check_shape("the model's output", logits, (*truth.shape, logits.shape[-1]))
        found = cross_entropy(logits, truth, label_smoothing if train else 0.0)
        weights = (truth != pad).astype(jnp.float32) * mask(batch)[:, None]
        hits = (jnp.argmax(logits, axis=-1) == truth).astype(jnp.float32)
        terms = {'nats': Term(found.loss, weights), **z_term(found.log_z, weights, z_loss if train else 0.0)}
        return terms, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch, rng):
        if decode is not None:
            return decode(apply, variables, batch[source], rng)
        return apply(variables, batch[source], rng=rng, method='decode')[0]

    return Task(inputs, loss, predict, unit='tokens', size=lambda batch: math.prod(batch[source].shape),
                ranges=lambda logits: {source: Range(source_vocab), target: Range(logits.shape[-1])})
