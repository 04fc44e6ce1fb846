#!/usr/bin/env bash
# Expected: flax.linen.LayerNorm of float32 inputs with mean 1,000 and deviation 1 is right to about 1e-4, as
#   torch.nn.functional.layer_norm is.
# What happens: the default use_fast_variance=True computes E[x²] − E[x]² in float32: the output is off by 0.2; with
#   use_fast_variance=False it is off by 6e-5. BatchNorm and GroupNorm have the same default.
# Versions: flax 0.12.8, jax 0.10.2, torch 2.13.0.
# Why it matters: raw sensor values, years or coordinates as inputs lose their variance in the first norm, silently.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6' 'flax==0.12.8' 'torch==2.13.0'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import flax.linen as nn, jax.numpy as jnp, numpy as np, torch
x = (1000 + np.random.default_rng(0).normal(size=(64, 128))).astype('float32')
exact = x.astype('float64')
exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
variables = {'params': {'scale': jnp.ones(128), 'bias': jnp.zeros(128)}}
error = lambda y: float(np.abs(np.asarray(y) - exact).max())
default = error(nn.LayerNorm().apply(variables, x))
slow = error(nn.LayerNorm(use_fast_variance=False).apply(variables, x))
peer = error(torch.nn.functional.layer_norm(torch.from_numpy(x), (128,), eps=1e-6))
print(f'largest error: flax default {default:.2g}, use_fast_variance=False {slow:.2g}, torch {peer:.2g}')
assert default > 0.05 and slow < 1e-3 and peer < 1e-3
PY
