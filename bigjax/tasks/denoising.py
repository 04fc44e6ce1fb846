"""Denoising: an encoder-decoder restores spans that were cut out of a text (Raffel et al. 2020, section 3.1.4).

Glossary: B examples · L tokens of a window · S tokens of the source, what is left of it · T of the target, what was cut out.
"""
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigjax.nn import rng as rngs
from bigjax.tasks import Range, Task, of_parts, sequence


class Spans(NamedTuple):
    """How many tokens are cut out of a window, in how many spans; every window of one length has as many."""

    cut: int
    spans: int

    @classmethod
    def of(cls, length: int, density: float = 0.15, mean_span: float = 3.0) -> 'Spans':
        cut = min(max(round(length * density), 1), length - 1)
        return cls(cut, min(max(round(cut / mean_span), 1), cut, length - cut))


def shares(key: jax.Array, total: int, parts: int) -> jax.Array:
    """[parts] random whole numbers, each at least 1, whose sum is `total`, all such rows equally likely."""
    begins = jax.random.permutation(key, jnp.arange(total - 1) < parts - 1)
    part = jnp.cumsum(jnp.concatenate([jnp.zeros(1, int), begins]))
    return jnp.bincount(part, length=parts)


def cut_spans(key: jax.Array, tokens: jax.Array, spans: Spans, *, sentinel: int, eos: int) -> tuple[jax.Array, jax.Array]:
    """One window [L] as T5 sees it: (source [S], target [T]).

    A window begins with a span that is left, and spans that are left and cut out alternate. In the source each span that is cut
    out is one sentinel, in the target each that is left; the sentinels count down from `sentinel`. Both end with `eos`: S = L
    - cut + spans + 1, T = cut + spans + 1.
    """
    L = tokens.shape[0]
    left_key, cut_key = jax.random.split(key)
    lengths = jnp.stack([shares(left_key, L - spans.cut, spans.spans), shares(cut_key, spans.cut, spans.spans)], 1).reshape(-1)
    span_L = jnp.cumsum(jnp.bincount(jnp.cumsum(lengths)[:-1], length=L))  # the number of each token's span
    first_L = jnp.concatenate([jnp.ones(1, bool), span_L[1:] != span_L[:-1]])

    def with_sentinels(cut_out_L, length):
        marked = jnp.where(cut_out_L, sentinel - span_L // 2, tokens)
        order = jnp.argsort(cut_out_L & ~first_L, stable=True)  # what stays comes first, in its order
        return jnp.concatenate([marked[order[:length]], jnp.full(1, eos)]).astype(tokens.dtype)

    cut_L = span_L % 2 == 1
    return with_sentinels(cut_L, L - spans.cut + spans.spans), with_sentinels(~cut_L, spans.cut + spans.spans)


def spans(vocab_size: int, density: float = 0.15, mean_span: float = 3.0, pad: int = 0, eos: int = 1, tokens: str = 'tokens',
          z_loss: float = 0.0) -> Task:
    """Cross entropy of the spans that were cut out; the model gives logits [B, T, V] of (source [B, S], target so far [B, T]).

    Spans are drawn on the device, anew in each step; an evaluation draws the same ones every time. Metrics and the rest as
    in `sequence.teacher_forcing` with `pad` as the start token, as T5 has it.

    Args:
      vocab_size: V; the last tokens are the sentinels.
      density, mean_span: the share of tokens that are cut out, and the mean length of a span.
      tokens: the key of the windows [B, L].
      z_loss: the scale of the mean of log² Z, in training only.
    """
    of_pairs = sequence.teacher_forcing(pad=pad, start=pad, z_loss=z_loss)

    def pairs(batch, rng):
        windows = batch[tokens]
        key = rngs.key(0) if rng is None else jax.random.fold_in(rng, 0x5FA)
        keys = jax.random.split(key, windows.shape[0])
        form = Spans.of(windows.shape[1], density, mean_span)
        source, target = jax.vmap(lambda key, row: cut_spans(key, row, form, sentinel=vocab_size - 1, eos=eos))(keys, windows)
        return {**{name: x for name, x in batch.items() if name != tokens}, 'source': source, 'target': target}

    def loss(apply, variables, batch, rng, train):
        return of_pairs.loss(apply, variables, pairs(batch, rng), rng, train)

    def predict(apply, variables, batch, rng):
        return of_pairs.predict(apply, variables, pairs(batch, rng), rng)

    return dataclasses.replace(of_pairs, inputs=lambda batch: of_pairs.inputs(pairs(batch, None)), loss=loss, predict=predict,
                               size=lambda batch: math.prod(batch[tokens].shape),
                               ranges=lambda logits: {tokens: Range(of_parts(logits).shape[-1])})
