"""The encoder and decoder of the package g2p-en, two GRUs with torch's names and gates, of one layer without attention."""
import jax.numpy as jnp

from bigjax.weights.family import Architecture, Family, Row

PARTS = (('input_kernel', 'w_ih', 'transpose'), ('recurrent_kernel', 'w_hh', 'transpose'),
         ('input_bias', 'b_ih', 'same'), ('recurrent_bias', 'b_hh', 'same'))
SIDES = (('source_embed', 'encoder', 'enc'), ('target_embed', 'decoder', 'dec'))


def pair(model) -> tuple:
    """The arguments that the model is initialised with: a source and a target."""
    return jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), jnp.int32)


FAMILY = Family(
    'seq2seq.Seq2Seq', inputs=pair,
    architectures={'': Architecture(heads=(Row('head/kernel', 'fc_w', 'transpose'), Row('head/bias', 'fc_b')))},
    rows=tuple(row for embed, stack, theirs in SIDES for row in (
        Row(f'{embed}/embedding', f'{theirs}_emb'),
        *(Row(f'{stack}/layer_0/{ours}', f'{theirs}_{key}', transform) for ours, key, transform in PARTS))),
    suits=lambda model: model.cell == 'gru' and model.layers == 1 and not model.attention)
