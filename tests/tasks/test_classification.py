"""Classification: the loss against torch, soft targets, smoothing, padding, confusion counts."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from bigjax.models.mlp import MLP
from bigjax.tasks import MASK, bind
from bigjax.tasks import classification as tasks
from tests.tasks.terms import objective, only


def identity(variables, x, *, train=False, rng=None):
    """An `apply` whose output is its input: the loss of given logits."""
    return x * variables['params']['scale'], {}


VARIABLES = {'params': {'scale': jnp.ones(())}}


def batch_of(n=6, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return {'image': rng.normal(size=(n, k)).astype(np.float32) * 3, 'label': rng.integers(0, k, n).astype(np.int32)}


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_loss_equals_torch(smoothing):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    batch = batch_of()
    per_example, weights, aux = only(tasks.softmax(label_smoothing=smoothing).loss(identity, VARIABLES, batch, None, True))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(batch['image']), torch.tensor(batch['label']).long(), reduction='none', label_smoothing=smoothing)
    np.testing.assert_allclose(per_example, expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(weights, np.ones(6))
    hits, count = aux.metrics['accuracy']
    assert (hits, count) == ((batch['image'].argmax(1) == batch['label']).sum(), 6)


def test_smoothing_is_for_training_only():
    batch = batch_of()
    smooth, plain = tasks.softmax(label_smoothing=0.3), tasks.softmax()
    np.testing.assert_array_equal(only(smooth.loss(identity, VARIABLES, batch, None, False))[0],
                                  only(plain.loss(identity, VARIABLES, batch, None, True))[0])


def test_soft_targets_take_the_labels_place():
    batch = batch_of()
    target = softmax(np.random.default_rng(1).normal(size=(6, 4)), axis=1)
    loss = only(tasks.softmax().loss(identity, VARIABLES, dict(batch, target=target.astype(np.float32)), None, True))[0]
    expected = -(target * log_softmax(batch['image'].astype(np.float64), axis=1)).sum(1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize('task, width', [(tasks.softmax('x'), 3), (tasks.binary(), 1)])
def test_padding_changes_nothing(task, width):
    """Loss, gradient and metrics of a padded batch are those of the batch, even where the padding overflows."""
    rng = np.random.default_rng(0)
    model = MLP(features=(5,), num_classes=width)
    x, label = rng.normal(size=(4, 2)).astype(np.float32), rng.integers(0, 2, 4).astype(np.int32)
    params = model.init(jax.random.key(0), x, train=False)['params']
    padded = {'x': np.concatenate([x, np.full((2, 2), 1e30, np.float32)]),
              'label': np.concatenate([label, np.zeros(2, np.int32)]),
              MASK: np.array([1, 1, 1, 1, 0, 0], np.float32)}

    def padded_objective(params, batch):
        result = task.loss(bind(model), {'params': params}, batch, None, True)
        return objective(result), result[1].metrics

    (a, m), g = jax.value_and_grad(padded_objective, has_aux=True)(params, {'x': x, 'label': label})
    (b, n), h = jax.value_and_grad(padded_objective, has_aux=True)(params, padded)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert m['accuracy'] == n['accuracy']
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-7), g, h)


@pytest.mark.parametrize('column', [True, False])
def test_binary_equals_torch(column):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=8).astype(np.float32) * 20, rng.integers(0, 2, 8).astype(np.int32)
    batch = {'x': logits[:, None] if column else logits, 'label': label}
    per_example, _, aux = only(tasks.binary().loss(identity, VARIABLES, batch, None, True))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(label).float(), reduction='none')
    np.testing.assert_allclose(per_example, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert aux.metrics['accuracy'][0] == ((logits > 0) == label).sum()
    assert tasks.binary().predict(identity, VARIABLES, batch, None).shape == (8,)


def test_low_precision_logits_give_a_float32_loss():
    batch = batch_of()
    low = dict(batch, image=batch['image'].astype(jnp.bfloat16))
    per_example, weights, aux = only(tasks.softmax().loss(identity, {'params': {'scale': jnp.bfloat16(1)}}, low, None, True))
    expected = -np.take_along_axis(
        log_softmax(np.asarray(low['image'], np.float64), axis=1), batch['label'][:, None].astype(int), 1)[:, 0]
    assert per_example.dtype == weights.dtype == aux.metrics['accuracy'][0].dtype == jnp.float32
    np.testing.assert_allclose(per_example, expected, rtol=1e-5)


@pytest.mark.parametrize('task', [tasks.softmax('tokens'), tasks.binary('tokens')])
def test_a_model_of_texts_receives_their_mask(task):
    seen = []

    def apply(variables, tokens, *, mask, train=False, rng=None):
        seen.append(mask)
        return jnp.zeros((len(tokens), 1)), {}

    batch = {'tokens': np.ones((3, 5), np.int32), 'mask': np.ones((3, 5), bool), 'label': np.zeros(3, np.int32)}
    task.loss(apply, {}, batch, None, True)
    task.predict(apply, {}, batch, None)
    assert all(mask is batch['mask'] for mask in seen) and len(seen) == 2
