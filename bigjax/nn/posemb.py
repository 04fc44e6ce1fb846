"""Positions: rotary, and sines and cosines for sequences and for grids of patches.

Glossary: B batch · T positions · H heads · D width of a head · W width.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError

SCALINGS = ('none', 'linear', 'ntk', 'llama3')
LONGEST_WAVE = 10_000.0  # of sines and cosines, in positions over 2 pi


class Rope(NamedTuple):
    """Rotary positions (Su et al. 2021): pair i of a head turns by base^(-2 i / D) per position, or slower for longer windows.

    Attributes:
      base: of the frequencies.
      scaling: 'none'; 'linear', all frequencies divided by `factor` (Chen et al. 2023); 'ntk', base times
        factor^(D / (D - 2)), which divides the lowest frequency by `factor` and leaves the highest (bloc97 2023, NTK-aware);
        'llama3', frequencies divided by `factor` where a wave is longer than window / low, left where it is shorter than
        window / high, and interpolated between (Llama 3.1's released code).
      factor: how many times longer the window becomes.
      low, high: waves per window that bound the interpolation of 'llama3'.
      window: the length that the model was first trained on, of 'llama3'.
    """

    base: float = 10000.0
    scaling: str = 'none'
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    window: int = 8192

    def frequencies(self, width: int) -> np.ndarray:
        """[width / 2] radians per position, float32, computed in float64.

        Raises:
          UserError: the width is odd, 'attention/odd-head', or there is no such scaling, 'model/unknown-option'.
        """
        if width % 2:
            raise UserError(f'rope_base: got heads of width {width}, expected an even width; fix: choose width and num_heads '
                            'so that width / num_heads is even, or rope_base=0', code='attention/odd-head')
        if self.scaling not in SCALINGS:
            raise UserError(f'rope_scaling: got {self.scaling!r}, expected one of {", ".join(SCALINGS)}; fix: choose one of '
                            'them', code='model/unknown-option')
        base = self.base * (self.factor ** (width / (width - 2)) if self.scaling == 'ntk' else 1.0)
        turns = base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
        if self.scaling == 'linear':
            turns = turns / self.factor
        if self.scaling == 'llama3':
            waves = self.window * turns / (2 * math.pi)  # in the first window
            kept = np.clip((waves - self.low) / (self.high - self.low), 0, 1)
            turns = turns * (kept + (1 - kept) / self.factor)
        return turns.astype(np.float32)


def rotate(x_BxTxHxD: jax.Array, rope: Rope, positions: jax.Array | None = None) -> jax.Array:
    """Rotary position embedding (Su et al. 2021, eq. 34), pairs (i, i + D/2) as in Llama: [B, T, H, D], float32 inside.

    Args:
      positions: int [B or 1, T]; None for 0..T-1.

    Raises:
      UserError: D is odd, or the scaling is unknown; see `Rope.frequencies`.
    """
    positions = jnp.arange(x_BxTxHxD.shape[1]) if positions is None else positions
    angle = positions.astype(jnp.float32)[..., None] * rope.frequencies(x_BxTxHxD.shape[-1])
    cos, sin = jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]
    a, b = jnp.split(x_BxTxHxD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxHxD.dtype)


def sincos2d(height: int, width: int, features: int) -> np.ndarray:
    """[height * width, features], 4 | features: sines and cosines of column and row (Chen et al. 2021, MoCo v3)."""
    frequency = LONGEST_WAVE ** (-np.arange(features // 4) / max(features // 4 - 1, 1))
    row, column = (grid.reshape(-1, 1) * frequency for grid in np.mgrid[:height, :width])
    return np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=1).astype(np.float32)


def sinusoidal(length: int, width: int) -> np.ndarray:
    """[length, width], float32: sine and cosine of position / 10000^(2 i / width) in turn (Vaswani et al. 2017, sec. 3.5)."""
    angle = np.arange(length)[:, None] * LONGEST_WAVE ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, width).astype(np.float32)
