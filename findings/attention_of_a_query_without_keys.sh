#!/usr/bin/env bash
# Expected: a query whose mask allows no key gets zeros, as torch.nn.functional.scaled_dot_product_attention gives since
#   2.5, or at least NaN.
# What happens: jax.nn.dot_product_attention returns the mean over ALL values, masked ones and padding included, without
#   a warning.
# Versions: jax 0.10.2, torch 2.13.0.
# Why it matters: a fully padded row or a window without keys leaks the content of masked positions into the output and
#   its gradient.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6' 'torch==2.13.0'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import jax, jax.numpy as jnp, numpy as np, torch
query, key = np.ones((1, 2, 1, 4), 'float32'), np.ones((1, 3, 1, 4), 'float32')
value = np.arange(12, dtype='float32').reshape(1, 3, 1, 4)
ours = np.asarray(jax.nn.dot_product_attention(query, key, value, mask=jnp.zeros((1, 1, 2, 3), bool)))[0, 0, 0]
heads_first = [torch.from_numpy(x).transpose(1, 2) for x in (query, key, value)]
theirs = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=torch.zeros(1, 1, 2, 3, dtype=torch.bool))[0, 0, 0].numpy()
print('jax', ours, 'mean of all values', value[0, :, 0].mean(0), 'torch', theirs)
assert np.allclose(ours, value[0, :, 0].mean(0), atol=1e-4) and (theirs == 0).all()
PY
