"""The choice of a token: filters and draws beside formulas in float64."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.decode.choose import Choice, choose, filtered, mark, penalize
from tests.refused import refused

LOGITS = np.random.default_rng(0).normal(size=(3, 12)) * 2


def formula(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution of one row, token by token."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = order[:top_k] if top_k else order
    total, nucleus = sum(p[i] for i in kept), []
    for i in kept:
        nucleus.append(i)
        if sum(p[j] for j in nucleus) / total >= top_p:
            break
    kept = [i for i in nucleus if p[i] >= min_p * p.max()]
    found = np.zeros(len(p))
    found[kept] = p[kept] / p[kept].sum()
    return found


@pytest.mark.parametrize('how', [
    {}, {'temperature': 0.5}, {'top_k': 1}, {'top_k': 4}, {'top_k': 99}, {'top_p': 0.7}, {'top_p': 1e-6}, {'min_p': 0.2},
    {'min_p': 1.0}, {'top_k': 5, 'top_p': 0.8}, {'top_p': 0.95, 'min_p': 0.05},
    {'temperature': 2.0, 'top_k': 6, 'top_p': 0.9, 'min_p': 0.3}])
def test_the_distribution_is_the_formulas(how):
    found = jax.nn.softmax(filtered(jnp.asarray(LOGITS, jnp.float32), Choice(**{'temperature': 1.0, **how})))
    np.testing.assert_allclose(found, [formula(row, **how) for row in LOGITS], atol=1e-6)


@pytest.mark.slow
def test_draws_follow_the_distribution():
    """20,000 draws within five standard deviations, at every place and row its own."""
    how = {'temperature': 1.5, 'top_k': 6, 'top_p': 0.95}
    keys = jax.random.split(jax.random.key(0), 20_000)
    row = jnp.broadcast_to(jnp.asarray(LOGITS[:1], jnp.float32), (len(keys), 12))
    draw = jax.jit(functools.partial(choose, row, None, Choice(**how), keys))
    drawn, expected = np.asarray(draw(0)), formula(LOGITS[0], **how)
    spread = 5 * np.sqrt(expected * (1 - expected) / len(keys))
    assert (abs(np.bincount(drawn, minlength=12) / len(keys) - expected) <= spread).all()
    again = np.asarray(draw(1))
    assert abs((again == drawn).mean() - (expected ** 2).sum()) < 0.02  # independent


def test_a_repetition_makes_a_token_less_likely_whatever_its_sign():
    scores = jnp.array([[2.0, -2.0, 1.0, 0.0]])
    seen = mark(jnp.zeros((1, 4), bool), jnp.array([[0, 1, 3, 2]]), jnp.array([[True, True, True, False]]))
    np.testing.assert_array_equal(seen, [[True, True, False, True]])
    np.testing.assert_allclose(penalize(scores, seen, 4.0), [[0.5, -8, 1, 0]])
    assert choose(scores, seen, Choice(repetition_penalty=4.0), None, 0) == 2


@pytest.mark.parametrize('name, value', [('temperature', -1), ('temperature', float('nan')), ('top_k', -1), ('top_p', 0),
                                         ('top_p', 1.1), ('min_p', 2), ('repetition_penalty', 0)])
def test_values_out_of_range(name, value):
    with refused('decode/range', name, str(value)):
        Choice(**{name: value}).check()
