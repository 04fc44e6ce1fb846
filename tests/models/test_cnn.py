"""Convolutional networks: parameter counts and parity with torch."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, conv_to_torch, dense_to_torch, init, parameters, paths

from bigjax.models.cnn import CNN, VARIANTS
from tests.refused import refused


@pytest.mark.parametrize('variant, shape, count', [
    ('mnist1d', (2, 40), 5_210),
    ('mnist1d', (2, 40, 1), 5_210),
    ('lenet5', (2, 28, 28, 1), 61_706),
    ('lenet_wide', (2, 28, 28, 1), 3_274_634),
    ('cifar', (2, 32, 32, 3), 545_098),
])
def test_parameter_counts(variant, shape, count):
    assert parameters(CNN(**VARIANTS[variant]), jnp.zeros(shape)) == count


def test_lenet5_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = CNN(**VARIANTS['lenet5'])
    x = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)
    variables = init(model, x)
    params = variables['params']
    assert {p.split('/')[0] for p in paths(params)} == {'conv_0', 'conv_1', 'dense_0', 'dense_1', 'head'}
    convs = [torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.Conv2d(6, 16, 5)]
    denses = [torch.nn.Linear(400, 120), torch.nn.Linear(120, 84), torch.nn.Linear(84, 10)]
    for i, layer in enumerate(convs):
        conv_to_torch(params[f'conv_{i}'], layer)
    for name, layer in zip(('dense_0', 'dense_1', 'head'), denses, strict=True):
        dense_to_torch(params[name], layer)
    h = torch.tensor(x).permute(0, 3, 1, 2)
    for layer in convs:
        h = torch.nn.functional.avg_pool2d(layer(h).tanh(), 2)
    h = h.permute(0, 2, 3, 1).flatten(1)
    expected = denses[2](denses[1](denses[0](h).tanh()).tanh()).detach().numpy()
    np.testing.assert_allclose(applied(model, variables, x, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_mnist1d_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = CNN(**VARIANTS['mnist1d'])
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    variables = init(model, x)
    h = torch.tensor(x)[:, None]
    for i, (channels, size) in enumerate(((1, 5), (25, 3), (25, 3))):
        layer = torch.nn.Conv1d(channels, 25, size, stride=2, padding=1)
        conv_to_torch(variables['params'][f'conv_{i}'], layer)
        h = layer(h).relu()
    head = torch.nn.Linear(125, 10)
    dense_to_torch(variables['params']['head'], head)
    expected = head(h.permute(0, 2, 1).flatten(1)).detach().numpy()
    np.testing.assert_allclose(applied(model, variables, x, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_population_is_its_members():
    model = CNN(channels=(4, 5), kernels=(3, 3), dense=(6,), num_classes=3)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    members = [init(model, x, seed=s) for s in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.vmap(lambda v: model.apply(v, x, train=False))(stacked)
    for one, variables in zip(together, members, strict=True):
        np.testing.assert_allclose(one, applied(model, variables, x, train=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fields, code, names', [
    ({'channels': (4,), 'kernels': (3, 3)}, 'model/lengths', ('1', '2')),
    ({'pool': 'mean'}, 'model/unknown-option', ("'mean'",))])
def test_wrong_fields_are_the_users_error(fields, code, names):
    with refused(code, *names):
        parameters(CNN(**fields), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.slow
def test_low_precision():
    x = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    model = CNN(**VARIANTS['lenet5'], dtype=jnp.bfloat16)
    variables = init(model, x)
    out = applied(model, variables, x, train=False)
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    full = applied(CNN(**VARIANTS['lenet5']), variables, x, train=False)
    np.testing.assert_allclose(out.astype(np.float32), full, atol=0.1)
