"""Normalization of inputs that are not centred: values and gradients against float64, and against torch."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import cpu
from bigjax.nn.norm import BatchNorm, LayerNorm

MEANS = [0, 10, 1e3, 1e4]
WITHIN = 2e-3


def normalized(x, dy, scale, bias, axes, epsilon):
    """(y, dx, dscale, dbias) in float64."""
    x, dy, scale, bias = (np.asarray(a, np.float64) for a in (x, dy, scale, bias))
    inverse = 1 / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    normal = (x - x.mean(axes, keepdims=True)) * inverse
    d = dy * scale
    dx = (d - d.mean(axes, keepdims=True) - normal * (d * normal).mean(axes, keepdims=True)) * inverse
    rows = tuple(range(x.ndim - 1))
    return normal * scale + bias, dx, (dy * normal).sum(rows), dy.sum(rows)


def case(shape, mean, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return (mean + draw(*shape)).astype(np.float32), draw(*shape), 1 + 0.3 * draw(shape[-1]), draw(shape[-1])


@functools.cache
def compiled(module, platform):
    """The function (parameters, x, dy) -> (y, their gradients), the statistics being the batch's; one for all values."""
    def run(params, x, dy):
        stats = {k: v for k, v in module.init(jax.random.key(0), x).items() if k != 'params'}
        y, pull = jax.vjp(lambda params, x: module.apply({'params': params, **stats}, x, mutable=list(stats))[0], params, x)
        return y, *pull(dy)

    return jax.jit(run)


def ours(module, x, dy, scale, bias, platform='cpu'):
    """(y, dx, dscale, dbias) of a layer."""
    with cpu.lowering_for(platform):
        y, params, dx = compiled(module, platform)({'scale': scale, 'bias': bias}, x, dy)
    return y, dx, params['scale'], params['bias']


def close(found, expected, within=WITHIN):
    for one, other in zip(found, expected, strict=True):
        other = np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=within * max(1, np.abs(other).std()), rtol=0)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('mean', MEANS)
@pytest.mark.parametrize('shape', [(64, 8, 8, 4), (256, 5), (4, 2000, 3)])
def test_batch_norm(shape, mean, platform):
    x, dy, scale, bias = case(shape, mean)
    close(ours(BatchNorm(use_running_average=False), x, dy, scale, bias, platform),
          normalized(x, dy, scale, bias, tuple(range(len(shape) - 1)), 1e-5))


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('mean', MEANS)
@pytest.mark.parametrize('shape', [(4, 16, 384), (32, 7)])
def test_layer_norm(shape, mean, platform):
    x, dy, scale, bias = case(shape, mean)
    close(ours(LayerNorm(), x, dy, scale, bias, platform), normalized(x, dy, scale, bias, -1, 1e-6))


def test_statistics_of_latitudes():
    x = (47.3 + 0.05 * np.random.default_rng(0).normal(size=(512, 1))).astype(np.float32)
    module = BatchNorm(use_running_average=False, momentum=0.0)
    _, new = module.apply(module.init(jax.random.key(0), x), x, mutable=['batch_stats'])
    np.testing.assert_allclose(new['batch_stats']['mean'], np.mean(x, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(new['batch_stats']['var'], np.var(x, dtype=np.float64), rtol=1e-3)
    y = module.apply({'params': {'scale': jnp.ones(1), 'bias': jnp.zeros(1)}, **new}, x, use_running_average=None,
                     mutable=['batch_stats'])[0]
    np.testing.assert_allclose(np.std(y), 1, atol=WITHIN)


def test_a_first_position_unlike_all_others():
    """Values are taken relative to the first position of each example: padding there must not cost the digits."""
    x, dy, scale, bias = case((16, 1024, 4), 1e3)
    x[:, 0] = 0
    close(ours(BatchNorm(use_running_average=False), x, dy, scale, bias),
          normalized(x, dy, scale, bias, (0, 1), 1e-5))


@pytest.mark.parametrize('mean', MEANS)
@pytest.mark.parametrize('layer', ['batch', 'layer'])
def test_as_torch(layer, mean):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    x, dy, scale, bias = case((64, 32), mean)
    twin = torch.nn.BatchNorm1d(32) if layer == 'batch' else torch.nn.LayerNorm(32)
    with torch.no_grad():
        twin.weight.copy_(torch.tensor(scale))
        twin.bias.copy_(torch.tensor(bias))
    inputs = torch.tensor(x, requires_grad=True)
    y = twin(inputs)
    y.backward(torch.tensor(dy))
    module = BatchNorm(use_running_average=False) if layer == 'batch' else LayerNorm(epsilon=1e-5)
    close(ours(module, x, dy, scale, bias), [a.detach().numpy() for a in (y, inputs.grad, twin.weight.grad, twin.bias.grad)],
          2 * WITHIN)  # torch is up to WITHIN from float64, too


@pytest.mark.parametrize('bias', [True, False])
def test_layer_norm_is_linens(bias):
    x, dy, *_ = case((3, 5, 16), 0.5)
    mine, theirs = (layer(use_bias=bias) for layer in (LayerNorm, nn.LayerNorm))
    params = jax.jit(theirs.init)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, jax.eval_shape(mine.init, jax.random.key(0), x)) == jax.tree.map(jnp.shape, params)
    for members in (False, True):
        grad = lambda m: jax.grad(lambda p, x: jnp.sum(m.apply(p, x) * dy), (0, 1))
        f, g = (jax.jit(jax.vmap(grad(m), (None, 0)) if members else grad(m)) for m in (mine, theirs))
        given = np.stack([x, 2 * x]) if members else x
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), f(params, given), g(params, given))
