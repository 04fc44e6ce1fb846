"""ViT: published parameter counts, a torch twin, and what it refuses."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, applied, dense_to_torch, init, norm_to_torch, size

from bigjax.models.vit import VARIANTS, ViT
from tests.refused import refused

TIMM = {'pool': 'token', 'positions': 'learned', 'pre_logits': False}


@pytest.mark.parametrize(('variant', 'options', 'count'), [
    ('s16', {}, 22_122_472),  # Beyer et al. 2022, their code
    ('ti16', TIMM, 5_717_416), ('s16', TIMM, 22_050_664), ('b16', TIMM, 86_567_656), ('l16', TIMM, 304_326_632),
    ('s16', {**TIMM, 'token_positions': False, 'layer_scale': 1e-6}, 22_059_496),  # DeiT III, as timm has it
    ('b16', {**TIMM, 'pool': 'attention', 'num_classes': 0}, 92_884_224)])  # the images of SigLIP, as timm has them
def test_parameter_counts(variant, options, count):
    model = ViT(**VARIANTS[variant], **options)
    assert size(abstract(model, jnp.zeros((1, 224, 224, 3)))['params']) == count


def test_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = ViT(num_classes=5, patch=4, width=12, num_layers=2, num_heads=3, **TIMM)
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 8, 12, 3)))
    params = init(model, x)['params']
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)

    def dense(p, y):
        layer = torch.nn.Linear(*p['kernel'].shape)
        dense_to_torch(p, layer)
        return layer(y)

    def norm(p, y):
        layer = torch.nn.LayerNorm(12, eps=1e-6)
        norm_to_torch(p, layer)
        return layer(y)

    kernel = np.asarray(params['patch_embed']['kernel']).reshape(4, 4, 3, 12)
    y = torch.nn.functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(kernel.transpose(3, 2, 0, 1)),
                                   torch.tensor(np.asarray(params['patch_embed']['bias'])), stride=4)
    y = y.flatten(2).transpose(1, 2)
    token = torch.tensor(np.asarray(params['class_token'])).expand(2, 1, 12)
    y = torch.cat([token, y], 1) + torch.tensor(np.asarray(params['pos_embed']))
    for i in range(2):
        block = params[f'block_{i}']
        h = norm(block['attn_norm'], y)
        q, k, v = (dense(block['attn'][n], h).reshape(2, -1, 3, 4).transpose(1, 2) for n in ('query', 'key', 'value'))
        h = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, -1, 12)
        y = y + dense(block['attn']['out'], h)
        h = torch.nn.functional.gelu(dense(block['mlp']['up'], norm(block['mlp_norm'], y)))
        y = y + dense(block['mlp']['down'], h)
    expected = dense(params['head'], norm(params['final_norm'], y)[:, 0]).detach().numpy()
    np.testing.assert_allclose(applied(model, {'params': params}, x, train=False), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('scan', [pytest.param(False, marks=pytest.mark.slow), True])
def test_stochastic_depth_leaves_out_residuals_of_examples(scan):
    """Of two blocks the first is always there and the second at a rate of 1/2 per residual; what stays is divided by 1/2."""
    plain = ViT(num_classes=3, patch=4, width=8, num_layers=2, num_heads=2, pre_logits=False, scan=scan)
    x = np.asarray(jax.random.normal(jax.random.key(0), (1, 8, 8, 3)))
    variables = init(plain, x)
    variables = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), variables)
    model, images = plain.clone(drop_path=0.5), np.repeat(x, 64, axis=0)
    out = np.asarray(applied(model, variables, images, train=True, rngs={'dropout': jax.random.key(1)}))
    found = {tuple(np.round(row, 4)) for row in out}
    assert len(found) == 4  # each of two residuals is there or not


@pytest.mark.parametrize(('options', 'code'), [
    ({'pool': 'token'}, 'model/unfit-options'), ({'pool': 'max'}, 'model/unknown-option'),
    ({'patch': 5}, 'model/not-divisible')])
def test_what_it_refuses(options, code):
    with refused(code, *map(str, options.values())):
        init(ViT(**{**VARIANTS['ti16'], 'num_layers': 1, **options}), jnp.zeros((1, 32, 32, 3)))
