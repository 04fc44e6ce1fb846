"""Language modelling: cross entropy of the next token, averaged over tokens.

Glossary: B examples (windows) · T tokens of a window · V vocabulary.
"""
import math

import jax.numpy as jnp
import optax

from bigjax.tasks import Aux, Task, mask, weighted


def next_token(tokens: str = 'tokens', targets: str = 'targets', ignore: int | None = -1, chunked: bool = False) -> Task:
    """Next-token prediction; the model gives logits [B, T, V] of tokens [B, T].

    Where the batch has no `targets`, they are the tokens one later, and the model sees all but the last. An example
    weighs as many as its tokens count, so the loss is nats per token over any split. Metrics: accuracy per token, and
    bits per token. Predictions: the log-likelihood of each token [B, T], float32 nats, 0 where it is ignored.

    Args:
      tokens, targets: keys of the batch.
      ignore: a target that does not count, such as padding; -1 is that of `bigjax.data.windows.WindowSource`.
      chunked: the model is given the targets and returns nats and hits [B, T] itself, without holding all logits.
    """
    def pair(batch):
        if targets in batch:
            return batch[tokens], batch[targets]
        return batch[tokens][:, :-1], batch[tokens][:, 1:]

    def inputs(batch):
        return (pair(batch)[0],)

    def judge(apply, variables, given, truth_BxT, **options):
        """(nats, hits, which targets count, model state), the first three [B, T] float32."""
        counts_BxT = jnp.ones(truth_BxT.shape, bool) if ignore is None else truth_BxT != ignore
        counted = counts_BxT.astype(jnp.float32)
        safe = jnp.where(counts_BxT, truth_BxT, 0)
        if chunked:
            out, state = apply(variables, given, safe, **options)
            return out['nats'] * counted, out['hits'] * counted, counted, state
        logits, state = apply(variables, given, **options)
        logits = logits.astype(jnp.float32)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
        return nats * counted, (jnp.argmax(logits, axis=-1) == safe) * counted, counted, state

    def loss(apply, variables, batch, rng, train):
        nats, hits, counted, state = judge(apply, variables, *pair(batch), train=train, rng=rng)
        number = counted.sum(axis=1)
        mean = lambda x_BxT: x_BxT.sum(axis=1) / jnp.maximum(number, 1)
        weights = mask(batch) * number
        metrics = {'accuracy': weighted(mean(hits), weights), 'bits': weighted(mean(nats) / math.log(2), weights)}
        return mean(nats), weights, Aux(state, metrics)

    def predict(apply, variables, batch):
        return -judge(apply, variables, *pair(batch))[0]

    return Task(inputs, loss, predict)
