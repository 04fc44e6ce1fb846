"""Scaled dot-product attention: one function for every family, also where a mesh splits the sequence.

Glossary: B batch · T queries · S keys · H heads · K key and value heads, G = H / K queries each · D width of a head.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bigjax.errors import UserError
from bigjax.nn import cpu
from bigjax.sharding import logical

BLOCKS, SHORTEST_BLOCK = 4, 64  # blocks of queries, and queries in the shortest one, on a CPU


def attention(q_BxTxHxD, k_BxSxKxD, v_BxSxKxD, *, causal: bool = False, mask=None, bias=None, scale: float | None = None,
              drop: Callable | None = None, context: str = 'ring'):
    """softmax(q kᵀ scale + bias + mask) v, the softmax in float32 -> [B, T, H, D] (Vaswani et al. 2017, eq. 1).

    A query that sees no key has the output 0 and passes no gradient on.

    Args:
      q_BxTxHxD, k_BxSxKxD, v_BxSxKxD: queries, keys, values; K divides H (Ainslie et al. 2023, grouped queries).
      causal: query t sees keys 0..t.
      mask: bool [B or 1, H or 1, T or 1, S]; True where a query sees a key.
      bias: [B or 1, H, T, S], added to the scores (relative positions).
      scale: default 1/sqrt(D).
      drop: applied to the probabilities.
      context: where the mesh has the axis 'seq': 'ring' passes keys and values around (Liu et al. 2023), 'gather' collects
        them on every device.

    Raises:
      UserError: a mask, a bias or dropout with a split sequence; 'attention/split-sequence'.
    """
    scale = 1 / math.sqrt(q_BxTxHxD.shape[-1]) if scale is None else scale
    if logical.axis_size('seq') > 1:
        if mask is not None or drop is not None or bias is not None:
            raise UserError("config.mesh: got 'seq' with attention dropout, a mask, a window or relative positions, expected "
                            'none of them; fix: use other axes', code='attention/split-sequence')
        return _split_sequence(q_BxTxHxD, k_BxSxKxD, v_BxSxKxD, causal, scale, context)
    if cpu.kernels('attention') or drop is not None:
        return _written_out(q_BxTxHxD, k_BxSxKxD, v_BxSxKxD, causal, mask, bias, scale, drop)
    y = jax.nn.dot_product_attention(q_BxTxHxD, k_BxSxKxD, v_BxSxKxD, mask=mask, bias=bias, is_causal=causal, scale=scale)
    return y if mask is None else jnp.where(_sees_a_key(mask, causal, q_BxTxHxD.shape[1]), y, 0)


def _sees_a_key(mask, causal: bool, queries: int):
    """[B or 1, T or 1, H or 1, 1]: whether a query sees any key under a mask [B or 1, H or 1, T or 1, S]."""
    if causal:
        mask = mask & (jnp.arange(mask.shape[-1]) <= jnp.arange(queries)[:, None])
    return mask.any(-1, keepdims=True).swapaxes(1, 2)


def _grouped(q, k):
    """q as [B, K, G, T, D]."""
    B, T, H, D = q.shape
    return q.reshape(B, T, k.shape[2], H // k.shape[2], D).transpose(0, 2, 3, 1, 4)


def _ungrouped(y):
    """[B, K, G, T, D] -> [B, T, H, D]."""
    B, K, G, T, D = y.shape
    return y.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, D)


def cached_attention(q_BxTxHxD, k_BxKxSxD, v_BxKxSxD, *, mask, bias=None, scale: float | None = None):
    """`attention` to keys and values with heads before positions, as a cache has them -> [B, T, H, D].

    The keys are the left side of their product: on its right they would be turned over in memory for every token. On a CPU,
    what is fused with the writing of a cache makes the compiler copy it.

    Args:
      mask: bool [B or 1, 1, T or 1, S]; True where a query sees a key, causality included; None for all.
    """
    scale = 1 / math.sqrt(q_BxTxHxD.shape[-1]) if scale is None else scale
    q = _grouped(q_BxTxHxD, k_BxKxSxD.swapaxes(1, 2)) * jnp.asarray(scale, q_BxTxHxD.dtype)
    k, v = k_BxKxSxD.astype(q.dtype), v_BxKxSxD.astype(q.dtype)
    visible = None if mask is None else mask[:, :, None]

    def weighted(q, k, v, visible, bias):
        scores = jnp.einsum('BKSD,BKGTD->BKSGT', k, q).transpose(0, 1, 3, 4, 2)
        return _weighted(scores, v, visible, bias, visible is not None)

    return _ungrouped((cpu.stored(weighted) if cpu.on_cpu() else weighted)(q, k, v, visible, bias))


def _rows(q_BxKxGxTxD, k_BxKxSxD, v_BxKxSxD, visible, bias, some_see_none, drop=None):
    """The attention [B, K, G, T, D] of queries to keys."""
    scores = jnp.einsum('BKGTD,BKSD->BKGTS', q_BxKxGxTxD, k_BxKxSxD)
    return _weighted(scores, v_BxKxSxD, visible, bias, some_see_none, drop)


def _weighted(scores_BxKxGxTxS, v_BxKxSxD, visible, bias, some_see_none, drop=None):
    """The values [B, K, G, T, D] weighted by the softmax of scores; `visible` broadcasts against these, None for all.

    A row of -inf alone would be NaN, forward and backward, so hidden scores are the lowest number, and rows that see nothing
    are set to 0 where there may be some.
    """
    scores = scores_BxKxGxTxS.astype(jnp.float32)
    if bias is not None:
        scores = scores + bias.reshape(bias.shape[0], *scores.shape[1:3], *bias.shape[2:]).astype(jnp.float32)
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    p = jax.nn.softmax(scores)
    p = jnp.where(visible, p, 0) if some_see_none else p
    p = p if drop is None else drop(p)
    return jnp.einsum('BKGTS,BKSD->BKGTD', p.astype(v_BxKxSxD.dtype), v_BxKxSxD)


def _written_out(q, k, v, causal, mask, bias, scale, drop):
    """The equation itself, with heads before positions, which on a CPU makes every product one over contiguous rows.

    Long causal windows are taken in blocks of queries, each with the keys up to its last one: less than 2/3 of the work.
    """
    q = _grouped(q, k) * jnp.asarray(scale, q.dtype)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    K, G, T, S = *q.shape[1:4], k.shape[2]
    whole = not causal or mask is not None or bias is not None or drop is not None

    def rows(first, last):
        seen = min(last, S) if causal else S
        visible = jnp.arange(seen) <= jnp.arange(first, last)[:, None] if causal else None
        if mask is not None:  # never in blocks
            heads = (K, G) if mask.shape[1] > 1 else (1, 1)
            chosen = mask.reshape(mask.shape[0], *heads, *mask.shape[2:])[..., :seen]
            visible = chosen if visible is None else visible & chosen
        offset = None if bias is None else bias[..., :seen]
        return _rows(q[:, :, :, first:last], k[:, :, :seen], v[:, :, :seen], visible, offset, mask is not None, drop)

    block = T if whole else max(SHORTEST_BLOCK, -(-T // BLOCKS))
    return _ungrouped(jnp.concatenate([rows(i, min(i + block, T)) for i in range(0, T, block)], axis=3))


def _split_sequence(q, k, v, causal, scale, context):
    """Each device has the same part of queries, keys and values."""
    mesh = logical.current()
    parts = mesh.shape['seq']
    if q.shape[1] % parts:
        raise UserError(f"config.mesh: got 'seq' of {parts} for a sequence of {q.shape[1]}, expected a divisor; "
                        f'fix: choose one that divides {q.shape[1]}', code='mesh/impossible')
    methods = {'ring': _ring, 'gather': _gather}
    if context not in methods:
        raise UserError(f"context: got {context!r}, expected one of {', '.join(methods)}; fix: choose one of them",
                        code='attention/unknown-context')
    batch, seq, heads, _ = (logical.mesh_axes(mesh, name) for name in ('batch', 'seq', 'heads', None))
    batch = batch if q.shape[0] % logical.size(mesh, batch) == 0 else None
    spec = PartitionSpec(batch, seq, heads, None)
    inner = lambda q, k, v: methods[context](q, k, v, parts, causal, scale)
    return jax.shard_map(inner, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _scores(q, k, scale, causal, mine, theirs):
    """[B, K, G, t, s] of queries of part `mine` and keys of part `theirs`, float32."""
    scores = jnp.einsum('BKGTD,BSKD->BKGTS', q * jnp.asarray(scale, q.dtype), k).astype(jnp.float32)
    if causal:
        t, s = scores.shape[-2:]
        scores = jnp.where(theirs * s + jnp.arange(s) <= mine * t + jnp.arange(t)[:, None], scores, -jnp.inf)
    return scores


def _ring(q, k, v, parts, causal, scale):
    """Keys and values go round the devices; the softmax is kept as a running maximum, sum and weighted sum.

    The first part seen is a device's own, so every query has seen a key when the maximum is first used.
    """
    mine, q = jax.lax.axis_index('seq'), _grouped(q, k)

    def step(carry, passed):
        k, v, top, total, y = carry
        scores = _scores(q, k, scale, causal, mine, (mine - passed) % parts)
        new = jnp.maximum(top, jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        p, shrink = jnp.exp(scores - new), jnp.exp(top - new)
        y = y * shrink + jnp.einsum('BKGTS,BSKD->BKGTD', p.astype(v.dtype), v).astype(jnp.float32)
        total = total * shrink + p.sum(-1, keepdims=True)
        k, v = (jax.lax.ppermute(x, 'seq', [(i, (i + 1) % parts) for i in range(parts)]) for x in (k, v))
        return (k, v, new, total, y), None

    start = jnp.full((*q.shape[:-1], 1), -jnp.inf, jnp.float32)
    carry = k, v, start, jnp.zeros_like(start), jnp.zeros(q.shape, jnp.float32)
    (_, _, _, total, y), _ = jax.lax.scan(step, carry, jnp.arange(parts))
    return _ungrouped((y / total).astype(v.dtype))


def _gather(q, k, v, parts, causal, scale):
    mine, q = jax.lax.axis_index('seq'), _grouped(q, k)
    k, v = (jax.lax.all_gather(x, 'seq', axis=1, tiled=True) for x in (k, v))
    p = jax.nn.softmax(_scores(q, k, scale, causal, mine, 0))
    return _ungrouped(jnp.einsum('BKGTS,BSKD->BKGTD', p.astype(v.dtype), v))
