"""Cross entropy over a large vocabulary without ever holding all logits.

Glossary: M tokens · W width · V vocabulary.
"""
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bigjax.sharding import logical


def chunked_cross_entropy(x_MxW: jax.Array, head_WxV: jax.Array, targets_M: jax.Array, chunk: int = 1024):
    """Nats of each target and whether it was the most likely, both [M] float32.

    Logits are made for `chunk` tokens of each device at a time, and again in the backward pass: memory of chunk x V instead
    of M x V. Every device loops over the tokens that it has, with the whole head: a loop over chunks of the global batch
    would send each chunk, or its logits, to all of them, and sum the head's gradient in every turn.
    """
    mesh = logical.current()
    axes = () if mesh is None else tuple(a for a in logical.batch_axes(mesh) if mesh.shape[a] > 1)
    if not axes or x_MxW.shape[0] % logical.size(mesh, axes):
        return _chunks(x_MxW, head_WxV, targets_M, chunk)
    head_WxV, rows = logical.constrain(head_WxV, 'embed', 'vocab?'), PartitionSpec(axes)
    with logical.using(None):  # inside, the other axes are the compiler's
        return jax.shard_map(functools.partial(_chunks, chunk=chunk), mesh=mesh, in_specs=(rows, PartitionSpec(), rows),
                             out_specs=(rows, rows), axis_names=set(axes), check_vma=False)(x_MxW, head_WxV, targets_M)


def _chunks(x_MxW, head_WxV, targets_M, chunk):
    M, W = x_MxW.shape
    loops = -(-M // chunk)
    chunk = -(-M // loops)  # as even as can be: little padding
    pad = loops * chunk - M
    x = jnp.pad(x_MxW, ((0, pad), (0, 0))).reshape(loops, chunk, W)
    targets = jnp.pad(targets_M, (0, pad)).reshape(loops, chunk)

    @jax.checkpoint
    def part(x, targets):
        logits = (x @ head_WxV).astype(jnp.float32)
        nats = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return nats, (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)

    _, (nats, hits) = jax.lax.scan(lambda _, xs: (None, part(*xs)), None, (x, targets))
    return nats.reshape(-1)[:M], hits.reshape(-1)[:M]
