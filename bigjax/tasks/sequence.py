"""Sequence to sequence: cross entropy under teacher forcing.

Glossary: B examples · S source tokens · T target tokens, `eos` included · L decoded tokens · V target vocabulary.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted
from bigjax.tasks.tokens import cross_entropy, z_term


def teacher_forcing(source: str = 'source', target: str = 'target', pad: int = 0, label_smoothing: float = 0.0,
                    source_vocab: int | None = None, start: int | None = None, z_loss: float = 0.0,
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
      z_loss: the scale of the mean of log² Z, in training only.
      decode: `decode(apply, variables, source, rng) -> tokens [B, L]`; such as `greedy`; None calls the model's own.
    """
    def inputs(batch):
        if start is None:
            return batch[source], batch[target][:, :-1]
        return batch[source], jnp.pad(batch[target][:, :-1], ((0, 0), (1, 0)), constant_values=start)

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, *inputs(batch), train=train, rng=rng)
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
                ranges=lambda logits: {source: Range(source_vocab), target: Range(of_parts(logits).shape[-1])})


def greedy(model, length: int, vocabulary: int | None = None) -> Callable:
    """A `decode` for `teacher_forcing`: the most likely token after each, int32 [B, length], `pad` after `eos`.

    Args:
      model: `bigjax.models.seq2seq.EncoderDecoder`, whose pad, bos and eos it takes. The source is read once, and keys and
        values of the target so far are kept.
      length: tokens of a target, at most. Decoding stops where all rows of a batch have ended.
    """
    def decode(apply, variables, source, rng):
        B = source.shape[0]
        memory = model.apply(variables, source, method='encode')
        cache = model.apply(variables, B, length, model.dtype, memory, source != model.pad, method='init_cache')

        def unfinished(carry):
            _, _, _, done, number = carry
            return (number < length) & ~jnp.all(done)

        def step(carry):
            tokens, cache, last, done, number = carry
            logits, cache = model.apply(variables, last[:, None], cache=cache)
            last = jnp.where(done, model.pad, jnp.argmax(logits[:, -1, :vocabulary], axis=-1)).astype(jnp.int32)
            return tokens.at[:, number].set(last), cache, last, done | (last == model.eos), number + 1

        start = (jnp.full((B, length), model.pad, jnp.int32), cache, jnp.full(B, model.bos, jnp.int32), jnp.zeros(B, bool), 0)
        return jax.lax.while_loop(unfinished, step, start)[0]

    return decode
