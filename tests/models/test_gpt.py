"""GPT: published parameter counts, a torch twin, causality, initial scales."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, applied, dense_to_torch, init, norm_to_torch, parameters, paths, size

from bigjax.models.gpt import GPT, VARIANTS
from tests.refused import refused

SMALL = {'vocab_size': 11, 'block_size': 8, 'num_layers': 2, 'num_heads': 2, 'width': 12}
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 8)).astype(np.int32)


@pytest.mark.parametrize('variant, count, positions', [
    ('shakespeare_cpu', 804_096, 64 * 128),
    ('shakespeare', 10_745_088, 10_745_088 - 10_646_784),
    ('gpt2', 124_439_808, 1024 * 768),
    ('gpt2_medium', 354_823_168, 1024 * 1024),
    ('gpt2_xl', 1_557_611_200, 1024 * 1600),
])
def test_parameter_counts(variant, count, positions):
    params = abstract(GPT(**VARIANTS[variant]), jnp.zeros((1, 8), jnp.int32))['params']
    assert size(params) == count
    assert size(params['pos_embed']) == positions


def test_paths():
    params = abstract(GPT(**SMALL, bias=True, tie_head=False), TOKENS)['params']
    block = {f'{a}/{b}' for a in ('attn_norm', 'mlp_norm') for b in ('scale', 'bias')}
    block |= {f'{a}/{b}' for a in ('attn/query', 'attn/key', 'attn/value', 'attn/out', 'mlp/up', 'mlp/down')
              for b in ('kernel', 'bias')}
    expected = {f'block_{i}/{name}' for i in range(2) for name in block}
    expected |= {'token_embed/embedding', 'pos_embed/embedding', 'final_norm/scale', 'final_norm/bias', 'head/kernel'}
    assert paths(params) == expected
    tied = parameters(GPT(**SMALL, bias=True), TOKENS)
    assert size(params) - tied == 11 * 12


def torch_gpt(params, tokens, heads, torch):
    """A pre-norm block with `torch.nn.MultiheadAttention` as published by OpenAI."""
    def norm(p, x):
        layer = torch.nn.LayerNorm(x.shape[-1], bias='bias' in p)
        norm_to_torch(p, layer)
        return layer(x)

    def dense(p, x):
        kernel = p['kernel']
        layer = torch.nn.Linear(*kernel.shape, bias='bias' in p)
        dense_to_torch(p, layer)
        return layer(x)

    T = tokens.shape[1]
    embedding = torch.tensor(np.array(params['token_embed']['embedding']))
    x = embedding[torch.tensor(tokens).long()] + torch.tensor(np.array(params['pos_embed']['embedding']))[:T]
    future = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)
    for i in range(2):
        block = params[f'block_{i}']
        p = block['attn']
        bias = 'bias' in p['query']
        attn = torch.nn.MultiheadAttention(x.shape[-1], heads, bias=bias, batch_first=True)
        attn.in_proj_weight.data = torch.tensor(
            np.concatenate([np.array(p[name]['kernel']).T for name in ('query', 'key', 'value')]))
        if bias:
            attn.in_proj_bias.data = torch.tensor(
                np.concatenate([np.array(p[name]['bias']) for name in ('query', 'key', 'value')]))
        dense_to_torch(p['out'], attn.out_proj)
        h = norm(block['attn_norm'], x)
        x = x + attn(h, h, h, attn_mask=future, need_weights=False)[0]
        h = torch.nn.functional.gelu(dense(block['mlp']['up'], norm(block['mlp_norm'], x)), approximate='tanh')
        x = x + dense(block['mlp']['down'], h)
    x = norm(params['final_norm'], x)
    return x @ embedding.T if 'head' not in params else dense(params['head'], x)


@pytest.mark.parametrize('bias, tie_head', [(True, True), (False, False)])
def test_equals_torch(bias, tie_head):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = GPT(**SMALL, bias=bias, tie_head=tie_head)
    variables = init(model, TOKENS)
    out = jax.jit(lambda v: model.apply(v, TOKENS, train=False))(variables)
    with torch.no_grad():
        expected = torch_gpt(variables['params'], TOKENS, 2, torch).numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5)


def test_the_written_out_attention_of_dropout_is_the_same_attention():
    """At a rate too small to drop anything, dropout's path gives the other path's numbers."""
    variables = init(GPT(**SMALL), TOKENS)
    dropped = jax.jit(lambda v: GPT(**SMALL, dropout=1e-9).apply(
        v, TOKENS, train=True, rngs={'dropout': jax.random.key(0)}))(variables)
    plain = jax.jit(lambda v: GPT(**SMALL).apply(v, TOKENS, train=True))(variables)
    np.testing.assert_allclose(dropped, plain, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    model = GPT(**SMALL, dropout=0.5)
    variables = init(model, TOKENS)
    call = jax.jit(lambda v, key: model.apply(v, TOKENS, train=True, rngs={'dropout': key}))
    assert not np.allclose(call(variables, jax.random.key(0)), call(variables, jax.random.key(1)))
    np.testing.assert_array_equal(applied(model, variables, TOKENS, train=False),
                                  applied(GPT(**SMALL), variables, TOKENS, train=False))


@pytest.mark.parametrize('dropout', [0.0, 1e-9])
def test_sees_only_the_past(dropout):
    model = GPT(**SMALL, dropout=dropout)
    variables = init(model, TOKENS)
    changed = TOKENS.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    call = jax.jit(lambda t: model.apply(variables, t, train=True, rngs={'dropout': jax.random.key(0)}))
    before, after = call(TOKENS), call(changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not np.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.mark.slow
def test_initial_scales():
    model = GPT(vocab_size=200, block_size=64, num_layers=8, num_heads=2, width=64, bias=True)
    window = jnp.zeros((1, 4), jnp.int32)
    params = jax.jit(lambda key: model.init(key, window, train=False))(jax.random.key(0))['params']
    residual = 0.02 / math.sqrt(16)
    for leaf, expected in ((params['token_embed']['embedding'], 0.02), (params['pos_embed']['embedding'], 0.02),
                           (params['block_0']['attn']['query']['kernel'], 0.02),
                           (params['block_0']['mlp']['up']['kernel'], 0.02),
                           (params['block_7']['attn']['out']['kernel'], residual),
                           (params['block_7']['mlp']['down']['kernel'], residual)):
        assert abs(float(leaf.std()) / expected - 1) < 0.06
    assert not params['block_0']['mlp']['up']['bias'].any()


@pytest.mark.parametrize('fields, code', [({'block_size': 4}, 'model/too-long'), ({'num_heads': 5}, 'model/not-divisible')])
def test_wrong_fields_are_the_users_error(fields, code):
    with refused(code, *(f'{key}={value}' for key, value in fields.items())):
        parameters(GPT(**{**SMALL, **fields}), TOKENS)


@pytest.mark.parametrize('dropout', [0.0, 1e-9])
def test_low_precision(dropout):
    model = GPT(**SMALL, dtype='bfloat16', dropout=dropout)
    variables = init(model, TOKENS)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    out = jax.jit(lambda v: model.apply(v, TOKENS, train=True, rngs={'dropout': jax.random.key(0)}))(variables)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), applied(GPT(**SMALL), variables, TOKENS, train=False), atol=0.05)


def test_a_population_is_its_members():
    model = GPT(**SMALL)
    members = [init(model, TOKENS, seed=s) for s in range(2)]
    together = jax.jit(jax.vmap(lambda v: model.apply(v, TOKENS, train=False)))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    for one, variables in zip(together, members, strict=True):
        np.testing.assert_allclose(one, applied(model, variables, TOKENS, train=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('remat', 'scan', 'least', 'most'), [
    ('none', True, 0.9, 1.1), pytest.param('full', True, 0.9, 1.1, marks=pytest.mark.slow),
    pytest.param('none', False, 2.2, 4, marks=pytest.mark.slow)])  # the control: layer by layer it grows as the layers do
def test_stacked_layers_are_compiled_once_whatever_the_depth(remat, scan, least, most):
    def instructions(depth):
        model = GPT(**{**SMALL, 'num_layers': depth}, scan=scan, remat=remat)
        params = abstract(model, TOKENS)['params']
        loss = lambda params: jnp.sum(model.apply({'params': params}, TOKENS, train=False)**2)
        return jax.jit(jax.grad(loss)).lower(params).compile().as_text().count(' = ')

    assert least < instructions(6) / instructions(2) < most
