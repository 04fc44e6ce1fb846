"""The log-mel front end: the energy of a sound over time and frequency, on the device.

Glossary: B batch · S samples · T frames · N points of a Fourier transform · F = N / 2 + 1 frequencies · M mel bands.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError

SCALES = ('slaney', 'htk')
LINEAR_HZ, HZ_PER_MEL, MELS_PER_E = 1000.0, 200 / 3, 27 / np.log(6.4)  # Slaney 1998: linear up to 1 kHz, then logarithmic


class Frontend(NamedTuple):
    """The options of `log_mel`.

    Attributes:
      rate: of the samples, in Hz.
      window: samples of a frame, under a periodic Hann window.
      hop: samples between the middles of two frames.
      points: N, even and at least `window`; 0 for `window` itself.
      bands: M.
      low, high: the band's edges in Hz; a high of 0 is rate / 2.
      scale: 'slaney' (Auditory Toolbox) or 'htk' (2595 log10(1 + f / 700)).
      equal_area: triangles of equal area instead of equal height.
      floor: the least energy before the logarithm.
    """

    rate: int = 16_000
    window: int = 400
    hop: int = 160
    points: int = 0
    bands: int = 80
    low: float = 0.0
    high: float = 0.0
    scale: str = 'slaney'
    equal_area: bool = True
    floor: float = 1e-10


WHISPER = Frontend()  # Radford et al. 2022, section 2.2: 80 bands, windows of 25 ms every 10 ms
WHISPER_DECADES = 8.0  # below the loudest of a clip


def to_mel(hz, scale: str = 'slaney'):
    """Frequencies in Hz as mels, float64."""
    hz = np.asarray(hz, np.float64)
    if scale == 'htk':
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < LINEAR_HZ, hz / HZ_PER_MEL,
                    LINEAR_HZ / HZ_PER_MEL + MELS_PER_E * np.log(np.maximum(hz, LINEAR_HZ) / LINEAR_HZ))


def to_hz(mel, scale: str = 'slaney'):
    """Mels as frequencies in Hz, float64."""
    mel = np.asarray(mel, np.float64)
    if scale == 'htk':
        return 700 * (10 ** (mel / 2595) - 1)
    knee = LINEAR_HZ / HZ_PER_MEL
    return np.where(mel < knee, mel * HZ_PER_MEL, LINEAR_HZ * np.exp(np.maximum(mel - knee, 0) / MELS_PER_E))


def mel_filters(f: Frontend) -> np.ndarray:
    """Triangles over frequencies, [F, M] float64: each band rises from the middle of the one below it and falls to the middle
    of the one above it.

    Raises:
      UserError: an unknown scale ('model/unknown-option'), edges or a window out of range ('model/front-end').
    """
    points, high = f.points or f.window, f.high or f.rate / 2
    if f.scale not in SCALES:
        raise UserError(f'scale: got {f.scale!r}, expected one of {", ".join(SCALES)}; fix: choose one of them',
                        code='model/unknown-option')
    if not 0 <= f.low < high <= f.rate / 2 or points < f.window or points % 2 or min(f.window, f.hop, f.bands) < 1:
        raise UserError(f'log-mel: got {f.low:g} … {high:g} Hz of {f.rate / 2:g}, {points} points for a window of {f.window}, '
                        f'a hop of {f.hop} and {f.bands} bands, expected edges within the band and an even number of points, '
                        'no fewer than the window; fix: change the one that is not', code='model/front-end')
    hz = np.arange(points // 2 + 1) * (f.rate / points)
    edges = to_hz(np.linspace(to_mel(f.low, f.scale), to_mel(high, f.scale), f.bands + 2), f.scale)
    rising = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2])) if f.equal_area else triangles


def count_frames(samples, f: Frontend):
    """How many frames have their middle inside so many samples: T of a whole clip, or of the part that is no padding."""
    return samples // f.hop + 1


def mel_power(x_BxS: jax.Array, f: Frontend) -> jax.Array:
    """The energy in mel bands, [B, S] -> [B, S // hop + 1, M]; frame t has its middle at sample t · hop.

    The ends are mirrored (where a clip is too short for that, zeros follow it), and the type is that of the samples, at least
    float32.
    """
    x = x_BxS.astype(jnp.promote_types(x_BxS.dtype, jnp.float32))
    if jnp.issubdtype(x_BxS.dtype, jnp.integer):
        x = x / -float(np.iinfo(x_BxS.dtype).min)
    points = f.points or f.window
    mode = {'mode': 'reflect'} if x.shape[1] > points // 2 else {}
    padded = jnp.pad(x, ((0, 0), (points // 2, points // 2)), **mode)
    starts = np.arange(count_frames(x.shape[1], f)) * f.hop
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(f.window) / f.window)
    left = (points - f.window) // 2
    window = np.pad(hann, (left, points - f.window - left)).astype(x.dtype)
    spectrum = jnp.fft.rfft(padded[:, starts[:, None] + np.arange(points)] * window)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.matmul(power, jnp.asarray(mel_filters(f), power.dtype), precision='highest')


def log_mel(x_BxS: jax.Array, f: Frontend) -> jax.Array:
    """The natural logarithm of `mel_power`, no less than that of `floor`: [B, T, M]."""
    return jnp.log(jnp.maximum(mel_power(x_BxS, f), f.floor))


def whisper(x_BxS: jax.Array, f: Frontend = WHISPER) -> jax.Array:
    """Whisper's features, [B, S] -> [B, S // hop, M]: decades, at most eight below the loudest of each clip, over four plus one
    (Radford et al. 2022, section 2.2, and the published code)."""
    decades = log_mel(x_BxS, f)[:, :-1] / np.log(10)
    loudest = decades.max(axis=(1, 2), keepdims=True)
    return (jnp.maximum(decades, loudest - WHISPER_DECADES) + 4) / 4


def standardized(mel_BxTxM: jax.Array, frames_B: jax.Array) -> jax.Array:
    """Each clip less its mean and over its deviation, of the frames that count; zero elsewhere."""
    counts = (jnp.arange(mel_BxTxM.shape[1]) < frames_B[:, None])[..., None]
    total = jnp.maximum(frames_B, 1)[:, None, None] * mel_BxTxM.shape[-1]
    mean = jnp.where(counts, mel_BxTxM, 0).sum((1, 2), keepdims=True) / total
    centred = jnp.where(counts, mel_BxTxM - mean, 0)
    variance = jnp.square(centred).sum((1, 2), keepdims=True) / total
    return centred * jax.lax.rsqrt(variance + 1e-5)
