"""MobileNetV2 and V3 and EfficientNet in the names of timm, of torchvision (MobileNetV2) and of efficientnet_pytorch's layout.

All three have the blocks of `bigjax.nn.inverted_residual`, of which timm counts stages and blocks, and the others blocks alone.
"""
import jax.numpy as jnp

from bigjax.models import efficientnet, mobilenet
from bigjax.weights.family import Architecture, Family, Field, Row
from bigjax.weights.rows import COUNTERS, batch_norm, conv, dense

HEAD = dense('head', 'classifier')
TF = {'padding': 'same', 'epsilon': 1e-3}
TORCH = {'padding': 'symmetric', 'epsilon': 1e-5}


def layer(ours: str, conv_name: str, norm_name: str, beside: str = '') -> tuple[Row, ...]:
    """The arrays of a convolution and of the batch norm after it."""
    return *conv(ours, conv_name, beside=beside), *batch_norm(f'{ours}_norm', norm_name, beside)


def block(ours: str, theirs: str, names, reduce: str = '', expand: str = '') -> tuple[Row, ...]:
    """The arrays of a block: `names` are the convolution and norm of 'expand', 'depthwise', 'project', of the first where the
    path of it is beside, and `names[3:]` those of the last two in a block without an expansion.
    """
    wide = f'{ours}/expand/kernel'
    found = [row for part, (c, n) in zip(('expand', 'depthwise', 'project'), names, strict=False)
             for row in layer(f'{ours}/{part}', f'{theirs}.{c}', f'{theirs}.{n}', wide)]
    found += [row for part, (c, n) in zip(('depthwise', 'project'), names[3:], strict=False)
              for row in layer(f'{ours}/{part}', f'{theirs}.{c}', f'{theirs}.{n}')]
    for part, name in (('reduce', reduce), ('expand', expand)) if reduce else ():
        found += dense(f'{ours}/se/{part}', f'{theirs}.{name}', 'pointwise')
    return tuple(found)


TIMM_BLOCK = (('conv_pw', 'bn1'), ('conv_dw', 'bn2'), ('conv_pwl', 'bn3'), ('conv_dw', 'bn1'), ('conv_pw', 'bn2'))
TRUNK = (*layer('stem', 'conv_stem', 'bn1'),
         *block('stage_{i}_block_{j}', 'blocks.{i}.{j}', TIMM_BLOCK, 'se.conv_reduce', 'se.conv_expand'))
IMAGE = {'inputs': lambda model: (jnp.zeros((1, 64, 64, 3)),), 'ignored': (COUNTERS,)}
CLASSES = Field('num_classes', 'num_classes', 1000)


def architectures(sizes: dict) -> dict[str, Architecture]:
    """{name in timm: the architecture}, each as torch and as TensorFlow pads it."""
    return {f'{prefix}{name}': Architecture(fields={**fields, **pads}, heads=HEAD)
            for prefix, pads in (('tf_', TF), ('', TORCH)) for name, fields in sizes.items()}


V2 = [(i, j) for i, (row,) in enumerate(mobilenet.V2) for j in range(row[4])]  # (stage, block) of torchvision's features.1 …
B0 = [(i, j) for i, row in enumerate(efficientnet.B0) for j in range(row[4])]  # and of _blocks.0 …
VISION_BLOCK = (('conv.0.0', 'conv.0.1'), ('conv.1.0', 'conv.1.1'), ('conv.2', 'conv.3'), ('conv.0.0', 'conv.0.1'),
                ('conv.1', 'conv.2'))
FLAT_BLOCK = (('_expand_conv', '_bn0'), ('_depthwise_conv', '_bn1'), ('_project_conv', '_bn2'), ('_depthwise_conv', '_bn1'),
              ('_project_conv', '_bn2'))
V3 = {f'mobilenetv3_{size}_100': mobilenet.VARIANTS[f'v3_{size}'] for size in ('large', 'small')}
FAMILIES = {
    'mobilenetv2': Family(
        'mobilenet.MobileNet', 'timm',
        {'mobilenetv2_100': Architecture(fields={**mobilenet.VARIANTS['v2'], **TORCH}, heads=HEAD)}, (CLASSES,),
        rows=(*TRUNK, *layer('last', 'conv_head', 'bn2')), suits=lambda model: not model.pre_logits, **IMAGE),
    'mobilenetv3': Family(
        'mobilenet.MobileNet', 'timm', architectures(V3), (CLASSES,),
        rows=(*TRUNK, *(row for i, size in ((6, 'large'), (5, 'small')) for row in layer(
            'last', f'blocks.{i}.0.conv', f'blocks.{i}.0.bn1', f'stage_{i - 1}_block_2/expand/kernel')),
              *dense('pre_logits', 'conv_head', 'pointwise')), suits=lambda model: model.pre_logits > 0, **IMAGE),
    'efficientnet': Family(
        'efficientnet.EfficientNet', 'timm',
        architectures({f'efficientnet_{name}': fields for name, fields in efficientnet.VARIANTS.items()}), (CLASSES,),
        rows=(*TRUNK, *layer('last', 'conv_head', 'bn2')), **IMAGE),
    'torchvision mobilenet_v2': Family(
        'mobilenet.MobileNet', architectures={'': Architecture(heads=dense('head', 'classifier.1'))},
        rows=(*layer('stem', 'features.0.0', 'features.0.1'), *layer('last', 'features.18.0', 'features.18.1'),
              *(row for n, (i, j) in enumerate(V2, 1)
                for row in block(f'stage_{i}_block_{j}', f'features.{n}', VISION_BLOCK))), **IMAGE),
    'efficientnet by blocks': Family(
        'efficientnet.EfficientNet', architectures={'': Architecture(heads=dense('head', '_fc'))},
        rows=(*layer('stem', '_conv_stem', '_bn0'), *layer('last', '_conv_head', '_bn1'),
              *(row for n, (i, j) in enumerate(B0)
                for row in block(f'stage_{i}_block_{j}', f'_blocks.{n}', FLAT_BLOCK, '_se_reduce', '_se_expand'))), **IMAGE),
}
