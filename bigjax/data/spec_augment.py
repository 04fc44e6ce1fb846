"""SpecAugment: stripes of a log-mel spectrogram are masked, on the device, in training.

Glossary: B batch · T frames · M mel bands.
"""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def spec_augment(bands: int = 27, band_stripes: int = 2, frames: int = 100, frame_stripes: int = 2, share: float = 1.0,
                 key: str = 'x', count: str = 'mask', value: float = 0.0) -> Callable:
    """SpecAugment without time warping, Park et al. 2019, section 2; the defaults are those of its policy LD.

    A stripe of bands is U{0 … `bands`} wide and begins anywhere it fits; one of frames is U{0 … `frames`} long, at most `share`
    of the frames that the clip has, and lies among them. Each clip has stripes of its own.

    Args:
      bands, band_stripes: the widest stripe over frequencies, and how many.
      frames, frame_stripes: the longest stripe over time, and how many.
      share: of a clip's own frames (p of the paper).
      key: of the spectrograms [B, T, M].
      count: of a mask [B, T], true where a frame counts, in front of the others; '' where all do.
      value: of a masked point: the mean, where spectrograms are standardised.
    """
    def stripes(rng, size, widest, number):
        """[number, 2]: first and last + 1 of each."""
        wide, place = jax.random.uniform(rng, (2, number))
        width = jnp.floor(wide * (jnp.minimum(widest, size) + 1))
        first = jnp.floor(place * (size - width + 1))
        return jnp.stack([first, first + width], axis=1)

    def inside(positions, edges):
        return ((positions[:, None] >= edges[:, 0]) & (positions[:, None] < edges[:, 1])).any(1)

    def one(mel_TxM, length, rng):
        over_bands, over_time = jax.random.split(rng)
        T, M = mel_TxM.shape
        masked_bands = inside(jnp.arange(M), stripes(over_bands, M, bands, band_stripes))
        longest = jnp.floor(jnp.minimum(frames, share * length))
        masked_frames = inside(jnp.arange(T), stripes(over_time, length, longest, frame_stripes))
        return jnp.where(masked_bands | masked_frames[:, None], jnp.asarray(value, mel_TxM.dtype), mel_TxM)

    def apply(batch: Mapping[str, Any], rng: jax.Array) -> dict[str, Any]:
        mels = batch[key]
        lengths = batch[count].sum(1) if count else jnp.full(len(mels), mels.shape[1])
        return {**batch, key: jax.vmap(one)(mels, lengths, jax.random.split(rng, len(mels)))}

    return apply
