"""One new token per pass: the prompt fills a cache, and a compiled loop continues from there.

Glossary: B rows · P columns of the prompt · L = P + new columns in all · S slots of the cache · V vocabulary.
"""
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigjax.decode.choose import Choice, choose, mark
from bigjax.nn import cpu
from bigjax.sharding import logical


def program(**options) -> Callable:
    """A decorator: `jax.jit` with these options, made at the first call, when the platform is known."""
    def decorate(f):
        made = functools.cache(lambda: jax.jit(f, compiler_options=cpu.compiler_options(), **options))
        return functools.wraps(f)(lambda *args, **kwargs: made()(*args, **kwargs))

    return decorate


class Plan(NamedTuple):
    """The constants of a compiled program; equal plans and shapes share it.

    Attributes:
      model: called as `model.apply(variables, tokens, cache=cache, mask=mask, last=last, train=False) -> (logits, cache)`,
        with `model.init_cache(batch, length, dtype)`.
      choice: how a token is chosen.
      eos: the tokens that end a row.
      pad: what follows the end of a row.
      slots: S.
      mesh: the mesh in use, which a trace depends on.
    """

    model: Any
    choice: Choice
    eos: tuple[int, ...]
    pad: int
    slots: int
    mesh: Any = None

    def ends(self, tokens: jax.Array) -> jax.Array:
        """Where a token ends its row."""
        found = jnp.zeros(tokens.shape, bool)
        for eos in self.eos:
            found |= tokens == eos
        return found


class Carry(NamedTuple):
    """The state of a generation.

    Attributes:
      cache: of all tokens but the last one.
      tokens: int32 [B, L], padding from column `length` on.
      length: int32, columns in use; the token before it is the one to be fed next.
      done: bool [B], rows that have ended.
      seen: bool [B, V], the tokens of each row; None without a repetition penalty.
    """

    cache: Any
    tokens: jax.Array
    length: jax.Array
    done: jax.Array
    seen: jax.Array | None


def make_plan(model, choice: Choice, eos: Sequence[int], pad: int, slots: int) -> Plan:
    """The plan on the mesh in use."""
    return Plan(model, choice, tuple(eos), pad, slots, logical.current())


class Source(NamedTuple):
    """The input of an encoder: tokens int32 [B, S], and a mask, true where a token counts."""

    tokens: jax.Array
    mask: jax.Array


def empty_cache(plan: Plan, variables, rows: int, source: Source | None = None):
    """The model's cache, of its own type of numbers; that of an encoder-decoder holds what the encoder made of the source."""
    dtype = getattr(plan.model, 'dtype', jnp.float32)
    if source is None:
        return plan.model.init_cache(rows, plan.slots, dtype=dtype)
    memory = plan.model.apply(variables, source.tokens, source.mask, method='encode')
    return plan.model.apply(variables, rows, plan.slots, dtype, memory, source.mask, method='init_cache')


@program(static_argnames=('plan', 'length'))
def start(plan: Plan, variables, tokens_BxP: jax.Array, mask_BxP: jax.Array | None, keys_B, length: int,
          source: Source | None = None) -> Carry:
    """The carry after the prompt and its first new token.

    Args:
      length: L.
    """
    B, P = tokens_BxP.shape
    cache = empty_cache(plan, variables, B, source)
    logits, cache = plan.model.apply(variables, tokens_BxP, cache=cache, mask=mask_BxP, last=True, train=False)
    seen = jnp.zeros((B, logits.shape[-1]), bool) if plan.choice.repetition_penalty != 1 else None
    seen = mark(seen, tokens_BxP, mask_BxP)
    token = choose(logits[:, -1], seen, plan.choice, keys_B, 0)
    tokens = jnp.full((B, length), plan.pad, jnp.int32).at[:, :P].set(tokens_BxP).at[:, P].set(token)
    return Carry(cache, tokens, jnp.int32(P + 1), plan.ends(token), mark(seen, token[:, None]))


@program(static_argnames=('plan',), donate_argnames=('carry',))
def advance(plan: Plan, variables, carry: Carry, keys_B, prompt, until) -> Carry:
    """The carry after more tokens, up to `until` columns or the end of all rows.

    Args:
      prompt: P, from which draws count.
      until: at most L; the cache must have a free slot for each of these tokens.
    """
    def unfinished(carry):
        return (carry.length < until) & ~carry.done.all()

    def step(carry):
        last = jax.lax.dynamic_slice_in_dim(carry.tokens, carry.length - 1, 1, axis=1)
        logits, cache = plan.model.apply(variables, last, cache=carry.cache, train=False)
        token = choose(logits[:, -1], carry.seen, plan.choice, keys_B, carry.length - prompt)
        token = jnp.where(carry.done, plan.pad, token)
        tokens = jax.lax.dynamic_update_slice_in_dim(carry.tokens, token[:, None], carry.length, axis=1)
        return Carry(cache, tokens, carry.length + 1, carry.done | plan.ends(token), mark(carry.seen, token[:, None]))

    return jax.lax.while_loop(unfinished, step, carry)


@program(static_argnames=('plan', 'window'))
def refill(plan: Plan, variables, carry: Carry, mask_BxP: jax.Array, window: int) -> Carry:
    """The carry with a cache of the `window` tokens before the last one alone, as if the text began there."""
    B, P = mask_BxP.shape
    counts = jnp.ones(carry.tokens.shape, bool).at[:, :P].set(mask_BxP)
    tokens, mask = (jax.lax.dynamic_slice_in_dim(x, carry.length - 1 - window, window, axis=1) for x in (carry.tokens, counts))
    _, cache = plan.model.apply(variables, tokens, cache=empty_cache(plan, variables, B), mask=mask, train=False)
    return carry._replace(cache=cache)
