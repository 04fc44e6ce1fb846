"""Llama 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024) and the decoders of the same shape: Mistral, Qwen2, Qwen3."""
import dataclasses
from collections.abc import Mapping

from bigjax.weights.config_json import refused
from bigjax.weights.family import Architecture, Family, Field, Row

HEAD = (Row('head/kernel', 'lm_head.weight', 'transpose'),)
NORM = {'norm': 'rmsnorm', 'bias': False}
ROWS = (
    Row('token_embed/embedding', 'embed_tokens.weight'), Row('block_{i}/attn_norm/scale', 'layers.{i}.input_layernorm.weight'),
    *(Row(f'block_{{i}}/attn/{ours}/kernel', f'layers.{{i}}.self_attn.{theirs}.weight', 'transpose')
      for ours, theirs in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj'), ('out', 'o_proj'))),
    Row('block_{i}/mlp_norm/scale', 'layers.{i}.post_attention_layernorm.weight'),
    *(Row(f'block_{{i}}/mlp/{part}/kernel', f'layers.{{i}}.mlp.{part}_proj.weight', 'transpose')
      for part in ('up', 'gate', 'down')),
    Row('final_norm/scale', 'norm.weight'))
BIASES = tuple(Row(f'block_{{i}}/attn/{ours}/bias', f'layers.{{i}}.self_attn.{theirs}.bias')
               for ours, theirs in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj')))
QK_NORMS = tuple(Row(f'block_{{i}}/attn/{ours}/scale', f'layers.{{i}}.self_attn.{theirs}.weight')
                 for ours, theirs in (('query_norm', 'q_norm'), ('key_norm', 'k_norm')))
SCALINGS = {'linear': ('factor',), 'llama3': ('factor', 'low', 'high', 'window')}
NAMES = {'factor': 'factor', 'low': 'low_freq_factor', 'high': 'high_freq_factor', 'window': 'original_max_position_embeddings'}


def read_config(config: Mapping) -> dict:
    """The fields whose keys have changed their place between versions, or mean another field where they are absent."""
    heads = config['num_attention_heads']
    kv = config.get('num_key_value_heads') or heads
    head_width = config.get('head_dim') or 0
    rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
    found = {**NORM, 'num_kv_heads': 0 if kv == heads else kv,
             'head_width': 0 if head_width * heads == config['hidden_size'] else head_width,
             'rope_base': float(rope.get('rope_theta') or config.get('rope_theta') or 10000.0)}
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    if kind == 'default':
        return found
    if kind not in SCALINGS:
        raise refused('config.json', 'rope_type', kind, ('default', *SCALINGS))
    return {**found, 'rope_scaling': kind, **{f'rope_{part}': rope[NAMES[part]] for part in SCALINGS[kind]}}


def write_config(model) -> dict:
    """The same keys, in the places that every version reads."""
    scaling = {'rope_type': model.rope_scaling} | {NAMES[part]: getattr(model, f'rope_{part}')
                                                   for part in SCALINGS.get(model.rope_scaling, ())}
    return {'num_key_value_heads': model.num_kv_heads or model.num_heads,
            'head_dim': model.head_width or model.width // model.num_heads, 'rope_theta': model.rope_base,
            **({} if model.rope_scaling == 'none' else {'rope_scaling': scaling})}


def family(name: str, model_type: str, **options) -> Family:
    """A decoder of this shape, with what the others have not."""
    return dataclasses.replace(LLAMA, model_type=model_type, architectures={
        f'{name}ForCausalLM': Architecture('model.', heads=HEAD), f'{name}Model': Architecture(heads=HEAD)}, **options)


def constant(**fields):
    """`read_config` with more fields, the same for all models of a family."""
    return lambda config: {**read_config(config), **fields}


LLAMA = Family(
    model='gpt.GPT', model_type='llama',
    architectures={'LlamaForCausalLM': Architecture('model.', heads=HEAD), 'LlamaModel': Architecture(heads=HEAD)},
    fields=(Field('vocab_size', 'vocab_size'), Field('max_position_embeddings', 'block_size', 2048),
            Field('hidden_size', 'width'), Field('num_hidden_layers', 'num_layers'), Field('num_attention_heads', 'num_heads'),
            Field('intermediate_size', 'mlp_width'), Field('hidden_act', 'hidden', 'silu', {'silu': 'swiglu'}),
            Field('rms_norm_eps', 'epsilon', 1e-6), Field('tie_word_embeddings', 'tie_head', False)),
    fixed={'attention_bias': (False,), 'mlp_bias': (False,), 'pretraining_tp': (1,)},
    read_config=read_config, write_config=write_config, rows=ROWS,
    tied={'lm_head.weight': 'embed_tokens.weight'}, ignored=(r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',))
FAMILIES = {
    'llama': LLAMA,
    'mistral': family('Mistral', 'mistral', fixed={}, read_config=lambda config: {
        **read_config(config), 'window': config.get('sliding_window') or 0},
        write_config=lambda model: {**write_config(model), 'sliding_window': model.window or None}),
    'qwen2': family('Qwen2', 'qwen2', fixed={'use_sliding_window': (False,)}, rows=(*ROWS, *BIASES),
                    read_config=constant(qkv_bias=True)),
    'qwen3': family('Qwen3', 'qwen3', fixed={'use_sliding_window': (False,), 'attention_bias': (False,)},
                    rows=(*ROWS, *QK_NORMS), read_config=constant(qk_norm=True)),
}
