"""Sequence to sequence: cross entropy under teacher forcing, and exact match of what is decoded.

Glossary: B examples · S source tokens · T target tokens, `bos` and `eos` included · L decoded tokens.
"""
import jax
import jax.numpy as jnp
import optax

from bigjax.tasks import Aux, Task, mask, weighted


def teacher_forcing(source: str = 'source', target: str = 'target', pad: int = 0, label_smoothing: float = 0.0) -> Task:
    """Next-token prediction of a target given its source; the model gives logits [B, T - 1, V] of (source, target).

    The model sees the target without its last token and predicts it without its first. An example weighs as many as
    its target tokens that are not `pad`, so the loss is nats per token over any split. Metrics: accuracy per token.
    Predictions: the model's `decode` of the source, [B, L].

    Args:
      source, target: keys of the batch.
      label_smoothing: in training only (Szegedy et al. 2016, section 7).
    """
    def inputs(batch):
        return batch[source], batch[target][:, :-1]

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, *inputs(batch), train=train, rng=rng)
        logits, truth = logits.astype(jnp.float32), batch[target][:, 1:]
        counted = (truth != pad).astype(jnp.float32)
        one_hot = jax.nn.one_hot(truth, logits.shape[-1])
        if label_smoothing and train:
            one_hot = optax.smooth_labels(one_hot, label_smoothing)
        nats = optax.softmax_cross_entropy(logits, one_hot)
        number = counted.sum(axis=1)
        per_example = (nats * counted).sum(axis=1) / jnp.maximum(number, 1)
        hits = (counted * (jnp.argmax(logits, axis=-1) == truth)).sum(axis=1) / jnp.maximum(number, 1)
        weights = mask(batch) * number
        return per_example, weights, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch):
        return apply(variables, batch[source], method='decode')[0]

    return Task(inputs, loss, predict)
