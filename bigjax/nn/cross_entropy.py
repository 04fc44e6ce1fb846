"""Cross entropy over a large vocabulary without ever holding all logits.

Glossary: M tokens · W width · V vocabulary.
"""
import jax
import jax.numpy as jnp


def chunked_cross_entropy(x_MxW: jax.Array, head_WxV: jax.Array, targets_M: jax.Array, chunk: int = 1024):
    """Nats of each target and whether it was the most likely, both [M] float32.

    Logits are made for `chunk` tokens at a time, and again in the backward pass: memory of chunk x V instead of M x V.
    """
    M, W = x_MxW.shape
    chunk = min(chunk, M)
    pad = -M % chunk
    x = jnp.pad(x_MxW, ((0, pad), (0, 0))).reshape(-1, chunk, W)
    targets = jnp.pad(targets_M, (0, pad)).reshape(-1, chunk)

    @jax.checkpoint
    def part(x, targets):
        logits = (x @ head_WxV).astype(jnp.float32)
        nats = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return nats, (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)

    _, (nats, hits) = jax.lax.scan(lambda _, xs: (None, part(*xs)), None, (x, targets))
    return nats.reshape(-1)[:M], hits.reshape(-1)[:M]
