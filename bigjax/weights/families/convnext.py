"""ConvNeXt in timm's names."""
import jax.numpy as jnp

from bigjax.models.convnext import VARIANTS
from bigjax.weights.family import Architecture, Family, Field, Row
from bigjax.weights.rows import conv, dense, norm

HEAD = dense('head', 'head.fc')
FAMILY = Family(
    model='convnext.ConvNeXt', model_type='timm',
    architectures={f'convnext_{size}': Architecture(fields=fields, heads=HEAD) for size, fields in VARIANTS.items()},
    fields=(Field('num_classes', 'num_classes', 1000), Field('ls_init_value', 'layer_scale', 1e-6)),
    rows=(*conv('stem', 'stem.0', bias=True), *norm('stem_norm', 'stem.1'),
          *norm('stage_{i}_down_norm', 'stages.{i}.downsample.0'),
          *conv('stage_{i}_down', 'stages.{i}.downsample.1', bias=True),
          *conv('stage_{i}_block_{j}/depthwise', 'stages.{i}.blocks.{j}.conv_dw', bias=True),
          *norm('stage_{i}_block_{j}/norm', 'stages.{i}.blocks.{j}.norm'),
          *dense('stage_{i}_block_{j}/up', 'stages.{i}.blocks.{j}.mlp.fc1'),
          *dense('stage_{i}_block_{j}/down', 'stages.{i}.blocks.{j}.mlp.fc2'),
          Row('stage_{i}_block_{j}/layer_scale', 'stages.{i}.blocks.{j}.gamma'), *norm('final_norm', 'head.norm')),
    inputs=lambda model: (jnp.zeros((1, 64, 64, 3)),))
