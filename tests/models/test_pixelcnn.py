"""Gated PixelCNN: what each pixel sees, by gradients; its count; samples that follow the conditionals."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, init, parameters, paths

from bigjax.models.pixelcnn import VARIANTS, PixelCNN, sample
from bigjax.tasks import bind
from tests.refused import refused

SMALL = {1: PixelCNN(levels=3, channels=1, layers=2, width=4, first_kernel=5, head=6),
         3: PixelCNN(levels=2, channels=3, layers=2, width=6, first_kernel=3, head=9)}
SIDE = 5


def images(channels, count=2):
    return np.random.default_rng(0).uniform(0.1, 0.9, (count, SIDE, SIDE, channels)).astype(np.float32)


def alive(model, x):
    """Variables with biases that keep every rectifier open, so that no path is cut by chance."""
    variables = init(model, x)
    for name, layer in variables['params'].items():
        if name.startswith(('out', 'hidden')):
            layer['bias'] = layer['bias'] + (2 if name.startswith('out') else 20)
    return variables


def test_parameter_counts():
    P, head, seven = 24, 48, 7 // 2 + 1
    first = (seven * 7 * 1 * 2 * P) + (seven * 2 * P)
    later = 6 * ((2 * 3 * P * 2 * P) + (2 * P * 2 * P))
    every = 7 * ((2 * P * 2 * P) + P * P + 3 * 2 * P + P)
    count = first + later + every + (P + 1) * head + (head + 1) * 2
    assert parameters(PixelCNN(**VARIANTS['mnist']), jnp.zeros((1, 28, 28, 1))) == count


@pytest.mark.parametrize('channels', SMALL)
def test_a_value_depends_on_all_that_come_before_it_and_on_no_other(channels):
    """The gradient of each conditional, in the order of rows, columns and channels, is that of a full lower triangle; values
    out of reach of the layers are the only zeros below it."""
    model = SMALL[channels]
    x = images(channels, 1)
    variables = alive(model, x)

    @jax.jit
    def reach(variables):
        logits = lambda flat: model.apply(variables, flat.reshape(x.shape), train=False).reshape(-1, model.levels)
        return jnp.abs(jax.jacrev(logits)(x.reshape(-1))).sum(axis=1)

    seen = np.asarray(reach(variables)) > 0
    size = SIDE * SIDE * channels
    assert not np.triu(seen).any(), 'a value sees itself or a later one'
    row, column = np.divmod(np.arange(size) // channels, SIDE)
    first, later = model.first_kernel // 2, (model.layers - 1) * (model.kernel // 2)
    up, across = row[:, None] - row[None], column[None] - column[:, None]
    near = (up <= first + later) & (np.abs(across) <= first + later)
    expected = np.tril(np.ones((size, size), bool), -1) & near
    missing = expected & ~seen
    assert not missing.any(), np.argwhere(missing)[:5]


def test_paths_read_like_the_paper():
    names = {path.split('/')[0] for path in paths(init(SMALL[1], images(1))['params'])}
    assert names == {f'{kind}_{i}' for kind in ('down', 'link', 'across', 'out') for i in range(2)} | {'hidden', 'logits'}


@pytest.mark.parametrize('channels', SMALL)
def test_values_drawn_one_by_one_are_draws_from_the_conditionals_of_the_finished_image(channels):
    model, key = SMALL[channels], jax.random.key(0)
    variables = jax.tree.map(lambda p: 3 * p, init(model, images(channels)))
    start = np.round(images(channels, 8) * (model.levels - 1)) / (model.levels - 1)
    found = np.asarray(jax.jit(lambda v: sample(bind(model), v, key, start, model.levels, 2))(variables))
    np.testing.assert_array_equal(found[:, :2], start[:, :2])
    logits = applied(model, variables, found, train=False).reshape(8, -1, model.levels)
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(logits.shape[1]))
    again = jax.vmap(jax.random.categorical, in_axes=(0, 1), out_axes=1)(keys, logits) / (model.levels - 1)
    np.testing.assert_allclose(found.reshape(8, -1)[:, 2 * SIDE * channels:], again[:, 2 * SIDE * channels:], atol=1e-6)
    assert len(np.unique(found)) == model.levels and not np.array_equal(found[0], found[1])


@pytest.mark.parametrize('wrong', [{'width': 4}, {'head': 4}, {'kernel': 4}])
def test_sizes_that_do_not_divide_are_refused(wrong):
    with refused('model/not-divisible', *(f'{name}={value}' for name, value in wrong.items())):
        parameters(PixelCNN(**{'channels': 3, 'width': 6, 'head': 6, **wrong}), jnp.zeros((1, 4, 4, 3)))
