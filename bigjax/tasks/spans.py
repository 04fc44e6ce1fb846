"""Span extraction: where in a row the answer to a question begins and ends.

Glossary: B examples · T tokens of a row, the first of which means "no answer".
"""
import math

import jax
import jax.numpy as jnp

from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted
from bigjax.tasks.tokens import IGNORE, beside, cross_entropy

NEVER = -1e30  # the logit of a place that cannot be chosen: finite, so that no difference of two is NaN


def span(tokens: str = 'tokens', start: str = 'start', end: str = 'end', context: str = 'context', longest: int = 30) -> Task:
    """The mean cross entropy of the first and the last token of an answer; the model gives logits [B, T, 2] of tokens [B, T].

    A question without an answer has its start and end at token 0 (Devlin et al. 2019, section 4.3), and one whose answer
    the row does not hold has IGNORE there, and no loss. Padding (`mask`) takes no probability. Metrics: exact, the share of
    examples with both ends right. Predictions: see `best`.

    Args:
      tokens, start, end: keys of the batch; start and end are int32 [B].
      context: the key of bool [B, T], true where an answer may lie; without it, every token that counts but the first.
      longest: tokens of an answer, at most.
    """
    def places(apply, variables, batch, **options):
        """(logits of the start and of the end, float32 [B, T], model state)."""
        logits, state = apply(variables, batch[tokens], **beside(batch), **options)
        check_shape("the model's output", logits, (*batch[tokens].shape, 2))
        logits = logits.astype(jnp.float32)
        if 'mask' in batch:
            logits = jnp.where(batch['mask'].astype(bool)[..., None], logits, NEVER)
        return logits[..., 0], logits[..., 1], state

    def loss(apply, variables, batch, rng, train):
        *both, state = places(apply, variables, batch, train=train, rng=rng)
        values, hits = 0.0, 1.0
        weights = mask(batch)
        for key, logits in zip((start, end), both, strict=True):
            check_shape(f"'{key}'", batch[key], weights.shape)
            weights = weights * (batch[key] != IGNORE)
            truth = jnp.maximum(batch[key], 0)
            values += 0.5 * cross_entropy(logits, truth).nats
            hits *= jnp.argmax(logits, axis=-1) == truth
        return {'cross_entropy': Term(values, weights)}, Aux(state, {'exact': weighted(hits, weights)})

    def predict(apply, variables, batch, rng):
        starts, ends, _ = places(apply, variables, batch, rng=rng)
        if context in batch:
            allowed = batch[context].astype(bool)
        else:
            allowed = jnp.arange(starts.shape[1]) > 0
            allowed = allowed & batch['mask'].astype(bool) if 'mask' in batch else jnp.broadcast_to(allowed, starts.shape)
        return best(starts, ends, allowed, longest)

    def ranges(logits):
        of_parts(logits)
        return dict.fromkeys((start, end), Range(logits.shape[-2], IGNORE))

    return Task(lambda batch: (batch[tokens],), loss, predict, size=lambda batch: math.prod(batch[tokens].shape), unit='tokens',
                ranges=ranges)


def best(starts_BxT: jax.Array, ends_BxT: jax.Array, allowed_BxT: jax.Array, longest: int) -> dict[str, jax.Array]:
    """The span with the largest sum of logits, of at most `longest` tokens, all of which are allowed.

    -> {'start', 'end' int32 [B], both inclusive; 'score' [B], the sum of its logits, NEVER where no place is allowed; 'total'
    [B], the logarithm of the sum of exp(score) over all such spans; 'none' [B], the score of "no answer", both ends at token
    0}. An answer is given where 'score' - 'none' is above a threshold: 0, or
    what is best on held-out questions.
    """
    T = starts_BxT.shape[1]
    # allowed throughout: no token of the span is outside, counted by the differences of one cumulative sum
    outside_BxT = jnp.cumsum(~allowed_BxT, axis=1)
    first_T1, last_1T = jnp.arange(T)[:, None], jnp.arange(T)[None]
    in_order_TxT = (first_T1 <= last_1T) & (last_1T < first_T1 + longest)
    whole_BxTxT = (outside_BxT[:, :, None] == outside_BxT[:, None]) & allowed_BxT[:, :, None]
    sums_BxTxT = jnp.where(in_order_TxT & whole_BxTxT, starts_BxT[:, :, None] + ends_BxT[:, None], NEVER)
    place_B = jnp.argmax(sums_BxTxT.reshape(-1, T * T), axis=1)
    return {'start': (place_B // T).astype(jnp.int32), 'end': (place_B % T).astype(jnp.int32),
            'score': jnp.max(sums_BxTxT, axis=(1, 2)), 'total': jax.nn.logsumexp(sums_BxTxT, axis=(1, 2)),
            'none': starts_BxT[:, 0] + ends_BxT[:, 0]}
