"""MLP-Mixer in timm's names."""
import jax.numpy as jnp

from bigjax.models.mixer import VARIANTS
from bigjax.weights.family import Architecture, Family, Field
from bigjax.weights.rows import dense, norm

HEAD = dense('head', 'head')
FAMILY = Family(
    model='mixer.Mixer', model_type='timm',
    architectures={f'mixer_{size}_224': Architecture(fields=fields, heads=HEAD)
                   for size, fields in VARIANTS.items()},
    fields=(Field('num_classes', 'num_classes', 1000), Field('img_size', 'image_size', 224)),
    rows=(*dense('patch_embed', 'stem.proj', 'patch'),
          *norm('block_{i}/token_norm', 'blocks.{i}.norm1'), *norm('block_{i}/channel_norm', 'blocks.{i}.norm2'),
          *(row for part in ('token', 'channel') for ours, theirs in (('up', 'fc1'), ('down', 'fc2'))
            for row in dense(f'block_{{i}}/{part}_mlp/{ours}', f'blocks.{{i}}.mlp_{part}s.{theirs}')),
          *norm('final_norm', 'norm')),
    inputs=lambda model: (jnp.zeros((1, model.image_size, model.image_size, 3)),))
