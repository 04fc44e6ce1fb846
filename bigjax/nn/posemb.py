"""Positions: rotary for sequences, sine and cosine for grids of patches.

Glossary: B batch · T positions · H heads · D width of a head · W width.
"""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError


def rotate(x_BxTxHxD: jax.Array, base: float = 10000.0, start: int | jax.Array = 0) -> jax.Array:
    """Rotary position embedding (Su et al. 2021, eq. 34), pairs (i, i + D/2) as in Llama: [B, T, H, D], float32 inside.

    Args:
      start: the position of the first token.

    Raises:
      UserError: D is odd; 'attention/odd-head'.
    """
    T, D = x_BxTxHxD.shape[1], x_BxTxHxD.shape[-1]
    if D % 2:
        raise UserError(f'rope_base: got heads of width {D}, expected an even width; fix: choose width and num_heads so that '
                        'width / num_heads is even, or rope_base=0', code='attention/odd-head')
    frequency = base ** (-jnp.arange(0, D, 2, dtype=jnp.float32) / D)
    angle = (start + jnp.arange(T, dtype=jnp.float32))[:, None] * frequency
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x_BxTxHxD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxHxD.dtype)


def sincos2d(height: int, width: int, features: int, temperature: float = 10_000.0) -> np.ndarray:
    """[height * width, features], 4 | features: sines and cosines of column and row (Chen et al. 2021, MoCo v3)."""
    frequency = temperature ** (-np.arange(features // 4) / (features // 4 - 1))
    row, column = (grid.reshape(-1, 1) * frequency for grid in np.mgrid[:height, :width])
    return np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=1).astype(np.float32)
