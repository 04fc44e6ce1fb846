"""Bucketed relative positions, added to the scores of attention (Raffel et al. 2020, section 2.1).

Glossary: H heads · T queries · S keys.
"""
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def buckets_of_distances(buckets: int, distance: int) -> np.ndarray:
    """[distance + 1] int32: the bucket of each distance from 0 on, the last one for all beyond.

    The first half of the buckets has one distance each, the other half grows with the logarithm up to `distance`.
    """
    exact = buckets // 2
    far = np.maximum(np.arange(distance + 1), 1)
    grown = exact + np.floor(np.log(far / exact) / math.log(distance / exact) * (buckets - exact) + 1e-6)
    return np.where(far < exact, np.arange(distance + 1), np.minimum(grown, buckets - 1)).astype(np.int32)


def bucket(offset: jax.Array, buckets: int, distance: int, bidirectional: bool) -> jax.Array:
    """The bucket of key position - query position; where keys lie on both sides, those after the query have the second half."""
    if bidirectional:
        table = buckets_of_distances(buckets // 2, distance)
        return jnp.asarray(table)[jnp.minimum(jnp.abs(offset), distance)] + jnp.where(offset > 0, buckets // 2, 0)
    return jnp.asarray(buckets_of_distances(buckets, distance))[jnp.clip(-offset, 0, distance)]


class RelativeBias(nn.Module):
    """Positions of queries [T] and keys [S] -> [1, H, T, S], float32; 'embedding' [buckets, H].

    Attributes:
      heads: H.
      buckets, distance: see `buckets_of_distances`.
      bidirectional: keys lie on both sides of a query, as in an encoder.
    """

    heads: int
    buckets: int = 32
    distance: int = 128
    bidirectional: bool = True
    init: Any = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, query_T: jax.Array, key_S: jax.Array) -> jax.Array:
        table = self.param('embedding', self.init, (self.buckets, self.heads), jnp.float32)
        found = bucket(key_S - query_T[:, None], self.buckets, self.distance, self.bidirectional)
        return jnp.take(table, found, axis=0).transpose(2, 0, 1)[None]
