"""The blindness of a GAN's two groups of parameters to each other's term."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.models.gan import GAN
from bigjax.tasks import MASK, bind, loss_metrics, mean
from bigjax.tasks import generative as tasks
from tests.tasks.terms import objective

SMALL = GAN(size=8, channels=1, latent=3, width=4)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope='module')
def gan():
    shapes = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), IMAGES, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.4, s.shape) * rng.choice([-1, 1], s.shape) ** (
        s.ndim > 1), jnp.float32), shapes)


def terms(params, state, key):
    """The two terms, computed apart with plain calls of the model."""
    z = jax.random.normal(jax.random.fold_in(key, 0x6A), (4, 3))
    call = lambda x, method: SMALL.apply({'params': params, **state}, x, train=True, method=method,
                                         mutable=['batch_stats'])[0]
    fake = call(z, 'generate')
    d = jnp.mean(jnp.log1p(jnp.exp(-call(IMAGES, 'discriminate'))) + jnp.log1p(jnp.exp(call(fake, 'discriminate'))))
    g = jnp.mean(-jnp.log(jax.nn.sigmoid(call(fake, 'discriminate'))))
    return d, g


@pytest.mark.slow
def test_each_group_gets_the_gradient_of_its_own_term(gan):
    params, state = gan['params'], {'batch_stats': gan['batch_stats']}
    key = jax.random.key(5)

    def value_of(params):
        result = tasks.gan(3).loss(bind(SMALL), {'params': params, **state}, {'image': IMAGES}, key, True)
        return objective(result), loss_metrics(result[0])

    grads, metrics = jax.jit(jax.grad(value_of, has_aux=True))(params)
    both = jax.jit(jax.jacrev(lambda p: jnp.stack(terms(p, state, key))))(params)
    d_grads, g_grads = (jax.tree.map(lambda a, i=i: a[i], both) for i in range(2))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, grads['discriminator'], d_grads['discriminator'])
    jax.tree.map(close, grads['generator'], g_grads['generator'])
    # the test can tell the terms apart
    for other, group in ((g_grads, 'discriminator'), (d_grads, 'generator')):
        first, second = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t[group])]) for t in (other, grads))
        assert not np.allclose(first, second, rtol=0.1, atol=1e-4)
    d, g = terms(params, state, key)
    close(mean(metrics['d_loss']), d)
    close(mean(metrics['g_loss']), g)


@functools.partial(jax.jit, static_argnames='train')
def gan_loss(variables, batch, train):
    return tasks.gan(3).loss(bind(SMALL), variables, batch, jax.random.key(0), train)


def test_statistics_of_both_networks_move(gan):
    _, aux = gan_loss(gan, {'image': IMAGES}, True)
    before, after = gan['batch_stats'], aux.model_state['batch_stats']
    assert jax.tree.structure(dict(before)) == jax.tree.structure(dict(after))
    moved = jax.tree.map(lambda a, b: not np.allclose(a, b), before, after)
    assert all(jax.tree.leaves(moved))
    _, rest = gan_loss(gan, {'image': IMAGES}, False)
    jax.tree.map(np.testing.assert_array_equal, rest.model_state.get('batch_stats', before), before)


def test_padding_changes_nothing_in_evaluation(gan):
    batch = {'image': IMAGES, MASK: np.array([1, 1, 0, 0], np.float32)}
    other = dict(batch, image=np.where(batch[MASK][:, None, None, None] > 0, IMAGES, 0.5))
    runs = [gan_loss(gan, b, False) for b in (batch, other)]
    assert objective(runs[0]) == objective(runs[1]) and runs[0][1].metrics['d_real'] == runs[1][1].metrics['d_real']


def test_samples_are_one_per_example_and_others_for_each_key(gan):
    draw = jax.jit(lambda key: tasks.gan(3).predict(bind(SMALL), gan, {'image': IMAGES}, key))
    samples = [np.asarray(draw(jax.random.key(k))) for k in (0, 1)]
    assert samples[0].shape == IMAGES.shape and len(np.unique(np.asarray(samples)[..., 0, 0, 0])) == 8
