"""The choice of the next token from logits: the most likely one, or a draw among those that a filter leaves.

Glossary: B rows · V vocabulary.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigjax.errors import UserError


class Choice(NamedTuple):
    """How a token is chosen. Filters apply in the order of the fields, each to what the one before left.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token, and the filters have no effect.
      top_k: the k most likely tokens (Fan et al. 2018); 0 for all. Tokens as likely as the k-th are kept.
      top_p: the most likely tokens that together reach this probability (Holtzman et al. 2020); 1 for all.
      min_p: tokens at least this share as likely as the most likely one (Nguyen et al. 2024); 0 for all.
      repetition_penalty: divides the positive logits, and multiplies the negative ones, of tokens that the row has already,
        its prompt included (Keskar et al. 2019); 1 for none. It is applied first.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def check(self) -> 'Choice':
        """The choice itself.

        Raises:
          UserError: a value is out of its range; 'decode/range'.
        """
        for name, expected, within in (('temperature', '0 or more', 0 <= self.temperature < math.inf),
                                       ('top_k', '0 or more', self.top_k >= 0),
                                       ('top_p', 'more than 0 and at most 1', 0 < self.top_p <= 1),
                                       ('min_p', '0 to 1', 0 <= self.min_p <= 1),
                                       ('repetition_penalty', 'more than 0', 0 < self.repetition_penalty < math.inf)):
            if not within:
                raise UserError(f'{name}: got {getattr(self, name)}, expected {expected}; fix: choose such a value',
                                code='decode/range')
        return self


def penalize(scores_BxV: jax.Array, seen_BxV: jax.Array, penalty: float) -> jax.Array:
    """The scores with those of seen tokens made smaller, whichever their sign."""
    return jnp.where(seen_BxV, jnp.where(scores_BxV > 0, scores_BxV / penalty, scores_BxV * penalty), scores_BxV)


def filtered(logits_BxV: jax.Array, choice: Choice) -> jax.Array:
    """float32 logits of the distribution that tokens are drawn from; -inf for those that are left out."""
    scores = logits_BxV.astype(jnp.float32) / choice.temperature
    floor = jnp.full_like(scores[:, :1], -jnp.inf)
    V = scores.shape[-1]
    k = choice.top_k if 0 < choice.top_k < V else 0
    if k or choice.top_p < 1:
        ordered = jax.lax.top_k(scores, k)[0] if k else jnp.sort(scores, axis=-1, descending=True)
        if choice.top_p < 1:
            p = jax.nn.softmax(ordered)
            before = jnp.cumsum(p, axis=-1) - p
            ordered = jnp.where(before < choice.top_p, ordered, jnp.inf)  # the first one has 0 before it, so one stays
            floor = ordered.min(-1, keepdims=True)
        else:
            floor = ordered[:, -1:]
    if choice.min_p:
        floor = jnp.maximum(floor, scores.max(-1, keepdims=True) + math.log(choice.min_p))
    return jnp.where(scores < floor, -jnp.inf, scores)


def choose(logits_BxV: jax.Array, seen_BxV: jax.Array | None, choice: Choice, keys_B, place) -> jax.Array:
    """The next token of each row, int32 [B].

    A draw is a function of the row's key and of `place` alone: neither the length of the prompt, its padding, the other rows,
    nor how many tokens one pass yields change it.

    Args:
      seen_BxV: the tokens that a row has already; read where there is a repetition penalty.
      keys_B: a key of each row.
      place: which new token of the row it is, a scalar.
    """
    scores = logits_BxV.astype(jnp.float32)
    if choice.repetition_penalty != 1:
        scores = penalize(scores, seen_BxV, choice.repetition_penalty)
    if not choice.temperature:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys_B, place)
    return jax.vmap(jax.random.categorical)(keys, filtered(scores, choice)).astype(jnp.int32)


def mark(seen_BxV: jax.Array | None, tokens_BxT: jax.Array, mask_BxT: jax.Array | None = None) -> jax.Array | None:
    """`seen_BxV` with the tokens that count added; None stays None."""
    if seen_BxV is None:
        return None
    B, V = seen_BxV.shape
    tokens = tokens_BxT if mask_BxT is None else jnp.where(mask_BxT, tokens_BxT, V)  # V is out of bounds, hence dropped
    return seen_BxV.at[jnp.arange(B)[:, None], tokens].set(True, mode='drop')
