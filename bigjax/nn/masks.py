"""Which keys a query sees, and where tokens stand, by padding, packed segments, windows and caches.

Glossary: B batch · T tokens, queries · S keys.
"""
import jax
import jax.numpy as jnp


def visible(length: int, mask_BxT: jax.Array | None = None, segments_BxT: jax.Array | None = None,
            window: int = 0) -> jax.Array | None:
    """bool [B or 1, 1, T or 1, T], true where a query sees a key; None where it sees all. Causality is the attention's own.

    Args:
      length: T.
      mask_BxT: true where a token counts.
      segments_BxT: numbers of packed documents; a token sees those of its own.
      window: a token sees itself and the window - 1 tokens before it (Jiang et al. 2023); 0 for all.
    """
    parts = []
    if mask_BxT is not None:
        parts.append(mask_BxT[:, None, None, :].astype(bool))
    if segments_BxT is not None:
        parts.append((segments_BxT[:, :, None] == segments_BxT[:, None, :])[:, None])
    if window and window < length:
        place = jnp.arange(length)
        parts.append((place[:, None] - place < window)[None, None])
    return _all(parts)


def visible_slots(mask_BxS: jax.Array, index, length: int, window: int = 0) -> jax.Array:
    """bool [B, 1, T, S]: the slots of a cache that T tokens in slots index..index+T-1 see.

    Args:
      mask_BxS: the slots that hold a token that counts, those of the T tokens included.
      window: as in `visible`; counted over tokens that count.
    """
    slots = jnp.arange(mask_BxS.shape[1])
    query = index + jnp.arange(length)
    seen = mask_BxS[:, None] & (slots <= query[:, None])
    if window and window < mask_BxS.shape[1]:
        order = jnp.cumsum(mask_BxS, axis=1)
        mine = jax.lax.dynamic_slice_in_dim(order, index, length, axis=1)
        seen = seen & (mine[:, :, None] - order[:, None] < window)
    return seen[:, None]


def positions(mask_BxT: jax.Array | None = None, segments_BxT: jax.Array | None = None) -> jax.Array | None:
    """int32 [B, T]: each token's number among those that count of its segment, from 0; None for 0..T-1 in every row.

    A token that does not count has the number of the last one before it that does, and 0 where there is none.
    """
    if segments_BxT is None:
        return None if mask_BxT is None else jnp.maximum(jnp.cumsum(mask_BxT, axis=1, dtype=jnp.int32) - 1, 0)
    counts = jnp.ones(segments_BxT.shape, jnp.int32) if mask_BxT is None else mask_BxT.astype(jnp.int32)
    before = jnp.cumsum(counts, axis=1) - counts
    starts = jnp.pad(segments_BxT[:, 1:] != segments_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first = jax.lax.cummax(jnp.where(starts, before, 0), axis=1)
    return jnp.maximum(before + counts - 1 - first, 0).astype(jnp.int32)


def _all(parts):
    found = None
    for part in parts:
        found = part if found is None else found & part
    return found
