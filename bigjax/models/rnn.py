"""Recurrent networks: classifiers of sequences, and a language model over characters.

Glossary: B batch · T time · D input channels · H features of a direction · K classes · V vocabulary.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.dense import Dense
from bigjax.nn.recurrent import GRU, LSTM, RNN

VARIANTS = {
    # Greydanus & Kobak 2024, MNIST-1D: 40 steps of one channel, 5,134 parameters.
    'mnist1d': {'cell': 'gru', 'features': 6, 'bidirectional': True, 'readout': 'all', 'num_classes': 10},
    # Bai, Kolter & Koltun 2018, sequential MNIST: 784 steps of one channel.
    'sequential_mnist': {'cell': 'lstm', 'features': 130, 'readout': 'last', 'num_classes': 10},
}
CELLS = {'lstm': LSTM, 'gru': GRU, 'rnn': RNN}
READOUTS = ('last', 'mean', 'all')


def remembering(bias: float) -> Callable:
    """An initializer of an LSTM's biases [4H]: half of `bias` for the forget gates, zero for the others."""
    def init(_, shape, dtype=jnp.float32):
        H = shape[-1] // 4
        return jnp.zeros(shape, dtype).at[..., H:2 * H].set(bias / 2)

    return init


class Recurrent(nn.Module):
    """[B, T, D] -> [B, T, H], or 2H when bidirectional: recurrent layers 'layer_0', … ('layer_0_reverse' beside it).

    Attributes:
      cell: 'lstm', 'gru' or 'rnn'.
      features: H.
      layers: how many, each on the output of the one below.
      bidirectional: every layer also runs from the end; the two outputs stand side by side.
      dropout: on the output of every layer but the last.
      forget_bias: where the bias of an LSTM's forget gates starts; each of its two parameters has one half.
      dtype: of the computation; parameters stay float32.
    """

    cell: str = 'lstm'
    features: int = 128
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    forget_bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, lengths=None, initial=None, *, train: bool):
        """Returns ([(carry, …) a layer], output); `initial` is such a list, `lengths` [B] the true lengths."""
        if self.cell not in CELLS:
            raise UserError(f'Recurrent: got cell {self.cell!r}, expected one of {", ".join(CELLS)}; fix: choose one of them',
                            code='model/unknown-option')
        if self.forget_bias and self.cell != 'lstm':
            raise UserError(f'Recurrent: got forget_bias={self.forget_bias} and cell {self.cell!r}, expected an lstm; fix: '
                            'leave it out', code='model/unknown-option')
        bias_init = remembering(self.forget_bias) if self.forget_bias else nn.initializers.zeros_init()
        suffixes = ('', '_reverse') if self.bidirectional else ('',)
        carries = []
        for i in range(self.layers):
            if i > 0:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            runs = []
            for j, suffix in enumerate(suffixes):
                layer = CELLS[self.cell](self.features, reverse=bool(suffix), kernel_init=self.kernel_init,
                                         bias_init=bias_init, dtype=self.dtype, name=f'layer_{i}{suffix}')
                runs.append(layer(x, None if initial is None else initial[i][j], lengths=lengths))
            carries.append(tuple(carry for carry, _ in runs))
            x = jnp.concatenate([y for _, y in runs], axis=-1)
        return carries, x


class RNNClassifier(nn.Module):
    """[B, T, D], [B, T], or tokens [B, T] where there is a vocabulary -> [B, K]: 'embed', 'rnn/layer_0', …, 'head'.

    Attributes:
      cell, features, layers, bidirectional: see `Recurrent`.
      num_classes: K.
      readout: what the head sees: 'last' (each direction's final state), 'mean' over time, or 'all' outputs side by
        side, which fixes T.
      vocab_size: 0 for real inputs, or the number of tokens, embedded in `embed` numbers.
      dropout: on the embedding, between layers and before the head.
      forget_bias: see `Recurrent`.
      dtype: of the computation; parameters stay float32.
    """

    cell: str = 'lstm'
    features: int = 128
    layers: int = 1
    bidirectional: bool = False
    num_classes: int = 10
    readout: str = 'last'
    vocab_size: int = 0
    embed: int = 128
    dropout: float = 0.0
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    forget_bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, lengths=None, *, mask=None, train: bool) -> jax.Array:
        """`lengths` [B]: the true lengths, where sequences are padded at the end; or `mask` [B, T], true before the end."""
        lengths = mask.sum(axis=1) if lengths is None and mask is not None else lengths
        if self.readout not in READOUTS:
            raise UserError(f'RNNClassifier: got readout {self.readout!r}, expected one of {", ".join(READOUTS)}; fix: choose '
                            'one of them', code='model/unknown-option')
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if self.vocab_size:
            x = drop(nn.Embed(self.vocab_size, self.embed, dtype=self.dtype, name='embed')(x))
        else:
            x = (x[..., None] if x.ndim == 2 else x).astype(self.dtype)
        carries, y = Recurrent(self.cell, self.features, self.layers, self.bidirectional, self.dropout,
                               self.kernel_init, self.dtype, self.forget_bias, name='rnn')(x, lengths, train=train)
        if self.readout == 'last':
            y = jnp.concatenate([jax.tree.leaves(carry)[0] for carry in carries[-1]], axis=-1)
        elif self.readout == 'all':
            y = y.reshape(y.shape[0], -1)
        elif lengths is None:
            y = y.mean(axis=1)
        else:  # outputs past the end are zero
            y = y.sum(axis=1) / jnp.maximum(lengths, 1)[:, None].astype(y.dtype)
        return Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name='head')(drop(y))


class Memory(NamedTuple):
    """The cache of `CharLSTM`.

    Attributes:
      carries: the carries of each layer, see `Recurrent`.
      index: int32, the number of tokens so far, padding included.
    """

    carries: list
    index: jax.Array


class CharLSTM(nn.Module):
    """A recurrent language model, tokens [B, T] -> logits [B, T, V]: 'embed', 'rnn/layer_0', …, 'head'.

    Attributes:
      vocab_size: V.
      embed: width of the embedding.
      features, layers: see `Recurrent`.
      dropout: on the embedding, between layers and before the head (Zaremba et al. 2014).
      dtype: of the computation; parameters stay float32.
    """

    vocab_size: int = 65
    embed: int = 128
    features: int = 256
    layers: int = 2
    dropout: float = 0.0
    cell: str = 'lstm'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, cache: Memory | None = None, mask=None, last: bool = False, train: bool):
        """Logits, of the last token alone where `last`; with a cache (logits, cache), continuing from it.

        Args:
          mask: bool [B, T], read beside a cache: false for padding, on the left.
        """
        lengths = None
        if cache is not None and mask is not None:  # a recurrence freezes past the end: padding goes there, and back
            T = tokens.shape[1]
            lengths = mask.sum(1)
            places = lambda by, x: ((jnp.arange(T) + by[:, None]) % T).reshape(-1, T, *[1] * (x.ndim - 2))
            turned = lambda x, by: jnp.take_along_axis(x, places(by, x), 1)
            tokens = turned(tokens, T - lengths)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = drop(nn.Embed(self.vocab_size, self.embed, dtype=self.dtype, name='embed')(tokens))
        carries, x = Recurrent(self.cell, self.features, self.layers, dropout=self.dropout, dtype=self.dtype,
                               name='rnn')(x, lengths, None if cache is None else cache.carries, train=train)
        x = x if lengths is None else turned(x, lengths)
        x = x[:, -1:] if last else x
        logits = Dense(self.vocab_size, dtype=self.dtype, name='head')(drop(x))
        return logits if cache is None else (logits, Memory(carries, cache.index + tokens.shape[1]))

    def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Memory:
        """The memory before the first token; it takes as many tokens as there are, whatever the length."""
        zeros = jnp.zeros((batch, self.features), dtype)
        return Memory([((zeros, zeros) if self.cell == 'lstm' else zeros,) for _ in range(self.layers)], jnp.int32(0))


class FrameRNN(nn.Module):
    """Frames [B, T, D] -> logits [B, ceil(T / stride), K] of each: 'rnn/layer_0', …, 'head', over `stride` frames side by side.

    Attributes:
      cell, features, layers, bidirectional: see `Recurrent`.
      stride: frames of the input for one of the output.
      num_classes: K.
      dropout: between layers and before the head.
      dtype: of the computation; parameters stay float32.
    """

    cell: str = 'lstm'
    features: int = 128
    layers: int = 1
    bidirectional: bool = True
    stride: int = 4
    num_classes: int = 29
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask=None, train: bool) -> jax.Array:
        """`mask` bool [B, T], true in front for the frames that count."""
        B, T, D = x.shape
        x = x if mask is None else jnp.where(mask[..., None], x, 0)
        x = jnp.pad(x, ((0, 0), (0, -T % self.stride), (0, 0))).reshape(B, -1, self.stride * D).astype(self.dtype)
        lengths = None if mask is None else -(-mask.sum(axis=1) // self.stride)
        _, y = Recurrent(self.cell, self.features, self.layers, self.bidirectional, self.dropout, dtype=self.dtype,
                         name='rnn')(x, lengths, train=train)
        return Dense(self.num_classes, dtype=self.dtype, name='head')(nn.Dropout(self.dropout, deterministic=not train)(y))
