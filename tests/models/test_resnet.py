"""ResNets for small images: the published counts, torch twins in training and evaluation, shortcuts, statistics."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, applied, conv_to_torch, dense_to_torch, init, norm_to_torch, parameters, size

from bigjax.models.resnet import VARIANTS, ResNet, he_normal
from tests.refused import refused


@pytest.mark.parametrize('variant, channels, count', [
    ('resnet20', 3, 269_722), ('resnet20', 1, 269_434), ('resnet56', 3, 853_018), ('resnet110', 3, 1_727_962),
    ('random_erasing20', 1, 272_186), ('wrn28_10', 3, 36_479_194), ('wrn16_4', 3, 2_748_890)])
def test_parameter_counts(variant, channels, count):
    assert parameters(ResNet(**VARIANTS[variant]), jnp.zeros((1, 28, 28, channels))) == count


@pytest.mark.parametrize('variant, count', [
    ('resnet18', 11_689_512), ('resnet34', 21_797_672), ('resnet50', 25_557_032), ('resnet101', 44_549_160),
    ('resnet152', 60_192_808), ('resnet50_v1', 25_557_032), ('resnext50_32x4d', 25_028_904), ('wide_resnet50_2', 68_883_240),
    ('resnet50_gn', 25_557_032), ('resnet50_v2', 25_549_352), ('bit_r50x1', 25_549_352),
    ('bit_r50x3', 217_319_080), *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        ('bit_r101x1', 44_541_480), ('bit_r152x2', 236_335_208)))])
def test_parameter_counts_of_imagenet(variant, count):
    """As torchvision and timm have them."""
    assert parameters(ResNet(**VARIANTS[variant], num_classes=1000), jnp.zeros((1, 64, 64, 3))) == count


def test_from_depth_44_on_blocks_have_three_layers():
    assert VARIANTS['random_erasing32']['block'] == 'basic'
    params = abstract(ResNet(**VARIANTS['random_erasing44']), jnp.zeros((1, 28, 28, 1)))['params']
    assert params['head']['kernel'].shape == (256, 10)
    block = params['stage_1_block_0']
    shapes = [block[name]['kernel'].shape for name in ('conv_0', 'conv_1', 'conv_2', 'shortcut')]
    assert shapes == [(1, 1, 64, 32), (3, 3, 32, 32), (1, 1, 32, 128), (1, 1, 64, 128)]
    assert 'shortcut' in params['stage_0_block_0'] and 'shortcut' not in params['stage_1_block_1']
    assert sum(name.startswith('stage_1') for name in params) == 7


def test_three_blocks_of_64_channels():
    params = abstract(ResNet(blocks=(3,), widths=(64,)), jnp.zeros((1, 32, 32, 3)))['params']
    assert size(params) == 27 * 64 + 128 + 6 * (9 * 64 * 64 + 128) + 650


@pytest.mark.parametrize('block, shortcut, stem, train', [
    ('basic', 'pad', '3x3', True), ('basic', 'pad', '3x3', False), ('basic', 'conv', '3x3', True),
    ('bottleneck', 'conv', '3x3', True), ('bottleneck', 'conv', '3x3', False), ('bottleneck', 'conv', '7x7', True),
    ('basic', 'conv', '7x7', False)])
def test_equals_torch(block, shortcut, stem, train):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = ResNet(blocks=(1, 2), widths=(4, 6), block=block, shortcut=shortcut, stem=stem, num_classes=3)
    side = 8 if stem == '3x3' else 30
    x = np.random.default_rng(0).normal(size=(3, side, side, 2)).astype(np.float32)
    variables = init(model, x)
    params, stats = variables['params'], variables['batch_stats']
    norms = []

    def conv_norm(p, s, conv, norm, h, stride):
        kernel = p[conv]['kernel']
        layer = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[0], stride, kernel.shape[0] // 2,
                                bias=False)
        conv_to_torch(p[conv], layer)
        after = torch.nn.BatchNorm2d(kernel.shape[3]).train(train)
        norm_to_torch(p[norm], after, s[norm])
        norms.append(after)
        return after(layer(h))

    with torch.no_grad():
        h = conv_norm(params, stats, 'stem', 'stem_norm', torch.tensor(x).permute(0, 3, 1, 2), 1 if stem == '3x3' else 2).relu()
        if stem == '7x7':
            h = torch.nn.functional.max_pool2d(h, 3, 2, 1)
        for name, stride in (('stage_0_block_0', 1), ('stage_1_block_0', 2), ('stage_1_block_1', 1)):
            p, s = params[name], stats[name]
            strides = (stride, 1) if block == 'basic' else (1, stride, 1)
            y = h
            for i, step in enumerate(strides):
                y = conv_norm(p, s, f'conv_{i}', f'norm_{i}', y if i == 0 else y.relu(), step)
            if 'shortcut' in p:
                h = conv_norm(p, s, 'shortcut', 'shortcut_norm', h, stride)
            elif y.shape != h.shape:
                h = torch.nn.functional.pad(h[:, :, ::stride, ::stride], (0, 0, 0, 0, 1, 1))
            h = (h + y).relu()
        head = torch.nn.Linear(h.shape[1], 3)
        dense_to_torch(params['head'], head)
        expected = head(h.mean((2, 3))).numpy()
    out, state = jax.jit(lambda v: model.apply(v, x, train=train, mutable=['batch_stats']))(variables)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=2e-4)
    means = {round(float(n.running_mean.sum()), 3) for n in norms}
    ours = {round(float(leaf.sum()), 3) for path, leaf in jax.tree_util.tree_leaves_with_path(state['batch_stats'])
            if path[-1].key == 'mean'}
    assert len(ours) == len(norms)
    np.testing.assert_allclose(sorted(ours), sorted(means), atol=5e-3)


def test_kernels_start_with_hes_variance():
    kernel = he_normal(jax.random.key(0), (3, 3, 32, 64))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.03)


def test_a_population_is_its_members():
    model = ResNet(blocks=(1, 1), widths=(4, 6), num_classes=3)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    members = [init(model, x, seed=s) for s in range(2)]
    call = lambda v: model.apply(v, x, train=True, mutable=['batch_stats'])
    together = jax.jit(jax.vmap(call))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    alone = [jax.jit(call)(v) for v in members]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), together, expected)


def test_low_precision_keeps_float32_statistics():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    model = ResNet(blocks=(1,), widths=(4,), dtype='bfloat16')
    variables = init(model, x)
    out, state = jax.jit(lambda v: model.apply(v, x, train=True, mutable=['batch_stats']))(variables)
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, state)))


@pytest.mark.parametrize('fields, code, names', [
    ({'blocks': (1,)}, 'model/lengths', ('1', '3')), ({'shortcut': 'A'}, 'model/unknown-option', ("'A'",)),
    ({'block': 'deep'}, 'model/unknown-option', ("'deep'",)), ({'norm': 'layer'}, 'model/unknown-option', ("'layer'",)),
    ({'groups': 2}, 'model/unfit-options', ('groups=2',)), ({'dropout': 0.1}, 'model/unfit-options', ('dropout=0.1',))])
def test_wrong_fields_are_the_users_error(fields, code, names):
    with refused(code, *names):
        parameters(ResNet(**fields), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.slow
def test_blocks_that_start_as_the_identity():
    """With the last scale at zero a block of equal shapes is relu(x), and the gradient still reaches the scale."""
    model = ResNet(blocks=(2,), widths=(4,), zero_last=True, num_classes=3)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    variables = model.init(jax.random.key(0), x, train=False)
    head_only = ResNet(blocks=(0,), widths=(4,), num_classes=3)
    out = applied(model, variables, x, train=True, mutable=['batch_stats'])[0]
    np.testing.assert_allclose(out, applied(head_only, variables, x, train=True, mutable=['batch_stats'])[0], atol=1e-6)
    grads = jax.grad(lambda p: jnp.sum(jnp.square(model.apply(
        {**variables, 'params': p}, x, train=True, mutable=['batch_stats'])[0])))(variables['params'])
    scale = grads['stage_0_block_1']['norm_1']['scale']
    assert not variables['params']['stage_0_block_1']['norm_1']['scale'].any() and np.abs(scale).max() > 0
