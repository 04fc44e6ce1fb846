"""Language modelling: cross entropy of the next token, averaged over tokens.

Glossary: B examples (windows) · T tokens of a window · V vocabulary.
"""
import math

import jax.numpy as jnp
import numpy as np
import optax

from bigjax.tasks import Aux, Task, mask, weighted


def next_token(tokens: str = 'tokens', targets: str = 'targets', ignore: int | None = None) -> Task:
    """Next-token prediction; the model gives logits [B, T, V] of tokens [B, T].

    Where the batch has no `targets`, they are the tokens one later, and the model sees all but the last. An example
    weighs as many as its tokens count, so the loss is nats per token over any split. Metrics: accuracy per token, and
    bits per token. Predictions: the log-likelihood of each token [B, T], float32 nats, 0 where it is ignored.

    Args:
      tokens, targets: keys of the batch.
      ignore: a target that does not count, such as padding.
    """
    def pair(batch):
        if targets in batch:
            return batch[tokens], batch[targets]
        return batch[tokens][:, :-1], batch[tokens][:, 1:]

    def inputs(batch):
        return (pair(batch)[0],)

    def judge(logits_BxTxV, truth_BxT):
        counts = jnp.ones(truth_BxT.shape, bool) if ignore is None else truth_BxT != ignore
        counted = counts.astype(jnp.float32)
        safe = jnp.where(counts, truth_BxT, 0)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, safe) * counted, counted

    def loss(apply, variables, batch, rng, train):
        given, truth = pair(batch)
        logits, state = apply(variables, given, train=train, rng=rng)
        logits = logits.astype(jnp.float32)
        nats_BxT, counted_BxT = judge(logits, truth)
        number = counted_BxT.sum(axis=1)
        per_example = nats_BxT.sum(axis=1) / jnp.maximum(number, 1)
        weights = mask(batch) * number
        hits = (counted_BxT * (jnp.argmax(logits, axis=-1) == truth)).sum(axis=1) / jnp.maximum(number, 1)
        metrics = {'accuracy': weighted(hits, weights), 'bits': weighted(per_example / math.log(2), weights)}
        return per_example, weights, Aux(state, metrics)

    def predict(apply, variables, batch):
        given, truth = pair(batch)
        return -judge(apply(variables, given)[0].astype(jnp.float32), truth)[0]

    return Task(inputs, loss, predict)


def perplexity(outputs, examples, ignore: int | None = None, targets: str = 'targets') -> dict[str, float]:
    """{'perplexity': exp of the mean nats per token} of the predictions [N, T], for an evaluator's `compute`."""
    nats = -np.asarray(outputs, np.float64)
    count = nats.size if ignore is None else np.count_nonzero(np.asarray(examples[targets]) != ignore)
    return {'perplexity': float(np.exp(nats.sum() / count))}


