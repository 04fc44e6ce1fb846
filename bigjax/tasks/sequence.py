"""Sequence to sequence: cross entropy under teacher forcing.

Glossary: B examples · S source tokens · T target tokens, `bos` and `eos` included · L decoded tokens · V target vocabulary.
"""
import math

import jax
import jax.numpy as jnp
import optax

from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted


def teacher_forcing(source: str = 'source', target: str = 'target', pad: int = 0, label_smoothing: float = 0.0,
                    source_vocab: int | None = None) -> Task:
    """Next-token prediction of a target given its source; the model gives logits [B, T - 1, V] of (source, target).

    The model sees the target without its last token and predicts it without its first. The loss is nats per target token that
    is not `pad`, over any split of a batch. Metrics: accuracy per token. Predictions: the model's `decode` of the source, [B,
    L].

    Args:
      source, target: keys of the batch.
      label_smoothing: in training only (Szegedy et al. 2016, section 7).
      source_vocab: the number of source tokens, to check the data at the start of a run; None checks the target alone.
    """
    def inputs(batch):
        return batch[source], batch[target][:, :-1]

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, *inputs(batch), train=train, rng=rng)
        logits, truth = logits.astype(jnp.float32), batch[target][:, 1:]
        check_shape("the model's output", logits, (*truth.shape, logits.shape[-1]))
        counted = (truth != pad).astype(jnp.float32)
        one_hot = jax.nn.one_hot(truth, logits.shape[-1])
        if label_smoothing and train:
            one_hot = optax.smooth_labels(one_hot, label_smoothing)
        weights = counted * mask(batch)[:, None]
        hits = (jnp.argmax(logits, axis=-1) == truth).astype(jnp.float32)
        terms = {'nats': Term(optax.softmax_cross_entropy(logits, one_hot), weights)}
        return terms, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch, rng):
        return apply(variables, batch[source], rng=rng, method='decode')[0]

    return Task(inputs, loss, predict, unit='tokens', size=lambda batch: math.prod(batch[source].shape),
                ranges=lambda logits: {source: Range(source_vocab), target: Range(of_parts(logits).shape[-1])})
