"""Sequence to sequence: the loss against torch, padding, exact match."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.models.seq2seq import Seq2Seq
from bigjax.tasks import MASK, bind
from bigjax.tasks import sequence as tasks
from tests.tasks.terms import objective, only

SOURCE = np.array([[1, 5, 2, 0], [1, 3, 4, 2], [1, 2, 0, 0]], np.int32)
TARGET = np.array([[1, 3, 4, 2, 0], [1, 5, 3, 3, 2], [1, 2, 0, 0, 0]], np.int32)
MODEL = Seq2Seq(6, 6, features=4, layers=1, max_length=3)


@pytest.fixture(scope='module')
def variables():
    return jax.jit(lambda key: MODEL.init(key, SOURCE, TARGET, train=False))(jax.random.key(0))


def loss_of(variables, batch, **how):
    task = tasks.teacher_forcing(**how)
    return jax.jit(lambda variables, batch: task.loss(bind(MODEL), variables, batch, None, True))(variables, batch)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_loss_equals_torch(variables, smoothing):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    batch = {'source': SOURCE, 'target': TARGET}
    result = loss_of(variables, batch, label_smoothing=smoothing)
    logits = np.array(jax.jit(functools.partial(MODEL.apply, train=False))(variables, SOURCE, TARGET[:, :-1]))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).flatten(0, 1), torch.tensor(TARGET[:, 1:]).long().flatten(), ignore_index=0,
        label_smoothing=smoothing)
    np.testing.assert_allclose(objective(result), float(expected), rtol=1e-5)
    hits, count = result[1].metrics['accuracy']
    assert count == 8
    np.testing.assert_allclose(hits, ((logits.argmax(-1) == TARGET[:, 1:]) & (TARGET[:, 1:] != 0)).sum(), rtol=1e-6)


def test_padding_changes_nothing(variables):
    alone = loss_of(variables, {'source': SOURCE[:2], 'target': TARGET[:2]})
    more = {'source': np.pad(SOURCE, ((0, 0), (0, 2))), 'target': np.pad(TARGET, ((0, 0), (0, 3))),
            MASK: np.array([1, 1, 0], np.float32)}
    padded = loss_of(variables, more)
    np.testing.assert_allclose(objective(alone), objective(padded), rtol=1e-6)
    np.testing.assert_allclose(alone[1].metrics['accuracy'], padded[1].metrics['accuracy'], rtol=1e-6)


def test_predictions_are_decoded(variables):
    outputs = tasks.teacher_forcing().predict(bind(MODEL), variables, {'source': SOURCE, 'target': TARGET}, None)
    np.testing.assert_array_equal(outputs, MODEL.apply(variables, SOURCE, method='decode'))
    assert outputs.shape == (3, 3)


def test_low_precision_logits_give_a_float32_loss():
    apply = lambda *args, **kwargs: (jnp.zeros((3, 4, 6), jnp.bfloat16), {})
    values, weights, _ = only(tasks.teacher_forcing().loss(apply, {}, {'source': SOURCE, 'target': TARGET}, None, True))
    assert values.dtype == weights.dtype == jnp.float32
