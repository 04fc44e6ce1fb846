"""Cross entropy over a large vocabulary without ever holding all logits.

Glossary: M tokens · W width · V vocabulary.
"""
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bigjax.sharding import logical


def chunked_cross_entropy(x: jax.Array, head_WxV: jax.Array, targets: jax.Array, chunk: int = 1024):
    """Nats of each target and whether it was the most likely, both float32 of the shape of `targets`.

    Logits are made for `chunk` tokens of each device at a time, and again in the backward pass: memory of chunk x V instead
    of M x V. Every device loops over the tokens that it has, with the whole head: a loop over chunks of the global batch
    would send each chunk, or its logits, to all of them, and sum the head's gradient in every iteration.

    Args:
      x: [M, W], or [B, T, W], of which T may be split over the mesh's 'seq'.
      targets: [M] or [B, T].
    """
    mesh = logical.current()
    by_dimension = () if mesh is None else (logical.batch_axes(mesh), ('seq',))[:targets.ndim]
    splits = [tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1) for axes in by_dimension]
    splits = [axes if n % logical.size(mesh, axes) == 0 else () for axes, n in zip(splits, targets.shape, strict=False)]
    if not any(splits):
        return _chunks(x, head_WxV, targets, chunk)
    rows, manual = PartitionSpec(*(axes or None for axes in splits)), {axis for axes in splits for axis in axes}
    head_WxV = logical.constrain(head_WxV, 'embed', 'vocab?')
    with logical.using(None):  # inside, the other axes are the compiler's
        return jax.shard_map(functools.partial(_chunks, chunk=chunk), mesh=mesh, in_specs=(rows, PartitionSpec(), rows),
                             out_specs=(rows, rows), axis_names=manual, check_vma=False)(x, head_WxV, targets)


def _chunks(x, head_WxV, targets, chunk):
    M, W, shape = targets.size, x.shape[-1], targets.shape
    loops = -(-M // chunk)
    chunk = -(-M // loops)  # as even as can be: little padding
    pad = loops * chunk - M
    x = jnp.pad(x.reshape(M, W), ((0, pad), (0, 0))).reshape(loops, chunk, W)
    targets = jnp.pad(targets.reshape(M), (0, pad)).reshape(loops, chunk)

    @jax.checkpoint
    def part(x, targets):
        logits = (x @ head_WxV).astype(jnp.float32)
        nats = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return nats, (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)

    _, (nats, hits) = jax.lax.scan(lambda _, xs: (None, part(*xs)), None, (x, targets))
    return nats.reshape(-1)[:M].reshape(shape), hits.reshape(-1)[:M].reshape(shape)
