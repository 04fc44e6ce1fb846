"""Cross entropy over a large vocabulary without ever holding all logits.

Glossary: M tokens · W width · V vocabulary.
"""
import jax
import jax.numpy as jnp

from bigjax.nn import logical


def chunked_cross_entropy(x_MxW: jax.Array, head_WxV: jax.Array, targets_M: jax.Array, chunk: int = 1024):
    """Nats of each target and whether it was the most likely, both [M] float32.

    Logits are made for at most `chunk` tokens of each device at a time, and again in the backward pass: memory of chunk x V
    instead of M x V. Every device loops over the tokens that it has; a loop over chunks of the global batch would bring each
    chunk, or its logits, to all of them.
    """
    mesh = logical.current()
    parts = 1 if mesh is None else logical.size(mesh, logical.batch_axes(mesh))
    M = x_MxW.shape[0]
    parts = parts if M % parts == 0 else 1
    loops = -(-M // (parts * chunk))
    chunk = -(-M // (parts * loops))
    head_WxV = logical.constrain(head_WxV, 'embed', 'vocab?')

    def split(x):
        """[M, …] -> [loops, parts * chunk, …], the second dimension split over the devices as M was."""
        x = x.reshape(parts, M // parts, *x.shape[1:])
        x = jnp.pad(x, ((0, 0), (0, loops * chunk - M // parts)) + ((0, 0),) * (x.ndim - 2))
        x = x.reshape(parts, loops, chunk, *x.shape[2:]).swapaxes(0, 1).reshape(loops, parts * chunk, *x.shape[2:])
        return logical.constrain(x, None, 'batch', *[None] * (x.ndim - 2))

    def joined(x):
        """[loops, parts * chunk] -> [M]."""
        return x.reshape(loops, parts, chunk).swapaxes(0, 1).reshape(parts, -1)[:, :M // parts].reshape(M)

    @jax.checkpoint
    def part(x, targets):
        logits = logical.constrain((x @ head_WxV).astype(jnp.float32), 'batch', 'vocab?')
        nats = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return nats, (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)

    _, (nats, hits) = jax.lax.scan(lambda _, xs: (None, part(*xs)), None, (split(x_MxW), split(targets_M)))
    return joined(nats), joined(hits)
