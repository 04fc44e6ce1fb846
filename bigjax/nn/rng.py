"""The key of a seed.

JAX's own switch JAX_DEFAULT_PRNG_IMPL (often 'rbg' on TPUs) would change what `jax.random.key` makes. Under `vmap` an rbg key
draws for the whole batch, not for each key, so a member of a population would no longer be the run of its seed. Every key of
this project therefore names its generator.
"""
import jax

IMPL = 'threefry2x32'


def key(seed) -> jax.Array:
    """The typed key of an integer seed, the same under every default generator."""
    return jax.random.key(seed, impl=IMPL)
