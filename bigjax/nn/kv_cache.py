"""The keys and values of the tokens so far, as an argument and a result of a decoder.

One array per layer with heads before slots: every product over a cache then reads contiguous rows, and a donated cache is
updated in place.

Glossary: B batch · K key and value heads · S slots · D width of a head · M tokens of the encoder.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigjax.errors import UserError


class Layer(NamedTuple):
    """Keys and values [B, K, S, D] of one layer."""

    key: jax.Array
    value: jax.Array


class KVCache(NamedTuple):
    """The state of decoding B rows in step.

    Attributes:
      layers: keys and values of each layer.
      index: int32, the slot of the next token, the same for all rows.
      mask: bool [B, S], the slots that hold a token that counts.
      positions: int32 [B], the next position of each row.
      cross: keys and values [B, K, M, D] of an encoder's output, of each layer; () without an encoder.
      memory_mask: bool [B, M], the tokens of the encoder that count; None without an encoder.
    """

    layers: tuple[Layer, ...]
    index: jax.Array
    mask: jax.Array
    positions: jax.Array
    cross: tuple[Layer, ...] = ()
    memory_mask: jax.Array | None = None


def empty(batch: int, length: int, layers: int, heads: int, width: int, dtype=jnp.float32) -> KVCache:
    """A cache of `length` slots without a token; `heads` and `width` are K and D."""
    fresh = lambda: jnp.zeros((batch, heads, length, width), dtype)
    return KVCache(tuple(Layer(fresh(), fresh()) for _ in range(layers)), jnp.zeros((), jnp.int32),
                   jnp.zeros((batch, length), bool), jnp.zeros(batch, jnp.int32))


def write(layer: Layer, k_BxTxKxD: jax.Array, v_BxTxKxD: jax.Array, index) -> Layer:
    """The layer with the keys and values of T tokens from slot `index` on."""
    put = lambda old, new: jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), (0, 0, index, 0))
    return Layer(put(layer.key, k_BxTxKxD), put(layer.value, v_BxTxKxD))


def advance(cache: KVCache, mask_BxT: jax.Array | None, positions_BxT: jax.Array | None, length: int):
    """The cache with T more slots in use, and the positions [B, T] of their tokens; `layers` are left as they are.

    Args:
      mask_BxT: true where a token counts; None for all.
      positions_BxT: None for those after each row's last one, without a step for a token that does not count.

    Raises:
      UserError: more tokens than free slots, where the numbers are known while tracing; 'model/past-cache'.
    """
    B, S = cache.mask.shape
    used = 0 if isinstance(cache.index, jax.core.Tracer) else int(cache.index)
    if used + length > S:
        raise UserError(f'cache: got {length} tokens after {used}, expected at most {S} in all; fix: init_cache with a larger '
                        'length, or fewer tokens', code='model/past-cache')
    mask = jnp.ones((B, length), bool) if mask_BxT is None else mask_BxT.astype(bool)
    if positions_BxT is None:
        order = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
        positions, after = jnp.maximum(cache.positions[:, None] + order - 1, 0), cache.positions + order[:, -1]
    else:
        positions = jnp.broadcast_to(positions_BxT, (B, length)).astype(jnp.int32)
        after = jnp.maximum(cache.positions, jnp.where(mask, positions + 1, 0).max(1))
    slots = jax.lax.dynamic_update_slice(cache.mask, mask, (0, cache.index))
    return cache._replace(index=cache.index + length, mask=slots, positions=after), positions


def take(cache: KVCache, rows: jax.Array) -> KVCache:
    """The cache of some of the rows, int [B'], in their order; a row may be taken twice (beams)."""
    index = cache.index
    return jax.tree.map(lambda x: x if x.ndim == 0 else jnp.take(x, rows, axis=0), cache)._replace(index=index)


def rewind(cache: KVCache, index) -> KVCache:
    """The cache as it was when `index` slots were in use, after positions that follow each other."""
    kept = cache.mask & (jnp.arange(cache.mask.shape[1]) < index)
    dropped = (cache.mask & ~kept).sum(1, dtype=jnp.int32)
    return cache._replace(index=jnp.asarray(index, jnp.int32), mask=kept, positions=cache.positions - dropped)
