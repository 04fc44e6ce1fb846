"""Scaled dot-product attention: one function for every family.

Glossary: B batch · T queries · S keys · H heads · D width of a head.
"""
import jax


def attention(q_BxTxHxD, k_BxSxHxD, v_BxSxHxD, *, causal: bool = False, mask=None, scale: float | None = None):
    """softmax(q kᵀ scale + mask) v, the softmax in float32 -> [B, T, H, D] (Vaswani et al. 2017, eq. 1).

    Args:
      q_BxTxHxD, k_BxSxHxD, v_BxSxHxD: queries, keys, values.
      causal: query t sees keys 0..t.
      mask: bool, broadcastable to [B, H, T, S]; True where a query sees a key.
      scale: default 1/sqrt(D).
    """
    return jax.nn.dot_product_attention(
        q_BxTxHxD, k_BxSxHxD, v_BxSxHxD, mask=mask, is_causal=causal, scale=scale)
