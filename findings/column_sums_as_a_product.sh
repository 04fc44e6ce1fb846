#!/usr/bin/env bash
# Expected: the sum over the rows of a float32 matrix is as exact written as a product with a row of ones as it is by
#   jnp.sum; products are the usual trick to make reductions fast.
# What happens: on a CPU the product adds up one row after the other in float32: over 65,536 rows near 10,000 the mean
#   is off by about 3, jnp.sum is off by about 0.001. precision=HIGHEST changes nothing.
# Versions: jax 0.10.2, CPU.
# Why it matters: batch statistics computed so lose the variance of inputs that are not centred, and normalise by zero.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import os
os.environ['JAX_PLATFORMS'] = 'cpu'
import jax, jax.numpy as jnp, numpy as np
x = (1e4 + np.random.default_rng(0).normal(size=(65536, 64))).astype('float32')
exact = x.astype('float64').mean(0)
off = lambda total: float(np.abs(np.asarray(total, 'float64').ravel() / len(x) - exact).max())
summed = off(jax.jit(lambda x: jnp.sum(x, 0))(x))
product = off(jax.jit(lambda x: jnp.ones((1, len(x)), x.dtype) @ x)(x))
highest = off(jax.jit(lambda x: jnp.matmul(jnp.ones((1, len(x)), x.dtype), x, precision='highest'))(x))
print(f'largest error of the mean: jnp.sum {summed:.2g}, product with ones {product:.2g}, at the highest precision {highest:.2g}')
assert summed < 0.1 and product > 0.5 and highest > 0.5
PY
