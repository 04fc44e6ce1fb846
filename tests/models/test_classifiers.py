"""Image classifiers at the sizes of their papers: the published counts of parameters, of shapes alone."""
import inspect

import jax.numpy as jnp
import pytest
from model_helpers import abstract, init, size

from bigjax.models import mixer
from tests.refused import refused

COUNTS = {
    (mixer.Mixer, 's16'): 18_528_264, (mixer.Mixer, 'b16'): 59_880_472, (mixer.Mixer, 'l16'): 208_196_168,
}


@pytest.mark.parametrize(('kind', 'variant'), COUNTS, ids=lambda value: getattr(value, '__name__', value))
def test_parameter_counts(kind, variant):
    model = kind(**inspect.getmodule(kind).VARIANTS[variant])
    assert size(abstract(model, jnp.zeros((1, 224, 224, 3)))['params']) == COUNTS[kind, variant]


def test_what_the_mixer_refuses():
    with refused('model/image-size', '32 x 16'):
        init(mixer.Mixer(5, 32, 8, 8, 1, 4, 4), jnp.zeros((1, 32, 16, 3)))
    with refused('model/not-divisible', '30'):
        init(mixer.Mixer(5, 30, 8, 8, 1, 4, 4), jnp.zeros((1, 30, 30, 3)))
