"""Convolution, dense layer, batch norm and pooling, as they are fast here, against flax.linen: values and gradients."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.conv import Conv
from bigjax.nn.dense import Dense
from bigjax.nn.norm import BatchNorm
from bigjax.nn.pool import avg_pool, max_pool
from tests import tiers


def same(mine, theirs, x, members=0):
    """Equal parameters in, equal outputs and gradients of parameters and input out; also for stacked members."""
    params = jax.jit(theirs.init)(jax.random.key(1), x)['params']
    def value(module):
        def f(params, x):
            y = module.apply({'params': params}, x)
            return jnp.sum(jnp.sin(y)), y
        return jax.value_and_grad(f, (0, 1), has_aux=True)
    a, b = value(mine), value(theirs)
    if members:
        params = jax.tree.map(lambda p: jnp.stack([p * (1 + 0.1 * m) for m in range(members)]), params)
        x = jnp.stack([x + m for m in range(members)])
        a, b = jax.vmap(a), jax.vmap(b)
    for one, other in zip(jax.tree.leaves(jax.jit(a)(params, x)), jax.tree.leaves(jax.jit(b)(params, x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('members', [0, 3])
@pytest.mark.parametrize(('shape', 'kernel', 'stride', 'padding'), tiers.first(4, [
    ((2, 9, 8, 3), (3, 3), 2, 'SAME'), ((2, 8, 8, 1), (5, 5), 1, 2), ((3, 20, 2), (5,), 2, 1),
    ((2, 6, 6, 4), (1, 1), 2, 'SAME'), ((2, 9, 8, 3), (3, 3), 1, 'SAME'), ((2, 9, 8, 3), (5, 3), 1, 'VALID'),
    ((3, 21, 4), (8,), 1, 'SAME')]))
def test_conv(shape, kernel, stride, padding, members):
    x = jax.random.normal(jax.random.key(0), shape)
    strides = (stride,) * len(kernel)
    same(Conv(6, kernel, strides=stride, padding=padding), nn.Conv(6, kernel, strides=strides, padding=padding), x, members)


@pytest.mark.parametrize(('members', 'stride', 'dilation'), [(0, 1, 1), (0, 2, 3), (2, 1, 1)])
def test_each_channel_convolved_alone(members, stride, dilation):
    options = dict(strides=stride, kernel_dilation=dilation, padding=((2, 1),), feature_group_count=6)
    same(Conv(6, (4,), **options), nn.Conv(6, (4,), **options), jax.random.normal(jax.random.key(0), (3, 20, 6)), members)
    options |= {'strides': (stride, 1), 'kernel_dilation': (1, dilation), 'padding': ((2, 1), (0, 3))}
    image = jax.random.normal(jax.random.key(0), (2, 6, 9, 6))
    same(Conv(6, (4, 3), **options), nn.Conv(6, (4, 3), **options), image, members)


@pytest.mark.parametrize('members', [0, 3])
@pytest.mark.parametrize('shape', [(5, 7), (2, 3, 7)])
def test_dense(shape, members):
    same(Dense(4), nn.Dense(4), jax.random.normal(jax.random.key(0), shape), members)


@pytest.mark.parametrize(('mine', 'theirs'), [(max_pool, nn.max_pool), (avg_pool, nn.avg_pool)])
@pytest.mark.parametrize('size', [8, 9])
def test_pooling(mine, theirs, size):
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    f = lambda pool: jax.value_and_grad(lambda x: jnp.sum(jnp.sin(pool(x, (2, 2), strides=(2, 2)))))(x)
    for one, other in zip(f(mine), f(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(64, 5), (4, 6, 6, 3)])
@pytest.mark.parametrize('average', [False, True])
def test_batch_norm(shape, average):
    x = 2 + 3 * jax.random.normal(jax.random.key(0), shape)
    mine, theirs = (norm(use_running_average=average, momentum=0.9) for norm in (BatchNorm, nn.BatchNorm))
    keys = jax.random.split(jax.random.key(1), 4)
    draw = lambda i: 0.5 + jax.random.uniform(keys[i], shape[-1:])
    params, stats = {'scale': draw(0), 'bias': draw(1)}, {'mean': draw(2), 'var': draw(3)}

    def value(module):
        def f(params, x):
            y, new = module.apply({'params': params, 'batch_stats': stats}, x, mutable=['batch_stats'])
            return jnp.sum(jnp.sin(y)), (y, new['batch_stats'])
        return jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(params, x)

    pairs = zip(jax.tree.leaves(value(mine)), jax.tree.leaves(value(theirs)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_batch_norm_in_half_precision_keeps_its_statistics_in_float32():
    x = (100 + jax.random.normal(jax.random.key(0), (512, 3))).astype(jnp.bfloat16)
    module = BatchNorm(use_running_average=False, dtype=jnp.bfloat16)
    y, new = module.apply(module.init(jax.random.key(0), x), x, mutable=['batch_stats'])
    assert y.dtype == jnp.bfloat16
    assert new['batch_stats']['mean'].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float64).mean(0), 0, atol=0.02)
