"""ResNets and Vision Transformers of timm, and the npz names of ViT-JAX and big_vision, on random numbers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.models.resnet import ResNet
from bigjax.models.vit import ViT
from bigjax.weights import npz_format
from bigjax.weights.match import resampled
from tests.refused import refused
from tests.weights.test_load import equal
from tests.weights.timm_models import logits, randomised, timm, written

IMAGE = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
BLOCKS, WIDTHS = {'blocks': (1, 2, 1, 1), 'stem_width': 64}, {'widths': (32, 32, 64, 32)}
VIT = {'img_size': 32, 'patch_size': 8, 'embed_dim': 24, 'depth': 2, 'num_heads': 2}
SMALL_VIT = {'image_size': 32, 'patch': 8, 'width': 24, 'num_layers': 2, 'num_heads': 2}


def resnet(block='Bottleneck', **options):
    from timm.models import resnet
    return resnet.ResNet(getattr(resnet, block), (1, 2, 1, 1), num_classes=7, channels=(32, 32, 64, 32), **options)


def resnet_v2(bit: bool, **options):
    import functools

    from timm.layers import BatchNormAct2d, GroupNormAct, StdConv2d, create_conv2d
    from timm.models import resnetv2
    kind = {'stem_type': 'fixed', 'conv_layer': functools.partial(StdConv2d, eps=1e-8),
            'norm_layer': functools.partial(GroupNormAct, num_groups=32)} if bit else {
        'conv_layer': create_conv2d, 'norm_layer': BatchNormAct2d}
    return resnetv2.ResNetV2((1, 2, 1, 1), (128, 128, 256, 128), 7, **kind, **options)


def vit(**options):
    from timm.models.vision_transformer import VisionTransformer
    return VisionTransformer(num_classes=7, **VIT, **options)


CASES = {  # name: (timm's architecture, its model, our fields)
    'resnet18': ('resnet18', lambda: resnet('BasicBlock'), {**BLOCKS, **WIDTHS}),
    'resnet50': ('resnet50', resnet, {**BLOCKS, **WIDTHS}),
    'group norm': ('resnet50_gn', lambda: resnet(norm_layer='groupnorm'), {**BLOCKS, **WIDTHS}),
    'resnext': ('resnext50_32x4d', lambda: resnet(cardinality=4, base_width=8),
                {**BLOCKS, **WIDTHS, 'groups': 4, 'group_width': 8}),
    'v2': ('resnetv2_50', lambda: resnet_v2(False), {**BLOCKS, **WIDTHS}),
    'bit': ('resnetv2_50x1_bit', lambda: resnet_v2(True), {**BLOCKS, **WIDTHS}),
    'vit': ('vit_small_patch16_224', vit, SMALL_VIT),
    'registers': ('vit_small_patch14_reg4_dinov2', lambda: vit(reg_tokens=4, no_embed_class=True, init_values=1e-5), SMALL_VIT),
    'attention pool': ('vit_small_patch16_siglip_224', lambda: vit(class_token=False, global_pool='map'), SMALL_VIT)}


@pytest.mark.parity
@pytest.mark.parametrize('name', CASES)
def test_logits_of_timm(name, tmp_path):
    timm()
    architecture, make, changes = CASES[name]
    theirs, lines = randomised(make()), []
    model, variables, _ = weights.load(written(theirs, architecture, tmp_path / 'theirs', num_classes=7), say=lines.append,
                                       **changes)
    expected = logits(theirs, IMAGE)
    found = jax.jit(lambda x: model.apply(variables, x, train=False))(IMAGE)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1 and not lines


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize('architecture', ['resnet50', 'vit_small_patch16_224'])
def test_logits_of_whole_models(architecture, tmp_path):
    theirs = randomised(timm().create_model(architecture))
    model, variables, _ = weights.load(written(theirs, architecture, tmp_path / 'theirs'))
    image = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    found = jax.jit(lambda x: model.apply(variables, x, train=False))(image)
    np.testing.assert_allclose(found, logits(theirs, image), atol=1e-4)


@pytest.mark.parity
def test_positions_of_another_resolution_are_those_of_timm():
    import torch
    timm()
    from timm.layers import resample_abs_pos_embed
    old = np.random.default_rng(0).normal(size=(1, 1 + 49, 6)).astype(np.float32)
    for side in (12, 4):
        expected = resample_abs_pos_embed(torch.from_numpy(old), (side, side), num_prefix_tokens=1).numpy()
        np.testing.assert_allclose(resampled(old, (1, 1 + side * side, 6)), expected, atol=2e-5)


def image_variables(model, size: int) -> dict:
    """Random numbers in every array of an image model."""
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract)


TOKEN = {'pool': 'token', 'positions': 'learned', 'pre_logits': False}


@pytest.mark.slow
@pytest.mark.parametrize('name, model', [
    ('resnet18', ResNet(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), block='basic', shortcut='conv', stem='7x7',
                        num_classes=7)),
    ('vit_tiny_patch16_224', ViT(7, width=192, num_layers=12, num_heads=3, **TOKEN))])
def test_there_and_back(name, model, tmp_path):
    ours = image_variables(model, 224)
    weights.save(model, ours, f'timm:{tmp_path}/x')
    assert f'"{name}"' in (tmp_path / 'x' / 'config.json').read_text()
    again, variables, _ = weights.load(f'timm:{tmp_path}/x')
    assert again == model and equal(variables, ours)


def test_positions_are_resampled_only_when_wanted(tmp_path):
    fields = {**SMALL_VIT, **TOKEN}
    model = ViT(7, **fields)
    weights.save(model, image_variables(model, 32), f'npz:{tmp_path}/small.npz')
    place, lines = f'npz:{tmp_path}/small.npz', []
    larger = ViT(7, **{**fields, 'image_size': 48})
    with refused('weights/resolution', '4 x 4', '6 x 6', 'resample_positions=True'):
        weights.load(place, image_size=48)
    _, variables, _ = weights.load(place, say=lines.append, image_size=48, resample_positions=True)
    assert variables['params']['pos_embed'].shape == (1, 37, 24) and 'pos_embed (4 x 4 to 6 x 6)' in lines[0]
    state = image_variables(larger, 48)
    with refused('weights/resolution'):
        weights.into(place, larger, state['params'], {})
    params, _ = weights.into(place, larger.clone(resample_positions=True), state['params'], {}, say=lines.append)
    np.testing.assert_array_equal(params['pos_embed'], variables['params']['pos_embed'])
    with refused('weights/shape', 'attn/key'):
        weights.load(place, image_size=48, width=12, num_heads=2, resample_positions=True)


@pytest.mark.parametrize('form', ['ViT-JAX', 'big_vision'])
def test_names_of_vit_jax(form, tmp_path):
    """The arrays of flax.linen's own layers: heads and the pixels of a patch are axes of their own."""
    old = form == 'ViT-JAX'
    pool = {'pool': 'token'} if old else {'pool': 'attention'}
    model = ViT(7, **{**SMALL_VIT, **TOKEN, **pool})
    ours = image_variables(model, 32)
    p, there = ours['params'], {}

    def put(name, array, *shape):
        there[('' if old else 'params/') + name] = np.asarray(array).reshape(shape or array.shape)

    def attention(name, layer):
        for part in ('query', 'key', 'value'):
            put(f'{name}/{part}/kernel', layer[part]['kernel'], 24, 2, 12)
            put(f'{name}/{part}/bias', layer[part]['bias'], 2, 12)
        put(f'{name}/out/kernel', layer['out']['kernel'], 2, 12, 24)
        put(f'{name}/out/bias', layer['out']['bias'])

    def both(name, layer):
        for key, array in layer.items():
            put(f'{name}/{key}', array)

    put('embedding/kernel', p['patch_embed']['kernel'], 8, 8, 3, 24)
    put('embedding/bias', p['patch_embed']['bias'])
    put('Transformer/posembed_input/pos_embedding' if old else 'pos_embedding', p['pos_embed'])
    for i in range(2):
        block, name = p[f'block_{i}'], f'Transformer/encoderblock_{i}'
        both(f'{name}/LayerNorm_0', block['attn_norm'])
        both(f'{name}/LayerNorm_{2 if old else 1}', block['mlp_norm'])
        attention(f'{name}/MultiHeadDotProductAttention_{int(old)}', block['attn'])
        for ours_name, dense in (('up', 'Dense_0'), ('down', 'Dense_1')):
            both(f'{name}/MlpBlock_{3 if old else 0}/{dense}', block['mlp'][ours_name])
    both('Transformer/encoder_norm', p['final_norm'])
    both('head', p['head'])
    if old:
        put('cls', p['class_token'])
    else:
        put('MAPHead_0/probe', p['pool']['probe'])
        attention('MAPHead_0/MultiHeadDotProductAttention_0', p['pool']['attn'])
        both('MAPHead_0/LayerNorm_0', p['pool']['mlp_norm'])
        both('MAPHead_0/MlpBlock_0/Dense_0', p['pool']['mlp']['up'])
        both('MAPHead_0/MlpBlock_0/Dense_1', p['pool']['mlp']['down'])
    np.savez(tmp_path / 'x.npz', **there)
    assert npz_format.read(tmp_path / 'x.npz')[0] is None
    _, variables, _ = weights.load(f'npz:{tmp_path}/x.npz', model=model)
    assert equal(variables, ours)


def test_a_program_of_cifar10_has_the_names_of_torchvision(tmp_path):
    """'linear' in the place of 'fc', and every name behind 'module' where it was trained on several devices."""
    model = ResNet(blocks=(1, 1), widths=(4, 8), num_classes=7)
    ours = image_variables(model, 32)
    p, stats, there = ours['params'], ours['batch_stats'], {}

    def conv_norm(conv, norm, layer, state, number):
        there[conv] = np.transpose(layer['stem' if number is None else f'conv_{number}']['kernel'], (3, 2, 0, 1))
        key = 'stem_norm' if number is None else f'norm_{number}'
        there.update({f'{norm}.weight': layer[key]['scale'], f'{norm}.bias': layer[key]['bias'],
                      f'{norm}.running_mean': state[key]['mean'], f'{norm}.running_var': state[key]['var'],
                      f'{norm}.num_batches_tracked': np.int64(3)})

    conv_norm('conv1.weight', 'bn1', p, stats, None)
    for i in range(2):
        for n in range(2):
            name = f'stage_{i}_block_0'
            conv_norm(f'layer{i + 1}.0.conv{n + 1}.weight', f'layer{i + 1}.0.bn{n + 1}', p[name], stats[name], n)
    there |= {'linear.weight': p['head']['kernel'].T, 'linear.bias': p['head']['bias']}
    for prefix in ('', 'module.'):
        np.savez(tmp_path / f'{prefix}x.npz', **{prefix + name: array for name, array in there.items()})
        assert equal(weights.load(f'npz:{tmp_path}/{prefix}x.npz', model=model)[1], ours)
