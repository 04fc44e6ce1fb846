"""GPT-2 (Radford et al. 2019). Its matrices are [in, out] as ours; query, key and value stand side by side in one."""
from bigjax.weights.family import Architecture, Family, Field, Row

ACTIVATIONS = {'gelu_new': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh', 'gelu': 'gelu', 'relu': 'relu'}
NORM, DENSE = (('scale', 'weight'), ('bias', 'bias')), (('kernel', 'weight'), ('bias', 'bias'))
BLOCK = (
    *(Row(f'block_{{i}}/attn_norm/{ours}', f'h.{{i}}.ln_1.{theirs}') for ours, theirs in NORM),
    *(Row(tuple(f'block_{{i}}/attn/{part}/{ours}' for part in ('query', 'key', 'value')), f'h.{{i}}.attn.c_attn.{theirs}',
          'split') for ours, theirs in DENSE),
    *(Row(f'block_{{i}}/{ours}/{part}', f'h.{{i}}.{theirs}.{name}')
      for ours, theirs in (('attn/out', 'attn.c_proj'), ('mlp/up', 'mlp.c_fc'), ('mlp/down', 'mlp.c_proj'))
      for part, name in DENSE),
    *(Row(f'block_{{i}}/mlp_norm/{ours}', f'h.{{i}}.ln_2.{theirs}') for ours, theirs in NORM),
)
HEAD = (Row('head/kernel', 'lm_head.weight', 'transpose'),)
FAMILY = Family(
    model='gpt.GPT', model_type='gpt2',
    architectures={'GPT2LMHeadModel': Architecture('transformer.', heads=HEAD), 'GPT2Model': Architecture(heads=HEAD)},
    fields=(Field('vocab_size', 'vocab_size'), Field('n_positions', 'block_size', 1024), Field('n_embd', 'width'),
            Field('n_layer', 'num_layers'), Field('n_head', 'num_heads'),
            Field('activation_function', 'hidden', 'gelu_new', ACTIVATIONS), Field('layer_norm_epsilon', 'epsilon', 1e-5),
            Field('resid_pdrop', 'dropout', 0.1), Field('tie_word_embeddings', 'tie_head', True)),
    fixed={'scale_attn_weights': (True,), 'scale_attn_by_inverse_layer_idx': (False,), 'add_cross_attention': (False,)},
    read_config=lambda config: {'bias': True, 'mlp_width': config.get('n_inner') or 0},
    write_config=lambda model: {'n_inner': model.mlp_width or None, 'embd_pdrop': model.dropout, 'attn_pdrop': model.dropout},
    rows=(Row('token_embed/embedding', 'wte.weight'), Row('pos_embed/embedding', 'wpe.weight', cut=True), *BLOCK,
          Row('final_norm/scale', 'ln_f.weight'), Row('final_norm/bias', 'ln_f.bias')),
    tied={'lm_head.weight': 'wte.weight'},
    ignored=(r'h\.\d+\.attn\.(bias|masked_bias)',),
)
