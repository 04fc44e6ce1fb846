"""Attention against its equation in float64."""
import jax
import numpy as np
import pytest

from bigjax.nn import cpu
from bigjax.nn.attention import attention


def reference(q, k, v, seen, scale):
    """Vaswani et al. 2017, equation 1, one query at a time; seen [B, H, T, S]."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        scores = k[b, :, h].astype(np.float64) @ q[b, t, h].astype(np.float64) * scale
        weights = np.where(seen[b, h, t], np.exp(scores - scores[seen[b, h, t]].max()), 0)
        out[b, t, h] = weights / weights.sum() @ v[b, :, h]
    return out


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('heads', [0, 1, 4])
@pytest.mark.parametrize('scale', [None, 0.3])
def test_attention_is_its_equation(platform, causal, heads, scale):
    """`heads`: of the mask, 0 for none. Each of two key heads serves two queries' heads."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (np.asarray(jax.random.normal(key, (2, 5, h, 4))) for key, h in zip(keys, (4, 2, 2), strict=True))
    seen = np.ones((2, 4, 5, 5), bool)
    mask = np.random.default_rng(0).random((2, heads, 5, 5)) < 0.5 if heads else None
    if heads:
        mask |= np.eye(5, dtype=bool)  # every query sees something
        seen &= mask
    if causal:
        seen &= np.tril(np.ones((5, 5), bool))
    expected = reference(q, *(np.repeat(x, 2, axis=2) for x in (k, v)), seen, 0.5 if scale is None else scale)
    with cpu.lowering_for(platform):
        out = attention(q, k, v, causal=causal, mask=mask, scale=scale)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(('queries', 'keys'), [(150, 150), (300, 300), (150, 100)])
def test_long_causal_windows_in_blocks(queries, keys):
    """Values against the equation; gradients against the library's attention, which is another program."""
    shapes = (1, queries, 4, 4), (1, keys, 2, 4), (1, keys, 2, 4), (1, queries, 4, 4)
    q, k, v, dy = (np.asarray(jax.random.normal(key, shape)) for key, shape in zip(
        jax.random.split(jax.random.key(1), 4), shapes, strict=True))
    seen = np.broadcast_to(np.tril(np.ones((queries, keys), bool)), (1, 4, queries, keys))

    def pulled(function):
        return jax.jit(lambda dy, *x: (function(*x), jax.vjp(function, *x)[1](dy)))(dy, q, k, v)

    out, gradients = pulled(lambda *x: attention(*x, causal=True))
    expected = reference(q, *(np.repeat(x, 2, axis=2) for x in (k, v)), seen, 0.5)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=1e-5)
    _, others = pulled(lambda *x: jax.nn.dot_product_attention(*x, mask=seen[:, :1], scale=0.5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, others)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('queries', [5, 3])
def test_a_query_that_sees_no_key_is_zero_and_its_gradients_finite(platform, causal, queries):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (2, queries, 4, 4), (2, 5, 2, 4), (2, 5, 2, 4), (2, queries, 4, 4)
    q, k, v, dy = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    mask = np.ones((2, 4, queries, 5), bool)
    mask[0, 1, 2] = False
    mask[1, :, 1] = [False, False, True, True, True]  # no key with `causal`, three without
    with cpu.lowering_for(platform):
        out, pull = jax.vjp(lambda *x: attention(*x, causal=causal, mask=mask), q, k, v)
    dq, dk, dv = pull(dy)
    assert not np.any(out[0, 2, 1]) and not np.any(dq[0, 2, 1]) and np.any(out[0, 2, 0])
    assert np.all(np.asarray(out[1, 1]) == 0) == causal == np.all(np.asarray(dq[1, 1]) == 0)
    assert all(np.all(np.isfinite(a)) for a in (out, dq, dk, dv))


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_padded_keys_are_as_if_they_were_not_there(platform):
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 6, 2, 4)) for key in keys)
    lengths = np.array([4, 6])
    mask = (np.arange(6) < lengths[:, None])[:, None, None]
    with cpu.lowering_for(platform):
        out = attention(q, k, v, mask=mask)
        alone = attention(q[:1], k[:1, :4], v[:1, :4])
    np.testing.assert_allclose(out[:1], alone, rtol=1e-5, atol=1e-6)
