"""Beam search: the continuations that are likeliest as wholes, by log probability over length ** length_penalty.

A beam that ends is kept aside with its score; the search stops when no running beam, at its present length, has a better score
than the worst of `num_beams` kept ones, or at the last column. This is the rule of the default `early_stopping=False` of
`transformers`, which never lengthens a row that cannot win, and is no exact search where the penalty favours length.

Glossary: B rows · N beams · K candidates · V vocabulary.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigjax.decode.choose import mark, penalize
from bigjax.decode.loop import Plan, Source, empty_cache, program
from bigjax.nn.kv_cache import take

OUT = -1e9  # added to the score of a beam that may not be taken; scores are sums of log probabilities


class Beams(NamedTuple):
    """The state of a search.

    Attributes:
      cache: of B·N rows, without the last token of each.
      tokens, scores: int32 [B, N, new] and float32 [B, N] of the running beams, the best one first.
      kept, kept_scores, ended: tokens, final scores and whether there is such a beam, of those that have ended.
      open: bool [B], whether a running beam may still win.
      count: new tokens of each running beam.
      stuck: whether every candidate of the last pass ended.
      seen: bool [B·N, V], None without a repetition penalty.
    """

    cache: Any
    tokens: jax.Array
    scores: jax.Array
    kept: jax.Array
    kept_scores: jax.Array
    ended: jax.Array
    open: jax.Array
    count: jax.Array
    stuck: jax.Array
    seen: jax.Array | None


def _of(values, beams_BxN):
    """The values [B, K, …] of some beams of each row."""
    return jnp.take_along_axis(values, beams_BxN.reshape(*beams_BxN.shape, *[1] * (values.ndim - 2)), axis=1)


def _extend(plan: Plan, length_penalty: float, state: Beams, logits_BxNxV) -> tuple[Beams, jax.Array]:
    """The beams with one more token, and the beam [B, N] that each of them continues."""
    B, N, V = logits_BxNxV.shape
    logp = jax.nn.log_softmax(logits_BxNxV.astype(jnp.float32))
    if state.seen is not None:
        logp = penalize(logp.reshape(-1, V), state.seen, plan.choice.repetition_penalty).reshape(B, N, V)
    # With an end among each beam's candidates, N of them are still without one.
    K = min(max(2, 1 + len(plan.eos)) * N, N * V)
    scores, at = jax.lax.top_k((logp + state.scores[..., None]).reshape(B, -1), K)
    parent, token = at // V, (at % V).astype(jnp.int32)
    tokens = _of(state.tokens, parent).at[:, :, state.count].set(token)
    ends = plan.ends(token) | (state.count + 1 == state.tokens.shape[-1])

    running = scores + ends * OUT
    best = jax.lax.top_k(running, N)[1]
    count = (state.count + 1).astype(jnp.float32)
    may_be_kept = ends & (jnp.arange(K) < N) & state.open[:, None]
    final = scores / count ** length_penalty + ~may_be_kept * OUT
    kept_scores, chosen = jax.lax.top_k(jnp.concatenate([state.kept_scores, final], 1), N)
    ended = _of(jnp.concatenate([state.ended, may_be_kept], 1), chosen)
    scores = _of(running, best)
    worst = jnp.where(ended, kept_scores.min(1, keepdims=True), OUT)
    may_win = (scores[:, :1] / count ** length_penalty > worst).any(1)
    return Beams(state.cache, _of(tokens, best), scores, _of(jnp.concatenate([state.kept, tokens], 1), chosen), kept_scores,
                 ended, state.open & may_win, state.count + 1, ends.all(), state.seen), _of(parent, best)


def _follow(state: Beams, rows) -> Beams:
    """The state whose cache and seen tokens are those of the beams that the new ones continue."""
    last = jax.lax.dynamic_index_in_dim(state.tokens, state.count - 1, axis=2, keepdims=False).reshape(-1, 1)
    seen = None if state.seen is None else mark(state.seen[rows], last)
    return state._replace(cache=take(state.cache, rows), seen=seen)


@program(static_argnames=('plan', 'num_beams', 'length_penalty', 'new'))
def search(plan: Plan, variables, tokens_BxP: jax.Array, mask_BxP: jax.Array | None, num_beams: int, length_penalty: float,
           new: int, source: Source | None = None) -> jax.Array:
    """int32 [B, new]: the best continuation of each prompt, padding after its end."""
    B, N = len(tokens_BxP), num_beams
    cache = empty_cache(plan, variables, B, source)
    logits, cache = plan.model.apply(variables, tokens_BxP, cache=cache, mask=mask_BxP, last=True, train=False)
    V = logits.shape[-1]
    blank = jnp.full((B, N, new), plan.pad, jnp.int32)
    first = jnp.where(jnp.arange(N) == 0, 0.0, OUT) + jnp.zeros((B, 1))  # the beams are equal: one of them is enough
    seen = None
    if plan.choice.repetition_penalty != 1:
        seen = jnp.repeat(mark(jnp.zeros((B, V), bool), tokens_BxP, mask_BxP), N, axis=0)
    state = Beams(cache, blank, first, blank, jnp.full((B, N), OUT), jnp.zeros((B, N), bool), jnp.ones(B, bool),
                  jnp.int32(0), jnp.bool_(False), seen)
    state, _ = _extend(plan, length_penalty, state, jnp.broadcast_to(logits[:, -1:], (B, N, V)))
    rows = jnp.repeat(jnp.arange(B), N)
    state = _follow(state._replace(seen=None), rows)._replace(seen=None if seen is None else mark(
        seen, state.tokens[:, :, 0].reshape(-1, 1)))

    def step(state):
        last = jax.lax.dynamic_index_in_dim(state.tokens, state.count - 1, axis=2, keepdims=False).reshape(B * N, 1)
        logits, cache = plan.model.apply(variables, last, cache=state.cache, train=False)
        state, parent = _extend(plan, length_penalty, state._replace(cache=cache), logits.reshape(B, N, V))
        return _follow(state, (jnp.arange(B)[:, None] * N + parent).reshape(-1))

    return jax.lax.while_loop(lambda s: s.open.any() & ~s.stuck, step, state).kept[:, 0]
