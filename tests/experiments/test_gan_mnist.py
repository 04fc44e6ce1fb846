"""The judge of samples against scikit-learn and known faults; an optimizer for each network."""
import jax
import numpy as np
import pytest

from experiments import gan_mnist
from tests import tiny
from tests.test_experiments import program

COUNT = 200


@pytest.fixture(scope='module')
def digits():
    """Ten classes of blurred blobs as uint8 pictures, twice from the same distribution: (examples, as good samples)."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(60, 190, (10, 6, 6, 1))

    def draw():
        label = rng.permutation(np.arange(COUNT) % 10).astype(np.int32)
        return {'image': np.clip(centre[label] + rng.normal(size=(COUNT, 6, 6, 1)) * 20, 0, 255).astype(np.uint8),
                'label': label}

    return draw(), draw()['image'].astype(np.float32) / 127.5 - 1


def test_good_samples(digits):
    examples, good = digits
    found = gan_mnist.judge(good, examples)
    assert abs(found['two_sample'] - 0.5) < 0.1 and abs(found['legible'] - found['legible_real']) < 0.1
    assert found['class_entropy'] == pytest.approx(np.log(10), abs=1e-6) and found['rarest_class'] == 0.1
    assert found['classes_of_samples'].count('10.0%') == 10


@pytest.mark.slow
def test_two_sample_is_leave_one_out(digits):
    from sklearn import neighbors
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    examples, good = digits
    fake = good + np.random.default_rng(1).normal(size=good.shape).astype(np.float32) * 0.05
    real = examples['image'].astype(np.float32) / 127.5 - 1
    x = np.concatenate([real, fake]).reshape(2 * COUNT, -1)
    y = np.repeat([0, 1], COUNT)
    expected = cross_val_score(neighbors.KNeighborsClassifier(1), x, y, cv=LeaveOneOut()).mean()
    assert gan_mnist.judge(fake, examples)['two_sample'] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(('fault', 'seen_by'), [
    ('one class', lambda found: found['class_entropy'] < 0.01 and found['rarest_class'] == 0),
    ('one picture', lambda found: found['class_entropy'] < 0.01 and found['two_sample'] > 0.95),
    ('mixtures', lambda found: found['legible'] < found['legible_real'] - 0.2),
    ('grey', lambda found: found['two_sample'] > 0.95),
])
def test_faults_are_seen(digits, fault, seen_by):
    examples, good = digits
    bad = {'one class': lambda: np.resize(good[classes_of(good, examples) == 3], good.shape),
           'one picture': lambda: np.broadcast_to(good[:1], good.shape),
           'mixtures': lambda: (good + np.roll(good, 1, axis=0)) / 2,
           'grey': lambda: np.zeros_like(good)}[fault]()
    assert seen_by(gan_mnist.judge(bad, examples)), gan_mnist.judge(bad, examples)
    assert not seen_by(gan_mnist.judge(good, examples))


def classes_of(good, examples):
    """The class of each sample, by the nearest mean."""
    real = examples['image'].reshape(COUNT, -1) / 127.5 - 1
    means = np.stack([real[examples['label'] == k].mean(0) for k in range(10)])
    return ((good.reshape(COUNT, 1, -1) - means) ** 2).sum(-1).argmin(1)


@pytest.mark.parametrize(('still', 'moving'), [
    ('generator', 'discriminator'), pytest.param('discriminator', 'generator', marks=pytest.mark.slow)])
def test_each_network_has_its_own_optimizer(still, moving):
    groups = f"(('{still}/.*', {{'lr': 1e-30}}), ('{moving}/.*', {{}}))"
    p = program('gan_mnist', 'small', **{'optimizer.groups': groups})
    carry, feed = p.init(), p.feed(0)
    before = jax.tree.map(np.asarray, carry['state'].params)
    after = p.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(0, 1))[0].params
    tiny.close(before[still], after[still], rtol=0, atol=1e-20)
    assert not tiny.equal(before[moving], after[moving])
