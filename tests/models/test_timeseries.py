"""FCN, ResNet and TCN for series: the published parameter counts, and torch twins in training and evaluation."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, conv_to_torch, dense_to_torch, init, norm_to_torch, parameters

from bigjax.models.timeseries import FCN, TCN, VARIANTS, ResNet1D


@pytest.mark.parametrize('model, count', [
    (FCN(**VARIANTS['fcn']), 264_962),
    (FCN(num_classes=7), 264_962 + 5 * 129),
    (ResNet1D(**VARIANTS['resnet']), 504_258),
    (ResNet1D(num_classes=3), 504_258 + 129),
    (TCN(**VARIANTS['tcn_mnist']), 66_910),
])
def test_parameter_counts(model, count):
    assert parameters(model, jnp.zeros((2, 24))) == count


def twin(params, stats, prefix, width, channels, size, torch):
    """conv -> norm as torch layers; Keras pads an even kernel on the right."""
    pad = torch.nn.ConstantPad1d(((size - 1) // 2, size // 2), 0.0)
    conv, norm = torch.nn.Conv1d(channels, width, size), torch.nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)
    conv_to_torch(params[f'conv_{prefix}'], conv)
    norm_to_torch(params[f'norm_{prefix}'], norm, stats[f'norm_{prefix}'])
    return torch.nn.Sequential(pad, conv, norm)


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('fields, cls', [
    ({'channels': (6, 5, 4), 'kernels': (8, 5, 3)}, FCN), ({'channels': (6, 4, 4), 'kernels': (8, 5, 3)}, ResNet1D)])
def test_equals_torch(fields, cls, train):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = cls(**fields, num_classes=3)
    x = np.random.default_rng(0).normal(size=(5, 12, 2)).astype(np.float32)
    variables = init(model, x)
    params, stats = variables['params'], variables['batch_stats']
    h = torch.tensor(x).permute(0, 2, 1)
    norms = {}
    with torch.no_grad():
        if cls is FCN:
            for i, (width, size) in enumerate(zip(*fields.values(), strict=True)):
                layer = twin(params, stats, i, width, h.shape[1], size, torch).train(train)
                h = layer(h).relu()
                norms[f'norm_{i}'] = layer[-1]
        else:
            for b, width in enumerate(fields['channels']):
                p, s = params[f'block_{b}'], stats[f'block_{b}']
                y = h
                for i, size in enumerate(fields['kernels']):
                    y = twin(p, s, i, width, y.shape[1], size, torch).train(train)(y if i == 0 else y.relu())
                assert ('shortcut' in p) == (b < 2), 'only blocks that change the channels project'
                if 'shortcut' in p:
                    project = torch.nn.Conv1d(h.shape[1], width, 1)
                    conv_to_torch(p['shortcut'], project)
                    h = project(h)
                norm = torch.nn.BatchNorm1d(width, eps=1e-3, momentum=0.01).train(train)
                norm_to_torch(p['shortcut_norm'], norm, s['shortcut_norm'])
                h = (y + norm(h)).relu()
        head = torch.nn.Linear(h.shape[1], 3)
        dense_to_torch(params['head'], head)
        expected = head(h.mean(-1)).numpy()
    out, state = jax.jit(lambda v: model.apply(v, x, train=train, mutable=['batch_stats']))(variables)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    if not train:
        jax.tree.map(np.testing.assert_array_equal, state['batch_stats'], stats)
    for name, norm in norms.items():
        ours, before = state['batch_stats'][name], stats[name]
        np.testing.assert_allclose(ours['mean'], norm.running_mean.numpy(), rtol=1e-4, atol=1e-6)
        if train:  # torch keeps n/(n-1) of the batch's variance, Keras the variance itself
            n = x.shape[0] * x.shape[1]
            batch = (norm.running_var.numpy() - 0.99 * np.array(before['var'])) / 0.01 * (n - 1) / n
            np.testing.assert_allclose(ours['var'], 0.99 * before['var'] + 0.01 * batch, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_low_precision_keeps_float32_statistics():
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    model = FCN(channels=(8, 8), kernels=(5, 3), dtype='bfloat16')
    variables = init(model, x)
    out, state = applied(model, variables, x, train=True, mutable=['batch_stats'])
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, state)))
    full = applied(FCN(channels=(8, 8), kernels=(5, 3)), variables, x, train=True, mutable=['batch_stats'])[0]
    np.testing.assert_allclose(out.astype(np.float32), full, atol=0.05)


def test_tcn_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    weight_norm = torch.nn.utils.parametrizations.weight_norm
    model = TCN(channels=4, levels=3, kernel=3, num_classes=5)
    x = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    params = init(model, x)['params']
    h = torch.tensor(x).permute(0, 2, 1)
    with torch.no_grad():
        for i in range(3):
            y, block = h, params[f'block_{i}']
            for j in range(2):
                p, padding = block[f'conv_{j}'], 2 * 2 ** i
                layer = weight_norm(torch.nn.Conv1d(y.shape[1], 4, 3, padding=padding, dilation=2 ** i))
                layer.parametrizations.weight.original0.copy_(torch.tensor(np.array(p['scale']))[:, None, None])
                layer.parametrizations.weight.original1.copy_(torch.tensor(np.array(p['kernel']).transpose(2, 1, 0)))
                layer.bias.copy_(torch.tensor(np.array(p['bias'])))
                y = layer(y)[..., :-padding].relu()
            assert ('shortcut' in block) == (i == 0)
            if i == 0:
                shortcut = torch.nn.Linear(2, 4)
                dense_to_torch(block['shortcut'], shortcut)
                h = shortcut(h.permute(0, 2, 1)).permute(0, 2, 1)
            h = (h + y).relu()
        head = torch.nn.Linear(4, 5)
        dense_to_torch(params['head'], head)
        expected = head(h[..., -1]).numpy()
    np.testing.assert_allclose(applied(model, {'params': params}, x, train=False), expected, rtol=1e-4, atol=1e-5)


def test_kernels_of_a_tcn_start_at_their_own_length():
    model, x = TCN(channels=4, levels=1, kernel=3), jnp.ones((1, 5))
    for p in model.init(jax.random.key(0), x, train=False)['params']['block_0'].values():
        if 'scale' in p:
            np.testing.assert_allclose(p['scale'], np.linalg.norm(p['kernel'].reshape(-1, 4), axis=0), rtol=1e-6)
