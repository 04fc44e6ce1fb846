"""ResNets in the names of torchvision and timm, which programs of CIFAR-10 share, and pre-activation ResNets in timm's."""
import jax.numpy as jnp

from bigjax.models.resnet import VARIANTS
from bigjax.weights.family import Architecture, Family, Field
from bigjax.weights.rows import COUNTERS, batch_norm, conv, dense

STAGES, CONVOLUTIONS = range(4), range(3)
BIT = {'resnetv2_50x1_bit': 'bit_r50x1', 'resnetv2_101x1_bit': 'bit_r101x1', 'resnetv2_50x3_bit': 'bit_r50x3',
       'resnetv2_152x2_bit': 'bit_r152x2', 'resnetv2_50': 'resnet50_v2'}
PLAIN = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnet50_gn', 'resnext50_32x4d', 'resnext101_32x8d',
         'wide_resnet50_2')


def image(model) -> tuple:
    """The arguments that a model is initialised with: one image; the parameters do not depend on its size."""
    return (jnp.zeros((1, 64, 64, 3)),)


def architectures(variants, head) -> dict[str, Architecture]:
    """{name there: sizes} of {name there: variant here}."""
    return {name: Architecture(fields=VARIANTS[variant], heads=head) for name, variant in variants.items()}


HEAD, HEAD_V2 = dense('head', 'fc'), dense('head', 'head.fc', 'pointwise')
CLASSES = (Field('num_classes', 'num_classes', 1000),)
RESNET = Family(
    model='resnet.ResNet', model_type='timm', suits=lambda model: not model.preact,
    architectures=architectures({name: name for name in PLAIN}, HEAD), fields=CLASSES,
    rows=(*conv('stem', 'conv1'), *batch_norm('stem_norm', 'bn1'),
          *(row for s in STAGES for ours, theirs in ((f'stage_{s}_block_{{i}}', f'layer{s + 1}.{{i}}'),) for row in (
              *(row for n in CONVOLUTIONS for row in (*conv(f'{ours}/conv_{n}', f'{theirs}.conv{n + 1}'),
                                                      *batch_norm(f'{ours}/norm_{n}', f'{theirs}.bn{n + 1}'))),
              *conv(f'{ours}/shortcut', f'{theirs}.downsample.0'),
              *batch_norm(f'{ours}/shortcut_norm', f'{theirs}.downsample.1')))),
    renamed=((r'^module\.', ''), (r'^linear\.', 'fc.'), (r'\.shortcut\.([01])\.', r'.downsample.\1.')),
    ignored=(COUNTERS,), inputs=image)
RESNET_V2 = Family(
    model='resnet.ResNet', model_type='timm', suits=lambda model: model.preact,
    architectures=architectures(BIT, HEAD_V2), fields=CLASSES,
    rows=(*conv('stem', 'stem.conv'), *batch_norm('final_norm', 'norm'),
          *(row for s in STAGES for ours, theirs in ((f'stage_{s}_block_{{i}}', f'stages.{s}.blocks.{{i}}'),) for row in (
              *(row for n in CONVOLUTIONS for row in (*conv(f'{ours}/conv_{n}', f'{theirs}.conv{n + 1}'),
                                                      *batch_norm(f'{ours}/norm_{n}', f'{theirs}.norm{n + 1}'))),
              *conv(f'{ours}/shortcut', f'{theirs}.downsample.conv')))),
    ignored=(COUNTERS,), inputs=image)
FAMILIES = {'resnet': RESNET, 'resnet_v2': RESNET_V2}
