"""Weights of ours as the state of a `transformers` model, by rows of (our path, their name); {i} is a block's number."""
import re

import jax
import numpy as np

NORM = {'scale': 'weight', 'bias': 'bias'}
LLAMA = (
    ('token_embed/embedding', 'model.embed_tokens.weight'), ('final_norm', 'model.norm'), ('head', 'lm_head'),
    ('block_{i}/attn/(query|key|value)_norm', r'model.layers.{i}.self_attn.\1_norm'),
    ('block_{i}/attn/out', 'model.layers.{i}.self_attn.o_proj'),
    ('block_{i}/attn/(query|key|value)', r'model.layers.{i}.self_attn.\1_proj'),
    ('block_{i}/mlp/(up|gate|down)', r'model.layers.{i}.mlp.\1_proj'),
    ('block_{i}/attn_norm', 'model.layers.{i}.input_layernorm'),
    ('block_{i}/mlp_norm', 'model.layers.{i}.post_attention_layernorm'))
GPT2 = (
    ('token_embed/embedding', 'transformer.wte.weight'), ('pos_embed/embedding', 'transformer.wpe.weight'),
    ('final_norm', 'transformer.ln_f'), ('block_{i}/attn_norm', 'transformer.h.{i}.ln_1'),
    ('block_{i}/mlp_norm', 'transformer.h.{i}.ln_2'), ('block_{i}/attn/(query|key|value)', r'transformer.h.{i}.attn.c_attn/\1'),
    ('block_{i}/attn/out', 'transformer.h.{i}.attn.c_proj'), ('block_{i}/mlp/up', 'transformer.h.{i}.mlp.c_fc'),
    ('block_{i}/mlp/down', 'transformer.h.{i}.mlp.c_proj'))


def bert(prefix: str) -> tuple:
    """Rows of BERT and RoBERTa, whose names begin with `prefix`."""
    layer = prefix + 'encoder.layer.{i}.'
    return (
        ('token_embed/embedding', f'{prefix}embeddings.word_embeddings.weight'),
        ('pos_embed/embedding', f'{prefix}embeddings.position_embeddings.weight'),
        ('type_embed/embedding', f'{prefix}embeddings.token_type_embeddings.weight'),
        ('embed_norm', f'{prefix}embeddings.LayerNorm'), ('pooler', f'{prefix}pooler.dense'),
        ('block_{i}/attn/(query|key|value)', layer + r'attention.self.\1'),
        ('block_{i}/attn/out', layer + 'attention.output.dense'),
        ('block_{i}/attn_norm', layer + 'attention.output.LayerNorm'),
        ('block_{i}/mlp/up', layer + 'intermediate.dense'), ('block_{i}/mlp/down', layer + 'output.dense'),
        ('block_{i}/mlp_norm', layer + 'output.LayerNorm'))


def bert_head(name: str, dense: str = 'dense', norm: str = 'layer_norm', bias: str = 'bias') -> tuple:
    """Rows of a masked-language head whose names begin with `name`."""
    return ('mlm/dense', name + dense), ('mlm/norm', name + norm), ('mlm/bias', name + bias)


def t5() -> tuple:
    """Rows of T5."""
    rows = [('token_embed/embedding', 'shared.weight'), ('head', 'lm_head')]
    for half, cross in (('encoder', 0), ('decoder', 1)):
        layer = half + '.block.{i}.layer.'
        mlp = f'{layer}{1 + cross}.'
        rows += [
            (f'{half}/relative/embedding', f'{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'),
            (f'{half}/final_norm', f'{half}.final_layer_norm'), (half + '/block_{i}/attn_norm', layer + '0.layer_norm'),
            (half + '/block_{i}/cross_norm', layer + '1.layer_norm'), (half + '/block_{i}/mlp_norm', mlp + 'layer_norm'),
            (half + '/block_{i}/mlp/gate', mlp + 'DenseReluDense.wi_0'),
            (half + '/block_{i}/mlp/down', mlp + 'DenseReluDense.wo')]
        for ours, theirs in (('query', 'q'), ('key', 'k'), ('value', 'v'), ('out', 'o')):
            rows += [(half + '/block_{i}/attn/' + ours, f'{layer}0.SelfAttention.{theirs}'),
                     (half + '/block_{i}/cross/' + ours, f'{layer}1.EncDecAttention.{theirs}')]
    return tuple(rows)


def t5_up(gated: bool) -> tuple:
    """Rows of the hidden layers' first product, which has another name beside a gate."""
    return tuple((half + '/block_{i}/mlp/up', f'{half}.block.{{i}}.layer.{place}.DenseReluDense.wi' + gated * '_1')
                 for half, place in (('encoder', 1), ('decoder', 2)))


DISTILBERT = (
    ('token_embed/embedding', 'distilbert.embeddings.word_embeddings.weight'),
    ('pos_embed/embedding', 'distilbert.embeddings.position_embeddings.weight'),
    ('embed_norm', 'distilbert.embeddings.LayerNorm'),
    ('block_{i}/attn/query', 'distilbert.transformer.layer.{i}.attention.q_lin'),
    ('block_{i}/attn/key', 'distilbert.transformer.layer.{i}.attention.k_lin'),
    ('block_{i}/attn/value', 'distilbert.transformer.layer.{i}.attention.v_lin'),
    ('block_{i}/attn/out', 'distilbert.transformer.layer.{i}.attention.out_lin'),
    ('block_{i}/attn_norm', 'distilbert.transformer.layer.{i}.sa_layer_norm'),
    ('block_{i}/mlp/up', 'distilbert.transformer.layer.{i}.ffn.lin1'),
    ('block_{i}/mlp/down', 'distilbert.transformer.layer.{i}.ffn.lin2'),
    ('block_{i}/mlp_norm', 'distilbert.transformer.layer.{i}.output_layer_norm'), ('pooler', 'pre_classifier'))
SHORT = {'query': 'q', 'key': 'k', 'value': 'v'}


def state(params, rows, transposed: bool = True) -> dict:
    """{their name: array} of a tree of ours.

    Args:
      rows: ((pattern of our path, their name), …); the first that matches a path whole, or all but its last part.
      transposed: kernels are [out, in]; GPT-2 has [in, out].
    """
    found, parts = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        ours, leaf = '/'.join(key.key for key in path), np.asarray(leaf)
        name = _name(ours, rows)
        leaf = leaf.T if transposed and ours.endswith('/kernel') else leaf
        if '/' in name:  # one of three that are side by side
            whole, _, rest = name.partition('/')
            part, _, kind = rest.partition('.')
            parts.setdefault(f'{whole}.{kind}', {})[part] = leaf
        else:
            found[name] = leaf
    return found | {name: np.concatenate([three[k] for k in ('query', 'key', 'value')], -1) for name, three in parts.items()}


def _name(ours: str, rows) -> str:
    for pattern, theirs in rows:
        for path, last in ((ours, ''), ours.rsplit('/', 1)):
            match = re.fullmatch(pattern.replace('{i}', r'(?P<i>\d+)'), path)
            if match:
                groups = [g for k, g in enumerate(match.groups(), 1) if k != match.re.groupindex.get('i')]
                name = theirs.replace('{i}', match.groupdict().get('i', ''))
                if groups:
                    short = SHORT if 'self_attn' in name else {}
                    name = name.replace(r'\1', short.get(groups[0], groups[0]))
                return name + (f".{'bias' if last == 'bias' else 'weight'}" if last else '')
    raise KeyError(ours)


def load(model, params, rows, transposed: bool = True, partial: bool = False):
    """Copies the parameters into a `transformers` model in evaluation mode; every parameter of both has a partner.

    Args:
      partial: theirs may have more, such as a head that is not compared.
    """
    import torch
    given = {name: torch.tensor(leaf) for name, leaf in state(params, rows, transposed).items()}
    missing, unexpected = model.load_state_dict(given, strict=False)
    every = model.state_dict()
    loaded = {every[name].data_ptr() for name in given if name in every}
    missing = [name for name in missing if every[name].data_ptr() not in loaded]
    assert not unexpected and (partial or not missing), (missing, unexpected)
    return model.eval()
