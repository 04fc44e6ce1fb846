"""Encoder-decoders: recurrent networks with or without attention; the original Transformer and T5.

Glossary: B batch · S source tokens · T target tokens · H features · W width · V (target) vocabulary · L decoded tokens.
"""
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.models.rnn import Recurrent
from bigjax.nn import kv_cache, masks
from bigjax.nn.attention_layer import cross_layer
from bigjax.nn.cost_hints import CostHints
from bigjax.nn.dense import Dense
from bigjax.nn.kv_cache import KVCache
from bigjax.nn.posemb import sinusoidal
from bigjax.nn.relative import RelativeBias
from bigjax.nn.transformer import cached_stack, partition_rules, stack
from bigjax.nn.transformer_spec import BlockInputs, Spec, make_norm
from bigjax.sharding import logical

T5 = {'vocab_size': 32128, 'dropout': 0.1}
T5_V11 = {**T5, 'hidden': 'geglu_tanh', 'tie_head': False, 'scale_head': False}
TRANSFORMER = {'vocab_size': 37000, 'block_size': 1024, 'positions': 'sinusoidal', 'norm': 'layernorm', 'post_norm': True,
               'bias': True, 'score_scale': 0.0, 'scale_embed': True, 'scale_head': False, 'epsilon': 1e-5}
VARIANTS = {
    # Lake & Baroni 2018, section 3: the best network over all splits has no attention; 16 words, 9 actions.
    'scan': {'source_vocab': 16, 'target_vocab': 9, 'features': 200, 'layers': 2, 'dropout': 0.5, 'attention': False,
             'max_length': 49},
    'scan_attention': {'source_vocab': 16, 'target_vocab': 9, 'features': 200, 'layers': 2, 'dropout': 0.5,
                       'attention': True, 'max_length': 49},
    # The network of the package g2p-en: 29 letters, 74 phonemes, 834,890 parameters.
    'g2p': {'source_vocab': 29, 'target_vocab': 74, 'features': 256, 'layers': 1, 'cell': 'gru', 'attention': False,
            'max_length': 20, 'bos': 2, 'eos': 3},
    # Of `EncoderDecoder`: T5 (Raffel et al. 2020, section 3.7): 60,506,624, 222,903,552 and 737,668,096.
    't5_small': {**T5, 'num_layers': 6, 'num_heads': 8, 'width': 512, 'mlp_width': 2048},
    't5_base': {**T5, 'num_layers': 12, 'num_heads': 12, 'width': 768, 'mlp_width': 3072},
    't5_large': {**T5, 'num_layers': 24, 'num_heads': 16, 'width': 1024, 'mlp_width': 4096},
    # T5 1.1 (Shazeer 2020): 76,961,152 and 247,577,856.
    't5_v11_small': {**T5_V11, 'num_layers': 8, 'num_heads': 6, 'head_width': 64, 'width': 512, 'mlp_width': 1024},
    't5_v11_base': {**T5_V11, 'num_layers': 12, 'num_heads': 12, 'width': 768, 'mlp_width': 2048},
    # Vaswani et al. 2017, table 3: 63,082,496 and 214,245,376 with 37,000 tokens and biases; the paper rounds to 65 and 213 M.
    'transformer_base': {**TRANSFORMER, 'num_layers': 6, 'num_heads': 8, 'width': 512, 'mlp_width': 2048, 'dropout': 0.1},
    'transformer_big': {**TRANSFORMER, 'num_layers': 6, 'num_heads': 16, 'width': 1024, 'mlp_width': 4096, 'dropout': 0.3},
}
PARTITION_RULES = (  # of `EncoderDecoder`
    ('token_embed/embedding', ('vocab?', 'embed')), ('(encoder|decoder)/relative/embedding', (None, 'heads')),
    ('(encoder|decoder)/final_norm/(scale|bias)', ('embed',)), ('head/kernel', ('embed', 'vocab?')),
    *partition_rules('encoder/'), *partition_rules('decoder/'))
POSITIONS = ('relative', 'sinusoidal')
fan_in = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')


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


class Stack(nn.Module):
    """The blocks of an encoder or of a decoder, [B, T, W] -> [B, T, W]: 'relative', 'block_0', …, 'final_norm'.

    Attributes:
      spec: the options of its blocks; a decoder's are causal and have `cross`.
      num_layers: of blocks.
      relative: buckets and largest distance of relative positions; None for none.
      scan, remat: see `bigjax.nn.transformer.stack`.
    """

    spec: Spec
    num_layers: int
    relative: tuple[int, int] | None = None
    scan: bool = False
    remat: str = 'none'

    @nn.compact
    def __call__(self, x: jax.Array, inputs: BlockInputs, cache: KVCache | None = None, index=0, *, train: bool):
        """Returns x after the blocks, and the cache with the keys and values of these tokens, where there is one.

        Args:
          inputs: what all blocks receive; relative positions are added to it.
          index: the slot of the first token.
        """
        s = self.spec
        if self.relative:
            queries = index + jnp.arange(x.shape[1])
            keys = queries if cache is None else jnp.arange(cache.mask.shape[1])
            bias = RelativeBias(s.num_heads, *self.relative, not s.causal, nn.initializers.normal(x.shape[-1] ** -0.5),
                                name='relative')(queries, keys)
            inputs = inputs._replace(bias=bias)
        if cache is None:
            x = stack(self, s, self.num_layers, x, inputs, train=train, scan=self.scan, remat=self.remat)
        else:
            x, cache = cached_stack(self, s, self.num_layers, x, inputs, cache, index, scan=self.scan)
        if not s.post_norm:
            x = nn.Dropout(s.dropout, deterministic=not train)(make_norm(s, 'final_norm')(x))
        return x, cache


class EncoderDecoder(nn.Module):
    """Source [B, S] and the target so far [B, T] -> logits [B, T, V] of the next: T5, or the Transformer of Vaswani et al.

    Parameters: 'token_embed' of both languages, 'encoder/relative', 'encoder/block_0', …, 'encoder/final_norm', the same of
    'decoder', and 'head' where it is not the embedding. With a cache, it takes the next target tokens alone, and returns
    their logits and the cache. Kernels have deviation 1 / sqrt(inputs), T5's queries 1 / sqrt(W D).

    Attributes:
      vocab_size: V, of both languages.
      block_size: the longest source or target of sinusoidal positions, and the longest cache.
      num_layers: of the encoder, and of the decoder.
      num_heads, head_width, width, mlp_width: of the blocks; `head_width` 0 for width / num_heads.
      positions: 'relative' (T5) or 'sinusoidal'.
      relative_buckets, relative_distance: see `bigjax.nn.relative`.
      norm, post_norm, epsilon, hidden, bias: see `bigjax.nn.transformer_spec.Spec`.
      score_scale: of attention's scores; 0 for 1 / sqrt(D), 1 in T5.
      scale_embed: embeddings times sqrt(W).
      tie_head: the head is the embedding transposed; `scale_head`: its input is divided by sqrt(W).
      dropout: on embeddings, attention probabilities, hidden layers, what blocks write, and both outputs.
      pad, bos, eos: tokens; what is `pad` in a source does not count, and a target begins with `bos`.
      scan, remat: see `bigjax.nn.transformer.stack`.
      dtype: of the computation; parameters and normalisation statistics stay float32.

    Raises:
      UserError: a text over block_size or past the cache, heads that do not divide, or unknown positions.
    """

    vocab_size: int = 32128
    block_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    head_width: int = 0
    width: int = 512
    mlp_width: int = 0
    positions: str = 'relative'
    relative_buckets: int = 32
    relative_distance: int = 128
    norm: str = 'rmsnorm'
    post_norm: bool = False
    epsilon: float = 1e-6
    hidden: str = 'relu'
    bias: bool = False
    score_scale: float = 1.0
    scale_embed: bool = False
    tie_head: bool = True
    scale_head: bool = True
    dropout: float = 0.0
    pad: int = 0
    bos: int = 0
    eos: int = 1
    scan: bool = False
    remat: str = 'none'
    dtype: Any = jnp.float32

    @property
    def spec(self) -> Spec:
        """The options of the encoder's blocks."""
        shared = {name: getattr(self, name) for name in Spec._fields if name in self.__dataclass_fields__}
        D = self.head_width or self.width // self.num_heads
        query_init = nn.initializers.normal((self.width * D) ** -0.5) if self.score_scale == 1 else None
        return Spec(**shared, causal=False, scale=self.score_scale, hidden_dropout=self.dropout, init=fan_in, out_init=fan_in,
                    query_init=query_init)

    def setup(self):
        self._check()
        embed_scale = self.width ** -0.5 if self.scale_embed else 1.0
        self.token_embed = nn.Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(embed_scale),
                                    dtype=self.dtype)
        relative = (self.relative_buckets, self.relative_distance) if self.positions == 'relative' else None
        stacked = lambda spec: Stack(spec, self.num_layers, relative, self.scan, self.remat)
        self.encoder, self.decoder = stacked(self.spec), stacked(self.spec._replace(causal=True, cross=True))
        self.drop = nn.Dropout(self.dropout)
        if not self.tie_head:
            self.head = Dense(self.vocab_size, use_bias=False, kernel_init=fan_in, dtype=self.dtype)

    def encode(self, source: jax.Array, source_mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """[B, S] -> [B, S, W], what the decoder reads; `source_mask` as in the call."""
        source_mask = self._counts(source, source_mask)
        return self.encoder(self._embed(source, None, train), BlockInputs(masks.visible(source.shape[1], source_mask)),
                            train=train)[0]

    def __call__(self, source: jax.Array, target: jax.Array | None = None, source_mask: jax.Array | None = None, *,
                 mask: jax.Array | None = None, cache: KVCache | None = None, last: bool = False, train: bool = False):
        """Returns logits [B, T, V]; or with a cache (logits, cache), and `source` is the next target tokens [B, T].

        Args:
          target: [B, T], which begins with `bos`.
          source_mask: bool [B, S], true where a source token counts; None where it is not `pad`.
          mask: bool [B, T], true where a target token counts; None for all.
          cache: what `init_cache` or the last call returned.
          last: logits of the last token alone, [B, 1, V].
        """
        if cache is None:
            memory = self.encode(source, source_mask, train=train)
            counts = self._counts(source, source_mask)
            inputs = BlockInputs(masks.visible(target.shape[1], mask), memory=memory, memory_mask=counts[:, None, None])
            y, _ = self.decoder(self._embed(target, masks.positions(mask), train), inputs, train=train)
            return self._logits(y, last)
        index, T = cache.index, source.shape[1]
        cache, places = kv_cache.advance(cache, mask, None, T)
        seen = None if cache.memory_mask is None else cache.memory_mask[:, None, None]
        inputs = BlockInputs(masks.visible_slots(cache.mask, index, T), memory_mask=seen)
        y, cache = self.decoder(self._embed(source, places, train), inputs, cache, index, train=train)
        return self._logits(y, last), cache

    def init_cache(self, batch: int, length: int, dtype=jnp.float32, memory: jax.Array | None = None,
                   memory_mask: jax.Array | None = None) -> KVCache:
        """An empty cache of `length` slots with the keys and values of what `encode` returned, computed here once.

        Args:
          memory: [B, S, W]; call by `model.apply(variables, …, method='init_cache')`.
          memory_mask: bool [B, S], true where a source token counts; None for all.

        Raises:
          UserError: more slots than block_size; 'model/too-long'.
        """
        self._check_length(length)
        fresh = kv_cache.empty(batch, length, self.num_layers, self.num_heads,
                               self.head_width or self.width // self.num_heads, dtype)
        params = self.variables['params']['decoder']
        blocks = [jax.tree.map(lambda p, i=i: p[i], params['blocks']) if self.scan else params[f'block_{i}']
                  for i in range(self.num_layers)]
        cross = tuple(cross_layer(self.spec, block['cross'], memory, dtype) for block in blocks)
        return fresh._replace(cross=cross, memory_mask=memory_mask)

    def cost_hints(self, source_BxS, target_BxT) -> CostHints:
        """The sizes that plans and throughput need."""
        return CostHints(source_BxS.shape[1] + target_BxT.shape[1], self.num_layers, self.width, self.num_heads,
                         self.num_heads, vocab_size=self.vocab_size)

    def _counts(self, source, source_mask):
        return source != self.pad if source_mask is None else source_mask.astype(bool)

    def _embed(self, tokens, places, train):
        """[B, T, W] of tokens at positions [B, T]; None for 0..T-1."""
        T = tokens.shape[1]
        x = self.token_embed(tokens)
        x = x * jnp.asarray(math.sqrt(self.width), x.dtype) if self.scale_embed else x
        if self.positions == 'sinusoidal':
            self._check_length(T)
            table = jnp.asarray(sinusoidal(self.block_size, self.width), x.dtype)
            x = x + (table[:T] if places is None else table[places])
        return logical.constrain(self.drop(x, deterministic=not train), 'batch', 'seq', 'embed')

    def _logits(self, y_BxTxW, last):
        y = y_BxTxW[:, -1:] if last else y_BxTxW
        B, T, W = y.shape
        y = y * jnp.asarray(W ** -0.5, y.dtype) if self.scale_head else y
        logits = self.token_embed.attend(y.reshape(B * T, W)).reshape(B, T, -1) if self.tie_head else self.head(y)
        return logical.constrain(logits, 'batch', 'seq', 'vocab?')

    def _check_length(self, length):
        if self.block_size < length:
            raise UserError(f'EncoderDecoder: got {length} tokens, expected at most block_size={self.block_size}; fix: shorten '
                            'the text', code='model/too-long')

    def _check(self):
        if self.positions not in POSITIONS:
            raise UserError(f'EncoderDecoder: got positions={self.positions!r}, expected one of {", ".join(POSITIONS)}; fix: '
                            'choose one of them', code='model/unknown-option')
        if self.width % self.num_heads and not self.head_width:
            raise UserError(f'EncoderDecoder: got num_heads={self.num_heads}, expected a divisor of width={self.width}; fix: '
                            'choose one', code='model/not-divisible')
