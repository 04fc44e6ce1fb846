"""Masked language modelling: some tokens of a row are hidden, and predicted from both sides.

Glossary: B examples · T tokens of a row · V vocabulary.
"""
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Range, Task, Term, mask, of_parts, weighted
from bigjax.tasks.tokens import IGNORE, beside, cross_entropy, labelled, one_of

MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the others stay (Devlin et al. 2019, section 3.1)


def corrupt(key: jax.Array, tokens: jax.Array, counts: jax.Array, *, mask_token: int, vocab_size: int, special: Sequence[int],
            rate: float = 0.15) -> tuple[jax.Array, jax.Array]:
    """Hides tokens as BERT does: (tokens [B, T] as the model sees them, targets [B, T], IGNORE where none was chosen).

    Each token that counts is chosen with probability `rate`. Of the chosen, 80 % become the mask's token, 10 % a token drawn
    uniformly from all V, and 10 % stay as they are. The result is a pure function of the key.

    Args:
      counts: bool [B, T], false for padding, which is never chosen.
      special: tokens that are never chosen, such as those that begin and end a row.
    """
    chosen_key, kind_key, token_key = jax.random.split(key, 3)
    counts = counts & ~one_of(tokens, (*special, mask_token))
    chosen = (jax.random.uniform(chosen_key, tokens.shape) < rate) & counts
    kind = jax.random.uniform(kind_key, tokens.shape)
    drawn = jax.random.randint(token_key, tokens.shape, 0, vocab_size, tokens.dtype)
    hidden = jnp.where(kind < MASKED, mask_token, jnp.where(kind < MASKED + RANDOM, drawn, tokens)).astype(tokens.dtype)
    return jnp.where(chosen, hidden, tokens), jnp.where(chosen, tokens, IGNORE)


def masked_token(mask_token: int, vocab_size: int, special: Sequence[int] = (), rate: float = 0.15, tokens: str = 'tokens',
                 targets: str = 'targets') -> Task:
    """Cross entropy at the hidden tokens; the model gives logits [B, T, V] of tokens [B, T].

    Where the batch has no `targets`, tokens are hidden on the device (`corrupt`), anew in each step; an evaluation hides the
    same ones every time. Where it has them, they are what was hidden in `tokens`, and IGNORE elsewhere. Metrics: accuracy
    and bits per hidden token. Predictions: the most likely token of every place [B, T], int32, given the tokens as they are.

    Args:
      mask_token: the token that replaces a hidden one.
      vocab_size: V.
      special: tokens that are never hidden: those that begin and end a row, and padding where the batch has no 'mask'.
      rate: the share of the tokens that are chosen.
      tokens, targets: keys of the batch.
    """
    def hidden(batch, rng):
        if targets in batch:
            return batch[tokens], batch[targets]
        counts = batch['mask'].astype(bool) if 'mask' in batch else jnp.ones(batch[tokens].shape, bool)
        return corrupt(rngs.key(0) if rng is None else jax.random.fold_in(rng, 0x3A5), batch[tokens], counts,
                       mask_token=mask_token, vocab_size=vocab_size, special=special, rate=rate)

    def loss(apply, variables, batch, rng, train):
        seen, truth = hidden(batch, rng)
        logits, state = apply(variables, seen, **beside(batch), train=train, rng=rng)
        safe, counted = labelled(logits, truth, IGNORE)
        found, weights = cross_entropy(logits, safe), counted * mask(batch)[:, None]
        hits = (jnp.argmax(logits, axis=-1) == safe).astype(jnp.float32)
        metrics = {'accuracy': weighted(hits, weights), 'bits': weighted(found.nats / math.log(2), weights)}
        return {'nats': Term(found.loss, weights)}, Aux(state, metrics)

    def predict(apply, variables, batch, rng):
        return jnp.argmax(apply(variables, batch[tokens], **beside(batch), rng=rng)[0], axis=-1).astype(jnp.int32)

    def ranges(logits):
        of_parts(logits)
        return {tokens: Range(logits.shape[-1]), targets: Range(logits.shape[-1], IGNORE)}

    return Task(lambda batch: (batch[tokens],), loss, predict, unit='tokens', size=lambda batch: math.prod(batch[tokens].shape),
                ranges=ranges)
