"""The formulations that XLA needs on a CPU to be fast, in one folder and behind one switch; layers are plain elsewhere.

Each is kept where a network gains a tenth or more by it: `python -m bigjax.bench --against=plain` times the networks with and
without each of `FORMULATIONS`. What they rest on:

1. The compiler recomputes an elementwise chain in every consumer, also inside a transposition, where it reads memory
   in the worst order. `stored` draws a line: what goes in and what comes out is in memory.
2. Convolutions of the YNNPACK library run on one core; Eigen's use all. Its reductions and its products of few rows are
   the faster ones, and Eigen's products in attention and for thousands of rows (`compiler_options`).
3. Only in the outermost computation are convolutions brought into the one order of axes that is fast; inside a `scan`
   or `stored` they must be written in it (`bigjax.nn.conv`).
4. The C library returns every large buffer to the system, and takes page faults to get it back (`keep_memory`).
"""
import contextlib
import ctypes
import sys
from collections.abc import Callable
from contextvars import ContextVar

import jax

from bigjax.compat import set_xla_metadata

MANY_TOKENS = 2048
NEVER = -1  # the C library's threshold without a limit; 2 GiB is its largest number, and larger heaps were trimmed every step
TOP_PAD_BYTES = 64 * 2**20  # by which the heap grows at a time: address space, resident only once it is used

_platform: ContextVar[str | None] = ContextVar('platform', default=None)
FORMULATIONS = ('attention', 'conv', 'pool', 'recurrent')  # what a CPU has of its own, by layer
_plain: ContextVar[frozenset] = ContextVar('plain', default=frozenset())


@contextlib.contextmanager
def plain_layers(*names: str):
    """Context manager in which layers are traced as flax.linen and the equations have them, also for a CPU.

    Args:
      names: the ones of `FORMULATIONS` that are left out; all by default.
    """
    token = _plain.set(frozenset(names or FORMULATIONS))
    try:
        yield
    finally:
        _plain.reset(token)


def kernels(name: str) -> bool:
    """Whether a layer traced now takes its CPU formulation, one of `FORMULATIONS`: on a CPU, outside `plain_layers`."""
    return on_cpu() and name not in _plain.get()


@contextlib.contextmanager
def lowering_for(platform: str):
    """Inside, layers are traced for `platform` ('cpu', 'gpu', 'tpu'), which need not be there."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def on_cpu() -> bool:
    """Whether layers traced now are for the CPU: the default backend's, or the one of `lowering_for`."""
    return (_platform.get() or jax.default_backend()) == 'cpu'


def compiler_options(tokens: int = 0) -> dict | None:
    """The options for `jax.jit(f, compiler_options=…)` of a function that trains or predicts on `tokens` tokens at a time.

    YNNPACK gets reductions and products of few rows. The compiler's own choice gives it convolutions, too, which takes a
    residual network twice as long; for thousands of rows Eigen's products are faster.
    """
    library = '' if tokens >= MANY_TOKENS else 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
    return {'xla_cpu_experimental_ynn_fusion_type': library} if on_cpu() else None


def keep_memory() -> bool:
    """Sets the C library (glibc) to keep freed memory for the next step; returns whether it did.

    Call it before the first computation: XLA's threads must not have pools of their own, which give large buffers back.
    No allocation may be mapped on its own either: glibc unmaps those when they are freed, and a step whose one buffer
    exceeds a gigabyte would fault its pages in anew each time. Affects the whole process, whose resident size then stays
    at its peak.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    arena_max, mmap_max, top_pad, trim_threshold = -8, -4, -2, -1
    settings = ((arena_max, 1), (mmap_max, 0), (top_pad, TOP_PAD_BYTES), (trim_threshold, NEVER))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])


def stored(f: Callable) -> Callable:
    """`f` of arrays, compiled on its own: nothing is fused into it or out of it."""
    jitted = jax.jit(f)

    def call(*args):
        with set_xla_metadata(inlineable='false'):
            return jitted(*args)

    return call
