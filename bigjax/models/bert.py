"""Encoders of text: BERT (Devlin et al. 2019) and its relatives RoBERTa, DistilBERT and MiniLM.

Glossary: B batch · T tokens of a text · W width · V vocabulary · N classes.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn import masks
from bigjax.nn.cost_hints import CostHints
from bigjax.nn.dense import Dense
from bigjax.nn.transformer import partition_rules, stack
from bigjax.nn.transformer_spec import PLAIN, BlockInputs, Spec, make_norm
from bigjax.sharding import logical

BASE = {'num_layers': 12, 'num_heads': 12, 'width': 768}
LARGE = {'num_layers': 24, 'num_heads': 16, 'width': 1024}
ROBERTA = {'vocab_size': 50265, 'type_vocab': 1, 'first_position': 2, 'epsilon': 1e-5}
MINILM = {'num_heads': 12, 'width': 384}
# Parameters with the pooler of pool='cls', which the published counts include; DistilBERT has none.
VARIANTS = {
    'bert_base': BASE, 'bert_large': LARGE,  # 109,482,240 and 335,141,888
    'roberta_base': {**ROBERTA, **BASE}, 'roberta_large': {**ROBERTA, **LARGE},  # 124,645,632 and 355,359,744
    'distilbert_base': {**BASE, 'num_layers': 6, 'type_vocab': 0, 'pooler': 'relu'},  # 66,362,880 with pool='none'
    'minilm_l6': {**MINILM, 'num_layers': 6}, 'minilm_l12': {**MINILM, 'num_layers': 12},  # 22,713,216 and 33,360,000
}
PARTITION_RULES = (
    ('token_embed/embedding', ('vocab?', 'embed')), ('(pos|type)_embed/embedding', (None, 'embed')),
    ('embed_norm/(scale|bias)', ('embed',)), ('(pooler|mlm/dense)/kernel', ('embed', None)),
    ('(pooler|mlm/dense)/bias', (None,)), ('mlm/norm/(scale|bias)', ('embed',)), ('mlm/bias', ('vocab?',)),
    ('head/kernel', ('embed', None)), ('head/bias', (None,)), *partition_rules())
POOLS = ('none', 'cls', 'mean')
POOLERS = ('tanh', 'relu')
normal = nn.initializers.normal


class MaskedHead(nn.Module):
    """Hidden states [B, T, W] -> logits [B, T, V] of the words behind masks: 'dense', 'norm', the embedding, 'bias' [V]."""

    spec: Spec

    @nn.compact
    def __call__(self, x_BxTxW: jax.Array, embedding_VxW: jax.Array) -> jax.Array:
        B, T, W = x_BxTxW.shape
        h = PLAIN[self.spec.hidden](Dense(W, kernel_init=normal(0.02), dtype=self.spec.dtype, name='dense')(x_BxTxW))
        h = make_norm(self.spec, 'norm')(h)
        bias = self.param('bias', nn.initializers.zeros_init(), (embedding_VxW.shape[0],), jnp.float32)
        rows = h if logical.axis_size('seq') > 1 else h.reshape(B * T, W)  # for the reason given in bigjax.nn.dense
        logits = (rows @ embedding_VxW.astype(h.dtype).T).reshape(B, T, -1) + bias.astype(h.dtype)
        return logical.constrain(logits, 'batch', 'seq', 'vocab?')


class BERT(nn.Module):
    """Tokens [B, T] -> hidden states [B, T, W]; or what a head makes of them.

    With `mlm`, logits [B, T, V] of the words behind masks. With `pool`, one vector per text, [B, W]. With `num_classes`,
    logits [B, N] where texts are pooled, and [B, T, N] where they are not: classes of tokens, or with N = 2 the begin and end
    of a span.

    Parameters: 'token_embed', 'pos_embed', 'type_embed', 'embed_norm', 'block_0', …, 'pooler', 'head', 'mlm'. Initialised as
    published, normal of deviation 0.02.

    Attributes:
      vocab_size: V.
      block_size: the longest text.
      num_layers, num_heads, width: of the blocks; heads divide width.
      type_vocab: sentence types of a pair, 'type_embed'; 0 for none (DistilBERT).
      first_position: the row of 'pos_embed' that belongs to the first token; where it is not 0, only tokens that count are
        counted, and those that do not have the row before it (2 in RoBERTa).
      pool: 'none'; 'cls', the first token through the layer 'pooler'; 'mean' of the tokens that count.
      pooler: the activation of that layer, 'tanh' or 'relu'.
      num_classes: N of 'head'; 0 for no head.
      mlm: the masked-language head, 'mlm'.
      mlp_width, hidden, epsilon: see `bigjax.nn.transformer_spec.Spec`.
      dropout: on embeddings, attention probabilities, what blocks write, and before 'head'.
      scan, remat, microbatches: see `bigjax.nn.transformer.stack`.
      dtype: of the computation; parameters and normalisation statistics stay float32.

    Raises:
      UserError: a text over block_size, heads that do not divide, or options that do not fit.
    """

    vocab_size: int = 30522
    block_size: int = 512
    num_layers: int = 12
    num_heads: int = 12
    width: int = 768
    type_vocab: int = 2
    first_position: int = 0
    pool: str = 'none'
    pooler: str = 'tanh'
    num_classes: int = 0
    mlm: bool = False
    mlp_width: int = 0
    hidden: str = 'gelu'
    epsilon: float = 1e-12
    dropout: float = 0.0
    scan: bool = False
    remat: str = 'none'
    microbatches: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array, mask: jax.Array | None = None, positions: jax.Array | None = None,
                 segments: jax.Array | None = None, types: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Returns hidden states, vectors or logits, by the fields.

        Args:
          mask: bool [B, T], true where a token counts; None for all.
          positions: int [B, T] from 0; None for 0..T-1, in each segment, or see `first_position`.
          segments: int [B, T], the documents of a packed row; a token sees those of its own.
          types: int [B, T], which sentence of a pair a token belongs to; None for the first.
        """
        T = tokens_BxT.shape[1]
        self._check(T)
        embed = lambda number, name: nn.Embed(number, self.width, embedding_init=normal(0.02), dtype=self.dtype, name=name)
        token_embed = embed(self.vocab_size, 'token_embed')
        x = token_embed(tokens_BxT) + embed(self.block_size + self.first_position, 'pos_embed')(
            self._rows(T, mask, positions, segments))
        if self.type_vocab:
            x = x + embed(self.type_vocab, 'type_embed')(jnp.zeros((1, T), jnp.int32) if types is None else types)
        spec = Spec(self.num_heads, mlp_width=self.mlp_width, epsilon=self.epsilon, post_norm=True, hidden=self.hidden,
                    causal=False, dropout=self.dropout, dtype=self.dtype)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = logical.constrain(drop(make_norm(spec, 'embed_norm')(x)), 'batch', 'seq', 'embed')
        x = stack(self, spec, self.num_layers, x, BlockInputs(masks.visible(T, mask, segments)), train=train, scan=self.scan,
                  remat=self.remat, microbatches=self.microbatches)
        if self.mlm:
            return MaskedHead(spec, name='mlm')(x, token_embed.embedding)
        if self.pool == 'mean':
            x = mean(x, mask)
        elif self.pool == 'cls':
            x = Dense(self.width, kernel_init=normal(0.02), dtype=self.dtype, name='pooler')(x[:, 0])
            x = {'tanh': jnp.tanh, 'relu': nn.relu}[self.pooler](x)
        if not self.num_classes:
            return x
        return Dense(self.num_classes, kernel_init=normal(0.02), dtype=self.dtype, name='head')(drop(x))

    def cost_hints(self, tokens_BxT) -> CostHints:
        """The sizes that plans and throughput need."""
        return CostHints(tokens_BxT.shape[1], self.num_layers, self.width, self.num_heads, self.num_heads,
                         vocab_size=self.vocab_size if self.mlm else 0)

    def _rows(self, length, mask, positions, segments):
        """The rows of 'pos_embed', [T] or [B, T]."""
        first = self.first_position
        if positions is None:
            positions = masks.positions(mask if first else None, segments)
        rows = jnp.arange(length) + first if positions is None else positions + first
        return jnp.where(mask, rows, first - 1) if first and mask is not None else rows

    def _check(self, length):
        if self.block_size < length:
            raise UserError(f'BERT: got {length} tokens, expected at most block_size={self.block_size}; fix: shorten the text',
                            code='model/too-long')
        if self.width % self.num_heads:
            raise UserError(f'BERT: got num_heads={self.num_heads}, expected a divisor of width={self.width}; fix: choose one',
                            code='model/not-divisible')
        if self.pool not in POOLS or self.pooler not in POOLERS:
            raise UserError(f'BERT: got pool={self.pool!r}, pooler={self.pooler!r}, expected pool among {", ".join(POOLS)} '
                            f'and pooler among {", ".join(POOLERS)}; fix: choose among them', code='model/unknown-option')
        if self.mlm and (self.pool != 'none' or self.num_classes):
            raise UserError(f'BERT: got mlm with pool={self.pool!r}, num_classes={self.num_classes}, expected the head of '
                            "words alone; fix: pool='none' and num_classes=0", code='model/unfit-options')


def mean(x_BxTxW: jax.Array, mask_BxT: jax.Array | None) -> jax.Array:
    """[B, W]: the mean of the tokens that count; 0 for a text without any."""
    if mask_BxT is None:
        return x_BxTxW.mean(1)
    weights = mask_BxT.astype(jnp.float32)[..., None]
    total = (x_BxTxW.astype(jnp.float32) * weights).sum(1)
    return (total / jnp.maximum(weights.sum(1), 1)).astype(x_BxTxW.dtype)
