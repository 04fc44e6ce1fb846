"""The decoder's other forms: Llama's published sizes and a Hugging Face twin, layers stacked, experts, chunked loss."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_helpers import abstract, applied, init, size

from bigjax.models.gpt import GPT, VARIANTS
from bigjax.nn import stacking
from bigjax.nn.moe import route
from tests.refused import refused

SMALL = dict(vocab_size=11, block_size=8, num_layers=2, num_heads=4, width=16)
LLAMA = dict(SMALL, norm='rmsnorm', hidden='swiglu', rope_base=10000.0, tie_head=False, num_kv_heads=2, mlp_width=24)
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 8)).astype(np.int32)


@pytest.mark.parametrize(('variant', 'count', 'scan'), [
    ('llama2_7b', 6_738_415_616, False), ('llama2_7b', 6_738_415_616, True), ('llama2_70b', 68_976_648_192, True)])
def test_parameter_counts(variant, count, scan):
    assert size(abstract(GPT(**VARIANTS[variant], scan=scan), jnp.zeros((1, 8), jnp.int32))['params']) == count


def llama_torch(params, tokens, torch):
    """Touvron et al. 2023 in plain torch: rotations as complex numbers, each key head repeated."""
    get = lambda *path: torch.tensor(np.asarray(jax.tree.reduce(lambda _, x: x, _at(params, path))))
    rms = lambda y, scale: y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-5) * scale
    T = tokens.shape[1]
    angle = torch.outer(torch.arange(T).float(), 10000.0 ** (-torch.arange(0, 4, 2).float() / 4))
    turn = torch.polar(torch.ones_like(angle), angle)

    def rope(y):  # [B, T, H, D], the pair (i, i + D/2) is one complex number
        z = torch.complex(y[..., :2], y[..., 2:]) * turn[:, None]
        return torch.cat([z.real, z.imag], -1)

    x = get('token_embed', 'embedding')[torch.tensor(tokens).long()]
    for i in range(2):
        b = f'block_{i}'
        h = rms(x, get(b, 'attn_norm', 'scale'))
        q, k, v = ((h @ get(b, 'attn', n, 'kernel')).reshape(3, T, -1, 4) for n in ('query', 'key', 'value'))
        q, k, v = rope(q), rope(k).repeat_interleave(2, 2), v.repeat_interleave(2, 2)
        h = torch.nn.functional.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), is_causal=True)
        x = x + h.transpose(1, 2).reshape(3, T, 16) @ get(b, 'attn', 'out', 'kernel')
        h = rms(x, get(b, 'mlp_norm', 'scale'))
        h = torch.nn.functional.silu(h @ get(b, 'mlp', 'gate', 'kernel')) * (h @ get(b, 'mlp', 'up', 'kernel'))
        x = x + h @ get(b, 'mlp', 'down', 'kernel')
    return rms(x, get('final_norm', 'scale')) @ get('head', 'kernel')


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def test_llama_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    params = init(GPT(**LLAMA), TOKENS)['params']
    params = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    out = applied(GPT(**LLAMA), {'params': params}, TOKENS, train=False)
    np.testing.assert_allclose(out, llama_torch(params, TOKENS, torch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('fields', 'remat'), [
    pytest.param(SMALL, 'none', marks=pytest.mark.slow), (LLAMA, 'dots'),
    pytest.param(dict(SMALL, experts=4), 'full', marks=pytest.mark.slow),
    pytest.param(SMALL, 'named', marks=pytest.mark.slow)], ids=['gpt', 'llama', 'moe', 'named'])
def test_stacked_layers_and_remat_change_nothing(fields, remat):
    params = init(GPT(**fields), TOKENS)['params']

    def value(model, params):
        def loss(params):
            out, sown = model.apply({'params': params}, TOKENS, train=True, mutable=['losses'])
            return jnp.sum(jnp.sin(out)) + sum(jnp.sum(x) for x in jax.tree.leaves(sown))
        return jax.jit(jax.value_and_grad(loss))(params)

    a, da = value(GPT(**fields), params)
    b, db = value(GPT(**fields, scan=True, remat=remat), stacking.stack(params))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5), da, stacking.unstack(db))


@pytest.mark.parametrize(('tie_head', 'chunk'), [(False, 5), (True, 24), (True, 100)])
def test_the_chunked_loss_is_the_loss_of_the_logits(tie_head, chunk):
    model = GPT(**SMALL, tie_head=tie_head, chunk=chunk)
    params, targets = init(model, TOKENS)['params'], np.roll(TOKENS, -1, 1)

    def whole(params):
        logits = model.apply({'params': params}, TOKENS, train=False)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return nats.mean(), (nats, jnp.argmax(logits, -1) == targets)

    def chunked(params):
        out = model.apply({'params': params}, TOKENS, targets, train=False)
        return out['nats'].mean(), (out['nats'], out['hits'])

    one, other = (jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (whole, chunked))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_routing_against_a_loop():
    """First choices take their places before second ones, in the order of the tokens, up to the capacity."""
    p = np.asarray(jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 7, 3))))
    dispatch, combine, share = (np.asarray(x) for x in route(jnp.asarray(p), 2, 3))
    for b in range(2):
        order, taken = np.argsort(-p[b], axis=-1), [0, 0, 0]
        expected = np.zeros((7, 3, 3))
        for k in range(2):
            for t in range(7):
                e = order[t, k]
                if taken[e] < 3:
                    expected[t, e, taken[e]] = p[b, t, e] / p[b, t, order[t, :2]].sum()
                taken[e] += 1
        np.testing.assert_allclose(combine[b], expected, rtol=1e-5)
        np.testing.assert_array_equal(dispatch[b], expected > 0)
        np.testing.assert_allclose(share[b], np.bincount(order[:, 0], minlength=3) / 7, rtol=1e-6)


@pytest.mark.parametrize(('fields', 'code', 'names'), [
    ({'remat': 'some'}, 'model/unknown-option', ('some', 'full')), ({'norm': 'batch'}, 'model/unknown-option', ('layernorm',)),
    ({'hidden': 'tanh'}, 'model/unknown-option', ('swiglu',)),
    ({'num_kv_heads': 3}, 'model/not-divisible', ('num_kv_heads=3',)),
    ({'experts': 2, 'top_k': 3}, 'model/unknown-option', ('3', '2'))])
def test_what_it_refuses(fields, code, names):
    with refused(code, *names):
        init(GPT(**{**SMALL, **fields}), TOKENS)
