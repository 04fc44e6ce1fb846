"""Sequence to sequence: cross entropy under teacher forcing, and exact match of what is decoded.

Glossary: B examples · S source tokens · T target tokens, `bos` and `eos` included · L decoded tokens.
"""
import jax
import jax.numpy as jnp
import numpy as np
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


def ended(tokens, eos: int, pad: int = 0) -> np.ndarray:
    """[N, L] with everything after the first `eos` of a row replaced by `pad`."""
    tokens = np.asarray(tokens)
    before = np.cumsum(tokens == eos, axis=1) - (tokens == eos)
    return np.where(before > 0, pad, tokens)


def exact_match(outputs, examples, target: str = 'target', eos: int = 2, pad: int = 0) -> dict[str, float]:
    """{'exact_match': the share of sequences decoded without any error}, for an evaluator's `compute`.

    Args:
      outputs: [N, L], decoded, without `bos`.
      examples: with the targets [N, T], `bos` first. A decoded sequence that does not end is wrong.
    """
    ours, truth = ended(outputs, eos, pad), ended(np.asarray(examples[target])[:, 1:], eos, pad)
    width = max(ours.shape[1], truth.shape[1])
    ours, truth = (np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=pad) for a in (ours, truth))
    return {'exact_match': float(np.all(ours == truth, axis=1).mean())}
