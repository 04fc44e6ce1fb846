"""DenseNet in timm's names, which are torchvision's."""
import jax.numpy as jnp

from bigjax.models.densenet import VARIANTS
from bigjax.weights.family import Architecture, Family, Field
from bigjax.weights.rows import COUNTERS, batch_norm, conv, dense

LAYER = 'dense_{i}_layer_{j}', 'features.denseblock{i}.denselayer{j}'
FAMILY = Family(
    model='densenet.DenseNet', model_type='timm',
    architectures={f'densenet{depth}': Architecture(fields=fields, heads=dense('head', 'classifier'))
                   for depth, fields in VARIANTS.items()},
    fields=(Field('num_classes', 'num_classes', 1000),),
    rows=(*conv('stem', 'features.conv0'), *batch_norm('stem_norm', 'features.norm0'),
          *(row for i in range(2) for row in (*conv(f'{LAYER[0]}/conv_{i}', f'{LAYER[1]}.conv{i + 1}'),
                                             *batch_norm(f'{LAYER[0]}/norm_{i}', f'{LAYER[1]}.norm{i + 1}'))),
          *conv('transition_{i}', 'features.transition{i}.conv'),
          *batch_norm('transition_{i}_norm', 'features.transition{i}.norm'), *batch_norm('final_norm', 'features.norm5')),
    renamed=((r'\.(norm|conv)\.([12])\.', r'.\1\2.'),),  # of the oldest files of torchvision
    inputs=lambda model: (jnp.zeros((1, 64, 64, 3)),), ignored=(COUNTERS,))
