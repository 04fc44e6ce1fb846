"""T5 (Raffel et al. 2020) and T5 1.1 (Shazeer 2020), which has gated hidden layers and a head of its own."""
from collections.abc import Mapping

import jax.numpy as jnp

from bigjax.weights.config_json import refused
from bigjax.weights.family import Architecture, Family, Field, Row

HIDDEN = {'relu': 'relu', 'gated-gelu': 'geglu_tanh', 'gated-silu': 'swiglu', 'gelu_new': 'gelu_tanh', 'gelu': 'gelu'}
PARTS = (('query', 'q'), ('key', 'k'), ('value', 'v'), ('out', 'o'))


def attention(side: str, ours: str, number: int, theirs: str) -> tuple[Row, ...]:
    """An attention layer and its norm."""
    layer = f'{side}.block.{{i}}.layer.{number}'
    return (Row(f'{side}/block_{{i}}/{ours}_norm/scale', f'{layer}.layer_norm.weight'),
            *(Row(f'{side}/block_{{i}}/{ours}/{part}/kernel', f'{layer}.{theirs}.{name}.weight', 'transpose')
              for part, name in PARTS))


def hidden(side: str, number: int) -> tuple[Row, ...]:
    """A hidden layer and its norm; where there is a gate, 'wi_0' is the gate and 'wi_1' what it multiplies."""
    ours, layer = f'{side}/block_{{i}}/mlp', f'{side}.block.{{i}}.layer.{number}'
    dense = f'{layer}.DenseReluDense'
    return (Row(f'{ours}_norm/scale', f'{layer}.layer_norm.weight'),
            Row(f'{ours}/gate/kernel', f'{dense}.wi_0.weight', 'transpose'),
            Row(f'{ours}/up/kernel', f'{dense}.wi_1.weight', 'transpose', beside=f'{ours}/gate/kernel'),
            Row(f'{ours}/up/kernel', f'{dense}.wi.weight', 'transpose'),
            Row(f'{ours}/down/kernel', f'{dense}.wo.weight', 'transpose'))


def ends(side: str) -> tuple[Row, ...]:
    """The relative positions, which the first layer has for all, and the last norm."""
    return (Row(f'{side}/relative/embedding', f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'),
            Row(f'{side}/final_norm/scale', f'{side}.final_layer_norm.weight'))


def read_config(config: Mapping) -> dict:
    """The fields that are the same for all models of the family, or depend on several keys."""
    layers = config['num_layers']
    if config.get('num_decoder_layers') not in (None, layers):
        raise refused('config.json', 'num_decoder_layers', config['num_decoder_layers'], (layers,))
    head_width = config['d_kv'] if config['d_kv'] * config['num_heads'] != config['d_model'] else 0
    tied = config.get('tie_word_embeddings', True)
    return {'head_width': head_width, 'tie_head': tied, 'scale_head': config.get('scale_decoder_outputs', tied)}


def write_config(model) -> dict:
    """The same keys."""
    return {'num_decoder_layers': model.num_layers, 'd_kv': model.head_width or model.width // model.num_heads,
            'tie_word_embeddings': model.tie_head, 'scale_decoder_outputs': model.scale_head, 'is_encoder_decoder': True}


def inputs(model) -> tuple:
    """A source and a target."""
    return jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), jnp.int32)


FAMILY = Family(
    model='seq2seq.EncoderDecoder', model_type='t5',
    architectures={'T5ForConditionalGeneration': Architecture(heads=(Row('head/kernel', 'lm_head.weight', 'transpose'),))},
    fields=(Field('vocab_size', 'vocab_size'), Field('d_model', 'width'), Field('d_ff', 'mlp_width'),
            Field('num_layers', 'num_layers'), Field('num_heads', 'num_heads'), Field('n_positions', 'block_size', 512),
            Field('relative_attention_num_buckets', 'relative_buckets', 32),
            Field('relative_attention_max_distance', 'relative_distance', 128), Field('layer_norm_epsilon', 'epsilon', 1e-6),
            Field('feed_forward_proj', 'hidden', 'relu', HIDDEN), Field('dropout_rate', 'dropout', 0.1),
            Field('pad_token_id', 'pad', 0), Field('eos_token_id', 'eos', 1), Field('decoder_start_token_id', 'bos', 0)),
    rows=(Row('token_embed/embedding', 'shared.weight'), *ends('encoder'), *attention('encoder', 'attn', 0, 'SelfAttention'),
          *hidden('encoder', 1), *ends('decoder'), *attention('decoder', 'attn', 0, 'SelfAttention'),
          *attention('decoder', 'cross', 1, 'EncDecAttention'), *hidden('decoder', 2)),
    tied=dict.fromkeys(('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', 'lm_head.weight'), 'shared.weight'),
    ignored=(r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',),
    read_config=read_config, write_config=write_config, inputs=inputs)
