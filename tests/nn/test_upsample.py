"""The transposed convolution against flax.linen's, with its gradients."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.upsample import ConvTranspose
from tests import tiers


@pytest.mark.parametrize(('kernel', 'stride'), tiers.first(3, [
    ((5, 5), (2, 2)), ((1, 7), (2, 4)), ((6, 4), (3, 1)), ((4, 4), (2, 2)), ((3, 3), (2, 2)), ((2, 2), (2, 2)),
    ((3, 3), (1, 1)), ((2, 3), (3, 2))]))
def test_equals_linen(kernel, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), jnp.float32)
    ours, theirs = ConvTranspose(6, kernel, stride), nn.ConvTranspose(6, kernel, stride)
    variables = {'params': {'kernel': jnp.asarray(rng.normal(size=(*kernel, 3, 6)), jnp.float32),
                            'bias': jnp.asarray(rng.normal(size=6), jnp.float32)}}
    assert jax.tree.map(jnp.shape, jax.eval_shape(ours.init, jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
    expected = jax.jit(theirs.apply)(variables, x)
    weight = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    both = [jax.jit(jax.value_and_grad(lambda v, x, m=m: jnp.sum(m.apply(v, x) * weight), argnums=(0, 1)))(variables, x)
            for m in (ours, theirs)]
    np.testing.assert_allclose(jax.jit(ours.apply)(variables, x), expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *both)
