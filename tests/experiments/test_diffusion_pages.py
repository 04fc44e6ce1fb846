"""The judge of digits of 8 x 8 pixels, what is refused without scikit-learn, and own images without a test split."""
import sys

import numpy as np
import pytest

from bigjax.data.sources import ArraySource
from experiments import ddpm_mnist, digits, flow_fashion_mnist
from tests.refused import refused


@pytest.fixture(scope='module')
def blobs():
    """Ten classes of blurred blobs: (training digits, test digits, as good samples)."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(60, 190, (10, 4, 4, 1))
    label = np.arange(400) % 10
    draw = lambda: np.clip(centre[label] + rng.normal(size=(400, 4, 4, 1)) * 20, 0, 255).astype(np.uint8)
    return ArraySource({'image': draw(), 'label': label}), {'image': draw(), 'label': label}, draw() / 255


def test_good_samples_are_of_their_class_and_cannot_be_told_from_data(blobs):
    known, examples, good = blobs
    found = digits.judge(good, examples, known)
    assert found['intended'] > 0.95 and found['intended_real'] > 0.95 and abs(found['two_sample'] - 0.5) < 0.08


@pytest.mark.parametrize(('fault', 'seen_by'), [
    (lambda good: np.roll(good, 1, axis=0), lambda found: found['intended'] < 0.1),
    (lambda good: 0.7 * good, lambda found: found['two_sample'] > 0.9),
    (lambda good: np.full_like(good, 0.5), lambda found: found['intended'] < 0.2 and found['two_sample'] > 0.95)],
    ids=['other classes', 'faded', 'grey'])
def test_faults_are_seen(blobs, fault, seen_by):
    known, examples, good = blobs
    assert seen_by(digits.judge(fault(good), examples, known))


def test_without_scikit_learn_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with refused('data/not-found', 'digits', "pip install 'bigjax[sklearn]'"):
        digits.get_experiment(digits.get_config())


@pytest.mark.parametrize('script', [ddpm_mnist, flow_fashion_mnist])
def test_images_of_ones_own_are_judged_where_asked_for_on_what_is_held_out(tmp_path, script):
    np.savez(tmp_path / 'a.npz', image=np.zeros((40, 28, 28), np.uint8), label=np.arange(40) % 4)
    config = script.get_config()
    config.data, config.judged = f'npz:{tmp_path}/a.npz', 3
    experiment = script.get_experiment(config)
    assert {name: len(source) for name, source in experiment.data.evals.items()} == {'val': 3}
    assert set(experiment.evaluators) == {'val'} and experiment.model.num_classes == 4
    config.judge = 'mnist'
    assert {e.split for e in script.get_experiment(config).evaluators.values()} == {'val'}
    assert set(script.get_experiment(config).evaluators) == {'val', 'samples'}
    config.judge = 'letters'
    with refused('metrics/judge', 'letters', 'mnist'):
        script.get_experiment(config)


def test_the_class_of_each_sample_is_compared(monkeypatch):
    logits = np.eye(10)[[0, 1, 2, 3, 9]]
    monkeypatch.setattr(ddpm_mnist.generated, 'compared', lambda *a: {})
    monkeypatch.setattr(ddpm_mnist.generated, 'see', lambda *a: ddpm_mnist.generated.Seen(logits, logits))
    examples = {'image': np.zeros((5, 28, 28, 1), np.uint8), 'label': np.arange(5)}
    assert ddpm_mnist.judged('mnist', None, 10)(None, examples) == {'intended': 0.8}
    assert ddpm_mnist.judged('mnist', None, 0)(None, examples) == {}
