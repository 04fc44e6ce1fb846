"""MLPs: the papers' parameter counts, parity with torch, where dropout acts, populations, low precision."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, dense_to_torch, init, parameters, paths

from bigjax import models
from bigjax.models.mlp import MLP, VARIANTS
from tests.refused import refused


@pytest.mark.parametrize('variant, shape, count', [
    ('mnist1d_logistic', (2, 40), 410),
    ('mnist1d', (2, 40), 15_210),
    ('dropout_mnist', (2, 28, 28, 1), 2_913_290),
    ('uci', (2, 13), 751),
    ('breast_cancer', (2, 30), 11_677),
])
def test_parameter_counts(variant, shape, count):
    assert parameters(MLP(**VARIANTS[variant]), jnp.zeros(shape)) == count


def test_paths():
    variables = init(MLP(features=(5,), num_classes=3), jnp.zeros((2, 4)))
    assert paths(variables['params']) == {'dense_0/kernel', 'dense_0/bias', 'head/kernel', 'head/bias'}


def test_equals_torch_with_residual():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = MLP(**VARIANTS['mnist1d'])
    x = np.random.default_rng(0).normal(size=(7, 40, 1)).astype(np.float32)
    variables = init(model, x)
    layers = [torch.nn.Linear(40, 100), torch.nn.Linear(100, 100), torch.nn.Linear(100, 10)]
    for name, layer in zip(('dense_0', 'dense_1', 'head'), layers, strict=True):
        dense_to_torch(variables['params'][name], layer)
    h = layers[0](torch.tensor(x[..., 0])).relu()
    expected = layers[2](h + layers[1](h).relu()).detach().numpy()
    np.testing.assert_allclose(applied(model, variables, x, train=False), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('activation, torch_name', [
    ('relu', 'relu'), ('tanh', 'tanh'), ('sigmoid', 'sigmoid'), ('silu', 'silu'), ('gelu', 'gelu'), ('elu', 'elu')])
def test_activations_equal_torch(activation, torch_name):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    from bigjax.nn.activations import activation as by_name
    x = np.linspace(-4, 4, 41, dtype=np.float32)
    functional = getattr(torch, torch_name, None) or getattr(torch.nn.functional, torch_name)
    np.testing.assert_allclose(by_name(activation)(x), functional(torch.tensor(x)).numpy(), atol=1e-6)


def test_dropout_rates_belong_to_layers():
    """With identity layers what survives shows which rate acted where."""
    def survivors(rates, layer):
        model = MLP(features=(1000,), num_classes=1000, activation='identity', dropout=rates)
        eye = jnp.eye(1000)
        zero = jnp.zeros(1000)
        params = {'dense_0': {'kernel': eye, 'bias': zero}, 'head': {'kernel': eye, 'bias': zero}}
        out = applied(model, {'params': params}, jnp.ones((20, 1000)), train=True, rngs={'dropout': jax.random.key(0)})
        return float((out > 0).mean()), float(out.max())

    share, scale = survivors((0.2, 0.0), 0)
    assert abs(share - 0.8) < 0.02 and abs(scale - 1 / 0.8) < 1e-3
    share, scale = survivors((0.0, 0.5), 1)
    assert abs(share - 0.5) < 0.02 and abs(scale - 2) < 1e-3
    share, scale = survivors(0.5, None)
    assert abs(share - 0.25) < 0.02 and abs(scale - 4) < 1e-3


def test_dropout_rests_in_evaluation():
    model = MLP(features=(8,), num_classes=2, dropout=0.5)
    x = jnp.ones((3, 4))
    variables = init(model, x)
    np.testing.assert_array_equal(applied(model, variables, x, train=False),
                                  applied(MLP(features=(8,), num_classes=2), variables, x, train=True))


def test_a_wrong_number_of_rates_is_the_users_error():
    with refused('model/lengths', '3', '2'):
        parameters(MLP(features=(4,), dropout=(0.1, 0.1, 0.1)), jnp.zeros((1, 2)))


def test_an_unknown_activation_is_the_users_error():
    with refused('model/unknown-option', 'rleu', 'relu'):
        parameters(MLP(features=(4,), activation='rleu'), jnp.zeros((1, 2)))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, 'bfloat16'])
def test_low_precision_keeps_float32_parameters(dtype):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    model = MLP(features=(16,), num_classes=3, dtype=dtype)
    variables = init(model, x)
    out = applied(model, variables, x, train=False)
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    full = applied(MLP(features=(16,), num_classes=3), variables, x, train=False)
    np.testing.assert_allclose(out.astype(np.float32), full, atol=0.03)


@pytest.mark.parametrize(('key', 'value'), [
    ('features', (0,)), ('features', (-3,)), ('dropout', 1.0), ('dropout', -0.1), ('dropout', 2), ('num_layers', 0),
    ('num_layers', -1), ('width', 0), ('microbatches', -1)])
def test_sizes_that_no_network_has_are_refused(key, value):
    """Dropout of 2 and a transformer of no layers would be built without an error."""
    name = 'gpt' if key in ('num_layers', 'width', 'microbatches') else 'mlp'
    with refused('model/size', f'config.model.{key}', str(value)):
        models.make({'name': name, key: value}, vocab_size=3, block_size=4, num_classes=2)
