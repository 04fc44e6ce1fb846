"""Speech detection: a short-time spectrum, convolutions over it, and a recurrence from chunk to chunk.

Glossary: B batch · S samples · C chunks · N samples of a chunk with those before it.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.models.rnn import Recurrent
from bigjax.nn.conv import Conv

RATE_HZ = 16_000
VARIANTS = {'silero': {}}  # silero-vad 6: 309,633 parameters, among them the transform's fixed sines
PARTITION_RULES = ()  # small enough to be whole on every device


class SpeechDetector(nn.Module):
    """Samples [B, S] within -1 … 1 -> logits [B, C], C = S / chunk rounded up, of speech in each chunk.

    Parameters: 'stft' (cosines, then sines), 'conv_1', 'conv_2', …, each with a ReLU, 'rnn/layer_0' (an LSTM), 'head'. A chunk
    is seen with the samples before it, zeros at the beginning, and is mirrored at its end.

    Attributes:
      chunk, before: samples of a chunk, and of those before it that are read again.
      window, hop, mirrored: samples of a frame of the spectrum, from one to the next, and of a chunk's mirrored end.
      features, strides: of each convolution over frames, whose kernels have three; one frame is left of a chunk at the end.
      hidden: features of the recurrence.
      dtype: of the computation; parameters stay float32.
    """

    chunk: int = 512
    before: int = 64
    window: int = 256
    hop: int = 128
    mirrored: int = 64
    features: tuple[int, ...] = (128, 64, 64, 128)
    strides: tuple[int, ...] = (1, 2, 2, 1)
    hidden: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, samples: jax.Array, *, train: bool = False) -> jax.Array:
        B, S = samples.shape
        C = -(-S // self.chunk)
        padded = jnp.pad(samples.astype(self.dtype), ((0, 0), (self.before, C * self.chunk - S)))
        places = jnp.arange(C)[:, None] * self.chunk + jnp.arange(self.before + self.chunk)
        x = padded[:, places].reshape(B * C, -1)
        x = jnp.pad(x, ((0, 0), (0, self.mirrored)), mode='reflect')[..., None]
        bins = self.window // 2 + 1
        waves = Conv(2 * bins, (self.window,), strides=self.hop, padding='VALID', use_bias=False, dtype=self.dtype,
                     name='stft')(x)
        x = jnp.hypot(waves[..., :bins], waves[..., bins:])
        for i, (features, stride) in enumerate(zip(self.features, self.strides, strict=True), 1):
            x = nn.relu(Conv(features, (3,), strides=stride, padding=1, dtype=self.dtype, name=f'conv_{i}')(x))
        _, h = Recurrent('lstm', self.hidden, dtype=self.dtype, name='rnn')(x.mean(1).reshape(B, C, -1), train=train)
        return Conv(1, (1,), dtype=self.dtype, name='head')(nn.relu(h))[..., 0]
