"""Token classification: a class for every token of a row, such as a part of speech or the name of an entity.

Glossary: B examples · T tokens of a row · N classes.
"""
import math

import jax.numpy as jnp

from bigjax.tasks import Aux, Range, Task, Term, mask, of_parts, weighted
from bigjax.tasks.tokens import IGNORE, beside, cross_entropy, labelled


def softmax(tokens: str = 'tokens', labels: str = 'labels', ignore: int | None = IGNORE, label_smoothing: float = 0.0) -> Task:
    """Softmax cross entropy per token; the model gives logits [B, T, N] of tokens [B, T].

    The loss is nats per token that counts, over any split of a batch. Metrics: accuracy per token that counts. Predictions:
    logits [B, T, N], float32.

    Args:
      tokens, labels: keys of the batch, int32 [B, T] both.
      ignore: a label that does not count: of padding, of special tokens, of all pieces of a word but the first.
      label_smoothing: in training only (Szegedy et al. 2016, section 7).
    """
    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, batch[tokens], **beside(batch), train=train, rng=rng)
        safe, counted = labelled(logits, batch[labels], ignore)
        found, weights = cross_entropy(logits, safe, label_smoothing if train else 0.0), counted * mask(batch)[:, None]
        hits = (jnp.argmax(logits, axis=-1) == safe).astype(jnp.float32)
        return {'cross_entropy': Term(found.loss, weights)}, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch, rng):
        return apply(variables, batch[tokens], **beside(batch), rng=rng)[0].astype(jnp.float32)

    return Task(lambda batch: (batch[tokens],), loss, predict, unit='tokens', size=lambda batch: math.prod(batch[tokens].shape),
                ranges=lambda logits: {labels: Range(of_parts(logits).shape[-1], ignore)})
