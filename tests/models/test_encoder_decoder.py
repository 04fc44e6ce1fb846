"""Encoder-decoder Transformers: published sizes, torch's twin, relative positions, and the cache equal to the whole."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import contrasted, dense_to_torch, norm_to_torch, parameters

from bigjax.models.seq2seq import VARIANTS, EncoderDecoder
from bigjax.nn.relative import bucket
from tests.refused import refused

SMALL = {'vocab_size': 13, 'block_size': 16, 'num_layers': 2, 'num_heads': 4, 'width': 16, 'mlp_width': 24}
FAMILIES = {
    't5': {**SMALL, 'head_width': 6, 'relative_buckets': 8, 'relative_distance': 6},
    'transformer': {**SMALL, 'positions': 'sinusoidal', 'norm': 'layernorm', 'post_norm': True, 'bias': True,
                    'score_scale': 0.0, 'scale_embed': True, 'scale_head': False, 'epsilon': 1e-5},
}
SOURCE = np.random.default_rng(0).integers(1, 13, (3, 9)).astype(np.int32)
TARGET = np.random.default_rng(1).integers(1, 13, (3, 7)).astype(np.int32)
MASK = np.arange(9) < np.array([[9], [7], [4]])


@pytest.mark.parametrize(('variant', 'count'), [
    ('t5_small', 60_506_624), ('t5_base', 222_903_552), ('t5_large', 737_668_096), ('t5_v11_small', 76_961_152),
    ('t5_v11_base', 247_577_856), ('transformer_base', 63_082_496), ('transformer_big', 214_245_376)])
def test_parameter_counts(variant, count):
    tokens = jnp.zeros((1, 8), jnp.int32)
    assert parameters(EncoderDecoder(**VARIANTS[variant], scan=True), tokens, tokens) == count


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    """(model, variables, its jitted call)."""
    model = EncoderDecoder(**FAMILIES[request.param])
    variables = contrasted(model, SOURCE, TARGET)
    return model, variables, jax.jit(model.apply, static_argnames=('method', 'last'))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_cache_gives_the_logits_of_the_whole(family):
    """Prefill in two pieces, then token by token; the keys and values of the source are computed once."""
    model, variables, call = family
    expected = call(variables, SOURCE, TARGET, MASK)
    memory = call(variables, SOURCE, MASK, method='encode')
    cache, found = model.apply(variables, 3, 12, memory=memory, memory_mask=MASK, method='init_cache'), []
    for piece in np.split(np.arange(7), (2, 5, 6)):
        logits, cache = call(variables, TARGET[:, piece], cache=cache)
        found.append(logits)
    close(np.concatenate(found, 1), expected)
    assert int(cache.index) == 7 and cache.cross[0].key.shape == (3, 4, 9, model.head_width or 4)
    close(call(variables, SOURCE, TARGET, MASK, last=True), np.asarray(expected)[:, -1:])


def test_padding_changes_nothing(family):
    """A source shorter than its neighbours, by mask and by `pad`, has the logits that it has alone."""
    _, variables, call = family
    alone = call(variables, SOURCE[1:2, :7], TARGET[1:2])
    close(call(variables, SOURCE, TARGET, MASK)[1:2], alone)
    close(call(variables, np.where(MASK, SOURCE, 0), TARGET)[1:2], alone)


def test_the_target_is_seen_up_to_the_token(family):
    _, variables, call = family
    changed = np.where(np.arange(7) < 4, TARGET, (TARGET + 1) % 13)
    before, after = (np.asarray(call(variables, SOURCE, target)) for target in (TARGET, changed))
    close(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-2


def attention_to_torch(params, layer):
    """Copies query, key, value and out into a `torch.nn.MultiheadAttention`."""
    import torch
    parts = [params[name] for name in ('query', 'key', 'value')]
    layer.in_proj_weight.copy_(torch.tensor(np.concatenate([np.asarray(p['kernel']).T for p in parts])))
    layer.in_proj_bias.copy_(torch.tensor(np.concatenate([np.asarray(p['bias']) for p in parts])))
    dense_to_torch(params['out'], layer.out_proj)


def test_the_original_transformer_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = EncoderDecoder(**FAMILIES['transformer'])
    variables = contrasted(model, SOURCE, TARGET)
    params, table = variables['params'], np.asarray(variables['params']['token_embed']['embedding'])
    waves = [[f(t / 10000 ** (2 * i / 16)) for i in range(8) for f in (math.sin, math.cos)] for t in range(9)]
    embed = lambda tokens: torch.tensor(table[tokens] * 4 + np.array(waves, np.float32)[:tokens.shape[1]])
    with torch.no_grad():
        twin = torch.nn.Transformer(16, 4, 2, 2, 24, 0.0, 'relu', batch_first=True).eval()
        twin.encoder.norm = twin.decoder.norm = None
        for half, layers in (('encoder', twin.encoder.layers), ('decoder', twin.decoder.layers)):
            for i, layer in enumerate(layers):
                p = params[half][f'block_{i}']
                attention_to_torch(p['attn'], layer.self_attn)
                norm_to_torch(p['attn_norm'], layer.norm1)
                if half == 'decoder':
                    attention_to_torch(p['cross'], layer.multihead_attn)
                    norm_to_torch(p['cross_norm'], layer.norm2)
                dense_to_torch(p['mlp']['up'], layer.linear1)
                dense_to_torch(p['mlp']['down'], layer.linear2)
                norm_to_torch(p['mlp_norm'], layer.norm3 if half == 'decoder' else layer.norm2)
        hidden = torch.tensor(~MASK)
        future = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)
        y = twin(embed(SOURCE), embed(TARGET), tgt_mask=future, src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
        expected = (y @ torch.tensor(table).T).numpy()
    np.testing.assert_allclose(jax.jit(model.apply)(variables, SOURCE, TARGET, MASK), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('bidirectional', [True, False])
def test_relative_buckets(bidirectional):
    """Raffel et al. 2020 by hand: one bucket per distance for half of them, then by the logarithm, one offset at a time."""
    def expected(offset, buckets=32, distance=128):
        base = 0
        if bidirectional:
            buckets, base = buckets // 2, buckets // 2 if offset > 0 else 0
        far, exact = abs(offset) if bidirectional else max(-offset, 0), buckets // 2
        if far < exact:
            return base + far
        ratio = 16 if bidirectional else 8  # distance / exact, of which far / exact is a power
        assert ratio == distance // exact
        return base + min(buckets - 1, exact + math.floor(math.log2(far / exact) / math.log2(ratio) * (buckets - exact)))

    offsets = range(-200, 201)
    np.testing.assert_array_equal(bucket(jnp.arange(-200, 201), 32, 128, bidirectional), [expected(o) for o in offsets])


@pytest.mark.parametrize(('fields', 'code', 'name'), [
    ({'positions': 'learned'}, 'model/unknown-option', 'learned'), ({'num_heads': 3}, 'model/not-divisible', 'num_heads=3'),
    ({**FAMILIES['transformer'], 'block_size': 8}, 'model/too-long', 'block_size=8')])
def test_wrong_fields_are_the_users_error(fields, code, name):
    with refused(code, name):
        parameters(EncoderDecoder(**{**SMALL, **fields}), SOURCE, TARGET)
