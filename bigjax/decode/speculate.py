"""Lossless speculation: tokens are proposed cheaply, and one pass of the model checks several of them at once.

The model chooses a token at every place of the proposal, just as it would one by one; those that it chooses as proposed are
kept, and the first one that differs takes the place of the proposal's. The text is therefore the one without speculation, drawn
ones included, as a draw depends on its place alone. Proposals come from the text itself (prompt look-up: the longest of the
last `LONGEST_MATCH` tokens that occurred before, and what followed them) or from a smaller model.

Glossary: K proposed tokens · L columns · V vocabulary. There is one row.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigjax.decode.choose import choose, mark
from bigjax.decode.loop import Carry, Plan, program
from bigjax.nn.kv_cache import rewind

LONGEST_MATCH = 3  # tokens; longer matches are no surer, and are found by these as well


class Speculation(NamedTuple):
    """The state beside the carry.

    Attributes:
      passes: of the model, after the prompt.
      cache: the draft model's, of all tokens but the last one; None where the text itself proposes.
    """

    passes: jax.Array
    cache: Any = None


def look_up(tokens_L: jax.Array, length: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """int32 [K]: what followed the latest of the longest earlier matches with the end of the text; zeros without a match.

    A match that ends k tokens before the end proposes those k tokens again and again.

    Args:
      length: columns in use.
      first: the first column that counts.
      count: K.
    """
    L = tokens_L.shape[0]
    columns = jnp.arange(L)
    longest = jnp.zeros(L, jnp.int32)
    running = (columns >= first) & (columns < length - 1)
    for back in range(LONGEST_MATCH):
        earlier = jnp.roll(tokens_L, back)
        running &= (columns - back >= first) & (earlier == tokens_L[length - 1 - back])
        longest += running
    at = jnp.argmax(longest * L + jnp.where(longest > 0, columns, 0))
    period = jnp.maximum(length - 1 - at, 1)
    proposal = tokens_L[jnp.minimum(at + 1 + jnp.arange(count) % period, L - 1)]
    return jnp.where(longest.max() > 0, proposal, 0)


def _draft(draft: Plan, variables, cache, last, keys, place, count: int):
    """(int32 [K], the draft's cache with the last token and all proposed ones)."""
    choice = draft.choice._replace(repetition_penalty=1.0)  # it would only make proposals better

    def step(state, i):
        token, cache = state
        logits, cache = draft.model.apply(variables, token[:, None], cache=cache, train=False)
        return (choose(logits[:, -1], None, choice, keys, place + i), cache), token[0]

    (_, cache), fed = jax.lax.scan(step, (last, cache), jnp.arange(count + 1))
    return fed[1:], cache


def _seen_at(seen_1xV, fed_K1):
    """bool [K + 1, 1, V]: what has been seen at each place of a pass over the last token and K proposed ones."""
    if seen_1xV is None:
        return None
    proposed = jax.nn.one_hot(fed_K1[1:], seen_1xV.shape[-1], dtype=jnp.int32)
    before = jnp.concatenate([jnp.zeros_like(proposed[:1]), jnp.cumsum(proposed, axis=0)])
    return (seen_1xV | (before > 0))[:, None]


@program(static_argnames=('plan', 'draft', 'count'), donate_argnames=('carry', 'state'))
def advance(plan: Plan, draft: Plan | None, variables, draft_variables, carry: Carry, state: Speculation, keys, prompt, first,
            until, count: int) -> tuple[Carry, Speculation]:
    """The carry after more tokens, up to `until` columns, the end, or fewer free slots than a pass needs.

    Args:
      draft: the plan of the model that proposes; None takes proposals from the text.
      prompt: P, from which draws count.
      first: the first column that counts.
      until: at most L - K.
      count: K.
    """
    places = jnp.arange(count + 1)

    def unfinished(both):
        carry, _ = both
        return (carry.length < until) & ~carry.done.all() & (carry.cache.index + count + 1 <= plan.slots)

    def step(both):
        carry, state = both
        index, place = carry.cache.index, carry.length - prompt
        last = jax.lax.dynamic_slice_in_dim(carry.tokens, carry.length - 1, 1, axis=1)[:, 0]
        if draft is None:
            proposal, drafted = look_up(carry.tokens[0], carry.length, first, count), None
        else:
            proposal, drafted = _draft(draft, draft_variables, state.cache, last, keys, place, count)
        fed = jnp.concatenate([last, proposal])
        logits, cache = plan.model.apply(variables, fed[None], cache=carry.cache, train=False)
        pick = lambda logits, seen, i: choose(logits, seen, plan.choice, keys, place + i)[0]
        seen = _seen_at(carry.seen, fed)
        chosen = jax.vmap(pick, (0, None if seen is None else 0, 0))(logits[0][:, None], seen, places)
        taken = jnp.cumprod(chosen[:-1] == proposal).sum() + 1
        ends = plan.ends(chosen)
        taken = jnp.where(ends.any(), jnp.minimum(taken, jnp.argmax(ends) + 1), taken)
        taken = jnp.minimum(taken, until - carry.length).astype(jnp.int32)
        counts = places < taken
        tokens = jax.lax.dynamic_update_slice_in_dim(carry.tokens, jnp.where(counts, chosen, plan.pad)[None], carry.length, 1)
        done = carry.done | (ends & counts).any()
        carry = Carry(rewind(cache, index + taken), tokens, carry.length + taken, done,
                      mark(carry.seen, chosen[None], counts[None]))
        return carry, Speculation(state.passes + 1, None if drafted is None else rewind(drafted, index + taken))

    return jax.lax.while_loop(unfinished, step, (carry, state))
