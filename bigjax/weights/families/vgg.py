"""VGG in timm's names, in which a layer is numbered by its place among convolutions, norms, activations and poolings."""
import jax.numpy as jnp

from bigjax.models.vgg import VARIANTS
from bigjax.weights.family import Architecture, Family, Field
from bigjax.weights.rows import COUNTERS, batch_norm, conv, dense

HEAD = dense('head', 'head.fc')


def family(depth: str, layers, normed: bool) -> Family:
    """The network of one depth, as the places of its layers depend on it."""
    rows, place, number = [*conv('fc_0', 'pre_logits.fc1', bias=True), *dense('fc_1', 'pre_logits.fc2', 'pointwise')], 0, 0
    for count in layers:
        for _ in range(count):
            rows += conv(f'conv_{number}', f'features.{place}', bias=True)
            rows += batch_norm(f'norm_{number}', f'features.{place + 1}') if normed else ()
            place, number = place + 2 + normed, number + 1
        place += 1
    name = f'vgg{depth}{"_bn" * normed}'
    return Family(
        'vgg.VGG', 'timm', {name: Architecture(fields={'layers': layers, 'batch_norm': normed}, heads=HEAD)},
        (Field('num_classes', 'num_classes', 1000),), rows=tuple(rows), ignored=(COUNTERS,),
        suits=lambda model: tuple(model.layers) == layers and model.batch_norm == normed,
        inputs=lambda model: (jnp.zeros((1, 224, 224, 3)),))


FAMILIES = {f'vgg{depth}{"_bn" * normed}': family(depth, fields['layers'], normed)
            for depth, fields in VARIANTS.items() for normed in (False, True)}
