"""Attention against its equation in float64."""
import jax
import numpy as np
import pytest

from bigjax.nn.attention import attention


def reference(q, k, v, seen, scale):
    """Vaswani et al. 2017, equation 1, one query at a time; seen [B, H, T, S]."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        scores = k[b, :, h].astype(np.float64) @ q[b, t, h].astype(np.float64) * scale
        weights = np.where(seen[b, h, t], np.exp(scores - scores[seen[b, h, t]].max()), 0)
        out[b, t, h] = weights / weights.sum() @ v[b, :, h]
    return out


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('scale', [None, 0.3])
def test_attention_is_its_equation(causal, masked, scale):
    q, k, v = (np.asarray(jax.random.normal(key, (2, 5, 3, 4))) for key in jax.random.split(jax.random.key(0), 3))
    seen = np.ones((2, 3, 5, 5), bool)
    mask = np.random.default_rng(0).random((2, 1, 5, 5)) < 0.5 if masked else None
    if masked:
        mask |= np.eye(5, dtype=bool)  # every query sees something
        seen &= mask
    if causal:
        seen &= np.tril(np.ones((5, 5), bool))
    expected = reference(q, k, v, seen, 0.5 if scale is None else scale)
    np.testing.assert_allclose(attention(q, k, v, causal=causal, mask=mask, scale=scale), expected, rtol=2e-5, atol=1e-5)
