"""Encoder-decoder recurrent networks, with or without attention, and greedy decoding.

Glossary: B batch · S source tokens · T target tokens · H features · V target vocabulary · L decoded tokens.
"""
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.models.rnn import Recurrent
from bigjax.nn.dense import Dense

VARIANTS = {
    # Lake & Baroni 2018, section 3: the best network over all splits has no attention; 16 words, 9 actions.
    'scan': {'source_vocab': 16, 'target_vocab': 9, 'features': 200, 'layers': 2, 'dropout': 0.5, 'attention': False,
             'max_length': 49},
    'scan_attention': {'source_vocab': 16, 'target_vocab': 9, 'features': 200, 'layers': 2, 'dropout': 0.5,
                       'attention': True, 'max_length': 49},
}


class Attention(nn.Module):
    """Luong et al. 2015, eqs. 5-8 with the 'general' score: queries [B, T, H], memory [B, S, H] -> [B, T, H].

    'score' maps the memory to the queries' space, 'combine' the context beside the query to the output.
    """

    dtype: Any

    @nn.compact
    def __call__(self, query_BxTxH: jax.Array, memory_BxSxH: jax.Array, mask_BxS: jax.Array) -> jax.Array:
        H = query_BxTxH.shape[-1]
        key_BxSxH = Dense(H, use_bias=False, dtype=self.dtype, name='score')(memory_BxSxH)
        scores_BxTxS = jnp.einsum('BTH,BSH->BTS', query_BxTxH, key_BxSxH).astype(jnp.float32) / math.sqrt(H)
        p_BxTxS = jax.nn.softmax(jnp.where(mask_BxS[:, None], scores_BxTxS, -1e30)).astype(self.dtype)
        context_BxTxH = jnp.einsum('BTS,BSH->BTH', p_BxTxS, memory_BxSxH)
        both = jnp.concatenate([context_BxTxH, query_BxTxH], axis=-1)
        return jnp.tanh(Dense(H, dtype=self.dtype, name='combine')(both))


class Seq2Seq(nn.Module):
    """Source [B, S] and the target so far [B, T] -> logits [B, T, V] of the next target token.

    The encoder's final states start the decoder. Parameters: 'source_embed', 'encoder/layer_0', …, 'target_embed',
    'decoder/layer_0', …, 'attention' where there is one, 'head'.

    Attributes:
      source_vocab, target_vocab: numbers of tokens; `pad`, `bos` and `eos` are among both.
      features: H, of embeddings and recurrent layers.
      layers: of the encoder, and of the decoder.
      cell: 'lstm', 'gru' or 'rnn'.
      dropout: on embeddings, between layers and before the head.
      attention: whether the decoder attends to the encoder's outputs.
      max_length: L, at which `decode` stops.
      dtype: of the computation; parameters stay float32.
    """

    source_vocab: int
    target_vocab: int
    features: int = 200
    layers: int = 2
    cell: str = 'lstm'
    dropout: float = 0.0
    attention: bool = True
    max_length: int = 50
    pad: int = 0
    bos: int = 1
    eos: int = 2
    dtype: Any = jnp.float32

    def setup(self):
        recurrent = lambda: Recurrent(self.cell, self.features, self.layers, dropout=self.dropout, dtype=self.dtype)
        self.source_embed = nn.Embed(self.source_vocab, self.features, dtype=self.dtype)
        self.encoder = recurrent()
        self.target_embed = nn.Embed(self.target_vocab, self.features, dtype=self.dtype)
        self.decoder = recurrent()
        if self.attention:
            self.attend = Attention(self.dtype, name='attention')
        self.drop = nn.Dropout(self.dropout)
        self.head = Dense(self.target_vocab, dtype=self.dtype)

    def encode(self, source: jax.Array, *, train: bool = False):
        """[B, S] -> (final states of every layer, (outputs [B, S, H], mask [B, S]))."""
        mask = source != self.pad
        x = self.drop(self.source_embed(source), deterministic=not train)
        states, outputs = self.encoder(x, mask.sum(axis=1), train=train)
        return states, (outputs, mask)

    def steps(self, states, memory, target: jax.Array, *, train: bool = False):
        """Some target tokens [B, T] further: (states after them, logits [B, T, V])."""
        x = self.drop(self.target_embed(target), deterministic=not train)
        states, y = self.decoder(x, initial=states, train=train)
        if self.attention:
            y = self.attend(y, *memory)
        return states, self.head(self.drop(y, deterministic=not train))

    def __call__(self, source: jax.Array, target: jax.Array, *, train: bool) -> jax.Array:
        """Teacher forcing: `target` begins with `bos`, and position t of the output predicts its token t + 1."""
        states, memory = self.encode(source, train=train)
        return self.steps(states, memory, target, train=train)[1]

    def decode(self, source: jax.Array, *, train: bool = False) -> jax.Array:
        """The greedy target of [B, S], without `bos`: int32 [B, L], `eos` after its last token and `pad` after that."""
        states, memory = self.encode(source, train=train)

        def step(module, carry, _):
            states, token, done = carry
            states, logits = module.steps(states, memory, token[:, None], train=train)
            token = jnp.where(done, module.pad, jnp.argmax(logits[:, 0], axis=-1)).astype(jnp.int32)
            return (states, token, done | (token == module.eos)), token

        scan = nn.scan(step, variable_broadcast='params', split_rngs={'params': False, 'dropout': True},
                       length=self.max_length, out_axes=1)
        start = (states, jnp.full(source.shape[0], self.bos, jnp.int32), jnp.zeros(source.shape[0], bool))
        return scan(self, start, None)[1]
