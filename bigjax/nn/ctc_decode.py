"""Decoding of the outputs of connectionist temporal classification: greedy, and prefix beam search, on the device.

A path has a symbol or a blank (0) per frame; a text is a path without repetitions and then without blanks.

Glossary: B batch · T frames · K symbols, the blank included · W beams · U symbols of a text.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

BLANK = 0
IMPOSSIBLE = -1e30  # a log-probability of nothing; -inf would make NaN of differences


def greedy(log_probs_BxTxK: jax.Array, frames_B: jax.Array) -> jax.Array:
    """The text of the most probable path, int32 [B, T], followed by zeros."""
    T = log_probs_BxTxK.shape[1]
    best = jnp.argmax(log_probs_BxTxK, axis=-1)
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
    kept = (best != BLANK) & (best != before) & (jnp.arange(T) < frames_B[:, None])
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, T)  # what is not kept falls off the end
    write = lambda place, symbols: jnp.zeros(T, jnp.int32).at[place].set(symbols, mode='drop')
    return jax.vmap(write)(place, best.astype(jnp.int32))


class Beams(NamedTuple):
    """Prefixes of one text.

    Attributes:
      text: int32 [W, U], followed by zeros. length: int32 [W].
      blank, symbol: log-probabilities [W] of all paths of a prefix so far that end with a blank, or with its last symbol.
    """

    text: jax.Array
    length: jax.Array
    blank: jax.Array
    symbol: jax.Array


def prefix_beam(log_probs_BxTxK: jax.Array, frames_B: jax.Array, beams: int = 8) -> tuple[jax.Array, jax.Array]:
    """The most probable text that the search finds (Graves 2006, section 3; Hannun et al. 2014, algorithm 1, without a language
    model), and its log-probability: (int32 [B, T], followed by zeros, float32 [B]).

    Args:
      beams: W, the prefixes that are kept after each frame.
    """
    U = log_probs_BxTxK.shape[1]  # a text has at most a symbol per frame

    def one(log_probs_TxK, frames):
        start = Beams(jnp.zeros((beams, U), jnp.int32), jnp.zeros(beams, jnp.int32),
                      jnp.full(beams, IMPOSSIBLE).at[0].set(0.0), jnp.full(beams, IMPOSSIBLE))

        def step(now, frame):
            t, log_p = frame
            after = _extended(now, log_p)
            return jax.tree.map(lambda new, old: jnp.where(t < frames, new, old), after, now), None

        last, _ = jax.lax.scan(step, start, (jnp.arange(len(log_probs_TxK)), log_probs_TxK.astype(jnp.float32)))
        score = jnp.logaddexp(last.blank, last.symbol)
        best = jnp.argmax(score)
        return last.text[best], score[best]

    return jax.vmap(one)(log_probs_BxTxK, frames_B)


def _extended(now: Beams, log_p_K: jax.Array) -> Beams:
    """The W best prefixes after one more frame: each stays, or grows by one symbol."""
    W, U = now.text.shape
    K = len(log_p_K)
    end = jnp.where(now.length > 0, jnp.take_along_axis(now.text, jnp.maximum(now.length - 1, 0)[:, None], 1)[:, 0], -1)
    total = jnp.logaddexp(now.blank, now.symbol)
    blank = total + log_p_K[BLANK]
    symbol = jnp.where(end > 0, now.symbol + log_p_K[end], IMPOSSIBLE)
    same = end[:, None] == jnp.arange(K)  # a symbol after itself is a new one only after a blank
    grown_WxK = jnp.where(same, now.blank[:, None], total[:, None]) + log_p_K
    grown_WxK = grown_WxK.at[:, BLANK].set(IMPOSSIBLE)
    # A prefix that grows into another one that is kept is that one: their paths are added, and it is no candidate of its own.
    shorter = jnp.arange(U) < now.length[:, None]  # parent w, child c: equal up to the parent's length
    alike = ((now.text[:, None] == now.text[None]) | ~shorter[:, None]).all(-1)
    parent = alike & (now.length[:, None] + 1 == now.length[None])
    into = jnp.where(parent, grown_WxK[:, jnp.maximum(end, 0)], IMPOSSIBLE)
    symbol = jnp.logaddexp(symbol, jax.nn.logsumexp(into, axis=0))
    taken = (parent[:, :, None] & same[None]).any(1)
    grown_WxK = jnp.where(taken, IMPOSSIBLE, grown_WxK)
    best, chosen = jax.lax.top_k(jnp.concatenate([jnp.logaddexp(blank, symbol), grown_WxK.reshape(-1)]), W)
    stays, source = chosen < W, jnp.where(chosen < W, chosen, (chosen - W) // K)
    new = jnp.where(stays, 0, (chosen - W) % K).astype(jnp.int32)
    length = now.length[source]
    text = jnp.where((jnp.arange(U) == length[:, None]) & ~stays[:, None], new[:, None], now.text[source])
    return Beams(text, length + ~stays, jnp.where(stays, blank[source], IMPOSSIBLE), jnp.where(stays, symbol[source], best))
