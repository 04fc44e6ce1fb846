"""The two players of a GAN: each group's blindness to the other's term, the games' formulas, the gradient penalty, padding."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.models.gan import GAN
from bigjax.tasks import MASK, bind, loss_metrics, mean
from bigjax.tasks import adversarial as tasks
from tests.refused import refused
from tests.tasks.terms import objective

SMALL = GAN(size=8, channels=1, latent=3, width=4)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
KEY = jax.random.key(5)


def drawn(model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.4, s.shape) * rng.choice([-1, 1], s.shape) ** (
        s.ndim > 1), jnp.float32), shapes)


@pytest.fixture(scope='module')
def gan():
    return drawn(SMALL)


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

    def value_of(params):
        result = tasks.gan(3).loss(bind(SMALL), {'params': params, **state}, {'image': IMAGES}, KEY, True)
        return objective(result), loss_metrics(result[0])

    grads, metrics = jax.jit(jax.grad(value_of, has_aux=True))(params)
    both = jax.jit(jax.jacrev(lambda p: jnp.stack(terms(p, state, KEY))))(params)
    d_grads, g_grads = (jax.tree.map(lambda a, i=i: a[i], both) for i in range(2))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, grads['discriminator'], d_grads['discriminator'])
    jax.tree.map(close, grads['generator'], g_grads['generator'])
    # the test can tell the terms apart
    for other, group in ((g_grads, 'discriminator'), (d_grads, 'generator')):
        first, second = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t[group])]) for t in (other, grads))
        assert not np.allclose(first, second, rtol=0.1, atol=1e-4)
    d, g = terms(params, state, KEY)
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


def linear(slope, pack=1):
    """A discriminator whose logit is the inner product of a pack of images with `slope`; a generator of zeros."""
    def apply(variables, x, *label, train=False, rng=None, method=None):
        if method == 'generate':
            return jnp.zeros((len(x), *IMAGES.shape[1:])) + 0 * variables['params']['generator'], {}
        return (x.reshape(-1, pack * 64) * variables['params']['discriminator']).sum(1), {}
    return apply, {'params': {'generator': jnp.zeros(()), 'discriminator': jnp.asarray(slope, jnp.float32)}}


@pytest.mark.parametrize('pack', [1, 2])
def test_penalty_is_the_squared_distance_of_the_slope_from_one(pack):
    slope = np.random.default_rng(2).normal(size=pack * 64)
    apply, variables = linear(slope, pack)
    loss = lambda v: tasks.gan(3, 'wasserstein', 10.0).loss(apply, v, {'image': IMAGES}, KEY, True)
    found, _ = loss(variables)
    length = np.linalg.norm(slope)
    assert found['penalty'].scale == 10.0 and found['penalty'].values.shape == (4 // pack,)
    np.testing.assert_allclose(found['penalty'].values, (length - 1) ** 2, rtol=1e-5)
    d = found['d_loss'].values
    np.testing.assert_allclose(d, -(IMAGES.reshape(-1, pack * 64) @ slope), rtol=1e-4)
    grads = jax.grad(lambda v: found_sum(loss(v)))(variables)['params']
    expected = 10 * 2 * (length - 1) * slope / length - IMAGES.reshape(-1, pack * 64).mean(0)
    np.testing.assert_allclose(grads['discriminator'], expected, rtol=1e-3, atol=1e-4)


def found_sum(result):
    return sum(term.scale * term.values.mean() for term in result[0].values())


def test_a_flat_discriminator_has_a_gradient():
    apply, variables = linear(np.zeros(64))
    grads = jax.grad(lambda v: found_sum(tasks.gan(3, 'wasserstein', 10.0).loss(apply, v, {'image': IMAGES}, KEY, True)))(
        variables)
    assert np.isfinite(grads['params']['discriminator']).all()


@pytest.mark.parametrize(('game', 'real', 'fake', 'wins'), [
    ('hinge', lambda d: np.maximum(0, 1 - d), lambda d: np.maximum(0, 1 + d), lambda d: -d),
    ('wasserstein', lambda d: -d, lambda d: d, lambda d: -d),
    ('non_saturating', lambda d: -np.log(1 / (1 + np.exp(-d))), lambda d: -np.log(1 - 1 / (1 + np.exp(-d))),
     lambda d: -np.log(1 / (1 + np.exp(-d))))])
def test_games_by_formula(game, real, fake, wins):
    rules, logits = tasks.GAMES[game], np.array([-3.0, -0.5, 0.0, 0.7, 2.0])
    for ours, formula in ((rules.real, real), (rules.fake, fake), (rules.wins, wins)):
        np.testing.assert_allclose(ours(logits), formula(logits), rtol=1e-5, atol=1e-7)


def test_classes_reach_both_networks():
    model = SMALL.clone(classes=3, norm='none')
    variables, task = drawn(model), tasks.gan(3, 'hinge', label='label')
    batch = {'image': IMAGES, 'label': np.array([0, 1, 2, 0], np.int32)}
    loss = jax.jit(lambda b: objective(task.loss(bind(model), variables, b, KEY, False)))
    assert loss(batch) != loss(dict(batch, label=np.array([1, 1, 2, 0], np.int32)))
    assert len(task.inputs(batch)) == 2 and task.predict(bind(model), variables, batch, KEY).shape == IMAGES.shape


def test_a_pack_with_padding_counts_nothing():
    apply, variables = linear(np.ones(128), 2)
    found, aux = tasks.gan(3).loss(apply, variables, {'image': IMAGES, MASK: np.array([1, 1, 1, 0], np.float32)}, KEY, False)
    np.testing.assert_array_equal(found['d_loss'].weights, [1, 0])
    assert aux.metrics['d_real'][1] == 1


def test_an_unknown_game_is_refused():
    with refused('task/unknown-option', "'lsgan'", 'hinge'):
        tasks.gan(3, 'lsgan')
