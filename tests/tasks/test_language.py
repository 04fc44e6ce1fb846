"""Language modelling: nats per token against torch, shifting, ignored tokens, padding, any split of a batch."""
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from bigjax.metrics.likelihood import perplexity
from bigjax.tasks import MASK
from bigjax.tasks import language as tasks
from tests.tasks.terms import evaluated, mean, only

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 6, (4, 7)).astype(np.int32)
TARGETS = RNG.integers(1, 6, (4, 7)).astype(np.int32)
TARGETS[0, 3:] = 0
TARGETS[2] = 0
TABLE = {'params': {'table': jnp.asarray(RNG.normal(size=(6, 6)) * 2, jnp.float32)}}


def apply(variables, tokens, *, train=False, rng=None):
    """A bigram model: logits are a row of a table."""
    return variables['params']['table'][tokens], {}


def test_loss_is_torchs_mean_over_tokens_that_count():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    batch = {'tokens': TOKENS, 'targets': TARGETS}
    values, weights, aux = only(evaluated(tasks.next_token(ignore=0), apply, TABLE, batch))
    logits = np.asarray(TABLE['params']['table'])[TOKENS]
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).flatten(0, 1), torch.tensor(TARGETS).long().flatten(), ignore_index=0)
    np.testing.assert_allclose(mean(values, weights), float(expected), rtol=1e-5)
    np.testing.assert_array_equal(weights.sum(1), [3, 7, 0, 7])
    bits, count = aux.metrics['bits']
    np.testing.assert_allclose(bits / count, float(expected) / np.log(2), rtol=1e-5)
    hits = ((logits.argmax(-1) == TARGETS) & (TARGETS != 0)).sum()
    np.testing.assert_allclose(aux.metrics['accuracy'], (hits, 17), rtol=1e-5)


def test_any_split_gives_the_same_mean():
    task = tasks.next_token(ignore=0)
    whole = only(evaluated(task, apply, TABLE, {'tokens': TOKENS, 'targets': TARGETS}))
    parts = [only(evaluated(task, apply, TABLE, {'tokens': TOKENS[s], 'targets': TARGETS[s]}))
             for s in (slice(0, 1), slice(1, 4))]
    total = sum(float((p[0] * p[1]).sum()) for p in parts) / sum(float(p[1].sum()) for p in parts)
    np.testing.assert_allclose(mean(*whole[:2]), total, rtol=1e-6)


def test_without_targets_the_tokens_are_shifted():
    task = tasks.next_token()
    assert task.inputs({'tokens': TOKENS})[0].shape == (4, 6)
    shifted = task.loss(apply, TABLE, {'tokens': TOKENS[:, :-1], 'targets': TOKENS[:, 1:]}, None, True)
    plain = task.loss(apply, TABLE, {'tokens': TOKENS}, None, True)
    np.testing.assert_array_equal(only(shifted)[0], only(plain)[0])


def test_padded_examples_weigh_nothing():
    batch = {'tokens': TOKENS, 'targets': TARGETS, MASK: np.array([1, 1, 0, 0], np.float32)}
    values, weights, aux = only(evaluated(tasks.next_token(ignore=0), apply, TABLE, batch, train=False))
    alone = {'tokens': TOKENS[:2], 'targets': TARGETS[:2]}
    v, w, a = only(evaluated(tasks.next_token(ignore=0), apply, TABLE, alone, train=False))
    np.testing.assert_allclose(mean(values, weights), mean(v, w), rtol=1e-6)
    for name in a.metrics:
        np.testing.assert_allclose(aux.metrics[name], a.metrics[name], rtol=1e-6)


def test_predictions_and_perplexity():
    batch = {'tokens': TOKENS, 'targets': TARGETS}
    outputs = tasks.next_token(ignore=0).predict(apply, TABLE, batch, None)
    rows = log_softmax(np.asarray(TABLE['params']['table'], np.float64)[TOKENS], axis=-1)
    likely = np.take_along_axis(rows, TARGETS[..., None].astype(int), -1)[..., 0] * (TARGETS != 0)
    np.testing.assert_allclose(outputs, likely, rtol=1e-5, atol=1e-6)
    found = perplexity(outputs, batch, ignore=0)['perplexity']
    np.testing.assert_allclose(found, np.exp(-likely.sum() / 17), rtol=1e-5)
    everything = perplexity(tasks.next_token().predict(apply, TABLE, batch, None), batch)['perplexity']
    np.testing.assert_allclose(
        everything, np.exp(-np.take_along_axis(rows, TARGETS[..., None].astype(int), -1).mean()), rtol=1e-5)


def test_low_precision_logits_give_a_float32_loss():
    low = lambda *a, **k: (apply(*a, **k)[0].astype(jnp.bfloat16), {})
    values, weights, _ = only(evaluated(tasks.next_token(), low, TABLE, {'tokens': TOKENS}))
    assert values.dtype == weights.dtype == jnp.float32
