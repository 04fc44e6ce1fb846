"""Encoders of text: published parameter counts, a torch twin, padding, packing, heads."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, contrasted, dense_to_torch, norm_to_torch, parameters, paths

from bigjax.models.bert import BERT, VARIANTS
from tests.refused import refused

SMALL = {'vocab_size': 13, 'block_size': 16, 'num_layers': 2, 'num_heads': 4, 'width': 16, 'mlp_width': 24}
TOKENS = np.random.default_rng(0).integers(0, 13, (3, 9)).astype(np.int32)
RIGHT = np.arange(9) < np.array([[9], [7], [4]])


@pytest.mark.parametrize(('variant', 'fields', 'count'), [
    ('bert_base', {'pool': 'cls'}, 109_482_240), ('bert_large', {'pool': 'cls'}, 335_141_888),
    ('bert_base', {'mlm': True}, 109_514_298), ('bert_base', {'pool': 'cls', 'num_classes': 2}, 109_483_778),
    ('roberta_base', {'pool': 'cls'}, 124_645_632), ('roberta_large', {'pool': 'cls'}, 355_359_744),
    ('roberta_base', {'mlm': True}, 124_697_433), ('distilbert_base', {}, 66_362_880),
    ('distilbert_base', {'mlm': True}, 66_985_530), ('minilm_l6', {'pool': 'cls'}, 22_713_216),
    ('minilm_l12', {'pool': 'cls'}, 33_360_000)])
def test_parameter_counts(variant, fields, count):
    assert parameters(BERT(**VARIANTS[variant], **fields, scan=True), jnp.zeros((1, 8), jnp.int32)) == count


def made(**fields):
    """(model, variables)."""
    model = BERT(**{**SMALL, **fields})
    return model, contrasted(model, TOKENS)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_equals_torch():
    """`torch.nn.TransformerEncoder` on the sum of the embeddings, with keys of padding left out."""
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model, variables = made()
    params, types = variables['params'], np.arange(9) % 4 // 2 * np.ones((3, 1), np.int32)
    tables = {name: np.asarray(params[name]['embedding']) for name in ('token_embed', 'pos_embed', 'type_embed')}
    x = torch.tensor(tables['token_embed'][TOKENS] + tables['pos_embed'][:9] + tables['type_embed'][types.astype(int)])
    with torch.no_grad():
        norm = torch.nn.LayerNorm(16, eps=1e-12)
        norm_to_torch(params['embed_norm'], norm)
        x = norm(x)
        for i in range(2):
            p = params[f'block_{i}']
            layer = torch.nn.TransformerEncoderLayer(16, 4, 24, 0.0, 'gelu', 1e-12, batch_first=True).eval()
            attn = [p['attn'][name] for name in ('query', 'key', 'value')]
            layer.self_attn.in_proj_weight.copy_(torch.tensor(np.concatenate([np.asarray(a['kernel']).T for a in attn])))
            layer.self_attn.in_proj_bias.copy_(torch.tensor(np.concatenate([np.asarray(a['bias']) for a in attn])))
            for ours, theirs in ((p['attn']['out'], layer.self_attn.out_proj), (p['mlp']['up'], layer.linear1),
                                 (p['mlp']['down'], layer.linear2)):
                dense_to_torch(ours, theirs)
            norm_to_torch(p['attn_norm'], layer.norm1)
            norm_to_torch(p['mlp_norm'], layer.norm2)
            x = layer(x, src_key_padding_mask=torch.tensor(~RIGHT))
    found = jax.jit(model.apply)(variables, TOKENS, RIGHT, types=types.astype(np.int32))
    np.testing.assert_allclose(np.asarray(found)[RIGHT], x.numpy()[RIGHT], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('fields', [{}, {'first_position': 2, 'type_vocab': 1}], ids=['bert', 'roberta'])
def test_padding_and_packing_change_nothing(fields):
    model, variables = made(**fields)
    call, texts = jax.jit(model.apply), (TOKENS[0, :5], TOKENS[1, :4])
    alone = [call(variables, text[None])[0] for text in texts]
    padded = call(variables, np.stack([texts[0], [*texts[1], 7]]), np.arange(5) < np.array([[5], [4]]))
    packed = call(variables, np.concatenate(texts)[None], segments=np.repeat([[1, 2]], (5, 4), axis=1))[0]
    for first, second in ((padded[0], padded[1, :4]), (packed[:5], packed[5:])):
        close(first, alone[0])
        close(second, alone[1])
    if fields:  # counted positions stand the padding on the left, too
        left = call(variables, np.stack([texts[0], [7, *texts[1]]]), np.arange(5) >= np.array([[0], [1]]))
        close(left[1, 1:], alone[1])


@pytest.mark.parametrize(('fields', 'shape', 'more'), [
    ({}, (3, 9, 16), set()), ({'pool': 'cls'}, (3, 16), {'pooler'}), ({'pool': 'mean'}, (3, 16), set()),
    ({'num_classes': 2}, (3, 9, 2), {'head'}), ({'pool': 'cls', 'num_classes': 5}, (3, 5), {'pooler', 'head'}),
    ({'pool': 'mean', 'num_classes': 5}, (3, 5), {'head'}), ({'mlm': True}, (3, 9, 13), {'mlm'})])
def test_heads(fields, shape, more):
    model = BERT(**SMALL, **fields)
    names = {path.partition('/')[0] for path in paths(abstract(model, TOKENS)['params'])}
    assert names == {'token_embed', 'pos_embed', 'type_embed', 'embed_norm', 'block_0', 'block_1'} | more
    assert jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), TOKENS)[0]).shape == shape


def test_the_mean_is_of_tokens_that_count():
    model, variables = made(pool='mean')
    hidden = jax.jit(BERT(**SMALL).apply)(variables, TOKENS, RIGHT)
    expected = [row[:length].mean(0) for row, length in zip(np.asarray(hidden), (9, 7, 4), strict=True)]
    close(jax.jit(model.apply)(variables, TOKENS, RIGHT), expected)


@pytest.mark.parametrize(('fields', 'code', 'name'), [
    ({'block_size': 8}, 'model/too-long', 'block_size=8'), ({'num_heads': 3}, 'model/not-divisible', 'num_heads=3'),
    ({'pool': 'max'}, 'model/unknown-option', 'max'), ({'mlm': True, 'pool': 'cls'}, 'model/unfit-options', 'cls')])
def test_wrong_fields_are_the_users_error(fields, code, name):
    with refused(code, name):
        parameters(BERT(**{**SMALL, **fields}), TOKENS)
