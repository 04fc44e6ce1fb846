"""Language modelling: cross entropy of the next token, averaged over tokens.

Glossary: B examples (windows) · T tokens of a window · V vocabulary.
"""
import math

import jax.numpy as jnp
import optax

from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted


def next_token(tokens: str = 'tokens', targets: str = 'targets', ignore: int | None = -1, chunked: bool = False) -> Task:
    """Next-token prediction; the model gives logits [B, T, V] of tokens [B, T].

    Where the batch has no `targets`, they are the tokens one later, and the model sees all but the last. The loss is nats per
    token that counts, over any split of a batch. Metrics: accuracy per token, and bits per token. Predictions: the
    log-likelihood of each token [B, T], float32 nats, 0 where it is ignored.

    Args:
      tokens, targets: keys of the batch.
      ignore: a target that does not count, such as padding; -1 is that of `bigjax.data.windows.WindowSource`.
      chunked: the model is given the targets and returns {'nats', 'hits'} [B, T], without holding all logits.
    """
    def pair(batch):
        if targets in batch:
            return batch[tokens], batch[targets]
        return batch[tokens][:, :-1], batch[tokens][:, 1:]

    def positions(batch):
        """Predicted tokens, from shapes alone: without targets a row predicts one fewer than it has."""
        *rows, length = batch[tokens].shape
        return math.prod(rows) * (length if targets in batch else length - 1)

    def evaluate(apply, variables, batch, **options):
        """(nats, hits, which targets count, model state), the first three float32 [B, T]."""
        given, truth_BxT = pair(batch)
        check_shape(f"'{targets}'", truth_BxT, given.shape)
        counts_BxT = jnp.ones(truth_BxT.shape, bool) if ignore is None else truth_BxT != ignore
        counted, safe = counts_BxT.astype(jnp.float32), jnp.where(counts_BxT, truth_BxT, 0)
        if chunked:
            out, state = apply(variables, given, safe, **options)
            return out['nats'] * counted, out['hits'] * counted, counted, state
        logits, state = apply(variables, given, **options)
        check_shape("the model's output", logits, (*safe.shape, logits.shape[-1]))
        logits = logits.astype(jnp.float32)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
        return nats * counted, (jnp.argmax(logits, axis=-1) == safe) * counted, counted, state

    def loss(apply, variables, batch, rng, train):
        nats, hits, counted, state = evaluate(apply, variables, batch, train=train, rng=rng)
        weights = counted * mask(batch)[:, None]
        metrics = {'accuracy': weighted(hits, weights), 'bits': weighted(nats / math.log(2), weights)}
        return {'nats': Term(nats, weights)}, Aux(state, metrics)

    def predict(apply, variables, batch, rng):
        return -evaluate(apply, variables, batch, rng=rng)[0]

    def ranges(logits):
        of_parts(logits)
        return {tokens: Range(logits.shape[-1]), targets: Range(logits.shape[-1], ignore)}

    return Task(lambda batch: (pair(batch)[0],), loss, predict, unit='tokens', size=positions,
                ranges=ranges)
