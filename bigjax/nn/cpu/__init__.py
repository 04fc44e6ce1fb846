"""What XLA needs on a CPU to be fast, in one place; on accelerators the layers are written plainly.

Measured against PyTorch by `python -m bigjax.bench`:

1. A reduction over many rows (the statistics of BatchNorm, the gradient of a bias) becomes a chain of reduce-windows,
   several times slower than the same sum as a product with ones.
2. The compiler recomputes an elementwise chain in every consumer, also inside a transposition, where it reads memory
   in the worst order. `stored` draws a line: what goes in and what comes out is in memory.
3. Convolutions of the YNNPACK library run on one core; Eigen's use all. Its products are the faster ones where few rows
   meet a matrix, and Eigen's in attention and for thousands of rows (`compiler_options`).
4. Only in the outermost computation are convolutions brought into the one order of axes that is fast; inside a `scan`
   or `stored` they must be written in it (`bigjax.nn.conv`).
5. The C library returns every large buffer to the system, and takes page faults to get it back (`keep_memory`).
"""
import contextlib
import ctypes
import sys
from collections.abc import Callable
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

MANY_TOKENS = 2048

_platform: ContextVar[str | None] = ContextVar('platform', default=None)


@contextlib.contextmanager
def lowering_for(platform: str):
    """Inside, layers are traced for `platform` ('cpu', 'gpu', 'tpu'), which need not be there."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def on_cpu() -> bool:
    """Whether layers traced now are for the CPU: the default backend's, unless `lowering_for` says otherwise."""
    return (_platform.get() or jax.default_backend()) == 'cpu'


def compiler_options(tokens: int = 0) -> dict | None:
    """For `jax.jit(f, compiler_options=…)` of a function that trains or predicts on so many tokens at a time."""
    if not on_cpu():
        return None
    library = '' if tokens >= MANY_TOKENS else 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    return {'xla_cpu_experimental_ynn_fusion_type': library}


def keep_memory() -> bool:
    """Tells the C library to keep freed memory for the next step; True where it could be told (glibc).

    To be called before the first computation: XLA's threads must not have pools of their own, which give large
    buffers back. Affects the whole process, whose resident size then stays at its peak.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1
    settings = ((arena_max, 1), (mmap_threshold, 2**30), (trim_threshold, 2**31 - 1))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])


def stored(f: Callable) -> Callable:
    """`f` of arrays, compiled on its own: nothing is fused into it or out of it."""
    jitted = jax.jit(f)

    def call(*args):
        with set_xla_metadata(inlineable='false'):
            return jitted(*args)

    return call


def ones(rows: int, like: jax.Array) -> jax.Array:
    """[rows, 1] of ones with the dtype and, under vmap, the member axis of the vector `like`: products stay batched."""
    some = like[:1]
    return jnp.where(some == some, jnp.ones((rows, 1), like.dtype), 1)


def column_sums(x_MxC: jax.Array, like: jax.Array) -> jax.Array:
    """[M, C] -> [C], the sum over rows as a product; `like` as in `ones`, for example a parameter of the layer."""
    return jax.lax.dot_general(ones(x_MxC.shape[0], like), x_MxC, (((0,), (0,)), ((), ())))[0]


def global_norm(tree) -> jax.Array:
    """The Euclidean norm of all leaves together; on CPU in two stages, which the compiler may not join into a slow one."""
    def squares(x):
        sums = jnp.sum(jnp.square(x), axis=tuple(range(x.ndim - 1)))
        return jnp.sum(jax.lax.optimization_barrier(sums) if on_cpu() else sums)

    return jnp.sqrt(sum(map(squares, jax.tree.leaves(tree))))


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y [..., F] + bias [F]; on CPU such that the gradient of the bias is a product."""
    if not on_cpu():
        return y + bias
    rows = y.reshape(-1, y.shape[-1])
    return (rows + ones(rows.shape[0], bias) @ bias[None]).reshape(y.shape)
