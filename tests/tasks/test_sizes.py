"""The sizes of batches, counted from shapes alone, as a plan counts them before there is a batch."""
import jax
import numpy as np
import pytest

from bigjax.tasks import language


@pytest.mark.parametrize(('shapes', 'expected'), [
    ({'tokens': (16, 33)}, 16 * 32), ({'tokens': (16, 32), 'targets': (16, 32)}, 16 * 32)])
def test_predicted_tokens_are_counted_from_shapes(shapes, expected):
    batch = {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in shapes.items()}
    assert language.next_token().size(batch) == expected
