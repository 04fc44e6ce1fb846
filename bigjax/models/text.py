"""Classifiers of texts: convolutions over words (Kim 2014), and the mean of embeddings.

Glossary: B batch · T tokens of a text · D embedding · C channels · K classes · V vocabulary. A `mask` [B, T] is true where a
token counts; the tokens elsewhere do not change the result.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense

VARIANTS = {
    # Kim 2014, section 3.1, "CNN-rand": windows of 3, 4 and 5 words with 100 feature maps each, dropout of 0.5.
    'kim': {'embed': 300, 'channels': 100, 'widths': (3, 4, 5), 'dropout': 0.5},
    # Joulin et al. 2016, fastText: section 3.1, 10 hidden units. Without n-grams, as their own words have it.
    'fasttext': {'embed': 10},
}


def _uniform(scale: float):
    """An initializer, uniform in ± scale."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -scale, scale)


def _embedded(module: nn.Module, tokens: jax.Array, mask) -> tuple[jax.Array, jax.Array]:
    """(embeddings [B, T, D] that are zero where a token does not count, bool mask [B, T])."""
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    table = nn.Embed(module.vocab_size, module.embed, embedding_init=_uniform(0.25), dtype=module.dtype, name='embed')
    return table(tokens) * mask[..., None].astype(module.dtype), mask


class TextCNN(nn.Module):
    """Tokens [B, T] -> logits [B, K]: 'embed', 'conv_3', 'conv_4', …, 'head' (Kim 2014, figure 1).

    Every window of `widths` tokens that holds a token gives `channels` features by a convolution and ReLU, and the largest of
    each over the text is what the head sees. A text is continued by zeros at both ends, as in the published code, whose
    initial values these are, too: embeddings in ±0.25, filters in ±0.01, a head of zeros.

    Attributes:
      vocab_size: V.
      embed: D.
      channels: C of each width.
      widths: tokens of a window.
      dropout: before the head.
      num_classes: K.
      dtype: of the computation; parameters stay float32.
    """

    vocab_size: int = 10_000
    embed: int = 300
    channels: int = 100
    widths: Sequence[int] = (3, 4, 5)
    dropout: float = 0.5
    num_classes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask=None, *, train: bool) -> jax.Array:
        if len(set(self.widths)) < len(self.widths) or not self.widths:
            raise UserError(f'TextCNN: got widths {tuple(self.widths)}, expected each once; fix: such as (3, 4, 5)',
                            code='model/lengths')
        x, mask = _embedded(self, tokens, mask)
        margin = max(self.widths) - 1
        x = jnp.pad(x, ((0, 0), (margin, margin), (0, 0)))
        mask = jnp.pad(mask, ((0, 0), (margin, margin)))
        found = []
        for width in self.widths:
            y = Conv(self.channels, (width,), padding='VALID', kernel_init=_uniform(0.01), dtype=self.dtype,
                     name=f'conv_{width}')(x)
            windows = y.shape[1]
            counts = jnp.any(jnp.stack([mask[:, i:i + windows] for i in range(width)]), axis=0)
            found.append(jnp.max(jnp.where(counts[..., None], nn.relu(y), 0.0), axis=1))
        x = nn.Dropout(self.dropout, deterministic=not train)(jnp.concatenate(found, axis=-1))
        return Dense(self.num_classes, kernel_init=nn.initializers.zeros, dtype=self.dtype, name='head')(x)


class MeanEmbedding(nn.Module):
    """Tokens [B, T] -> logits [B, K] of the mean of their embeddings: 'embed', 'head' (Joulin et al. 2016, without n-grams).

    Attributes:
      vocab_size: V.
      embed: D.
      dropout: before the head.
      num_classes: K.
      dtype: of the computation; parameters stay float32.
    """

    vocab_size: int = 10_000
    embed: int = 300
    dropout: float = 0.0
    num_classes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask=None, *, train: bool) -> jax.Array:
        x, mask = _embedded(self, tokens, mask)
        x = x.sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)[:, None].astype(self.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.num_classes, dtype=self.dtype, name='head')(x)
