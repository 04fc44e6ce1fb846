#!/usr/bin/env bash
# Expected: jax.transfer_guard('disallow') raises at each implicit copy between host and device, in both directions, so
#   a test on a CPU finds the reads that would make a training loop wait on an accelerator.
# What happens: on a CPU only copies to the device raise: int(x), float(x) and np.asarray(x) of a device array pass,
#   while x + 0 raises, because the 0 is copied to the device.
# Versions: jax 0.10.2.
# Why it matters: a loop that reads a loss every step passes such a test in CI and waits for the device every step on a
#   GPU or TPU.
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
x = jnp.arange(4.0)
total = jnp.sum(x)
jax.block_until_ready((x, total))
seen = {}
with jax.transfer_guard('disallow'):
    for name, read in (('int(total)', lambda: int(total)), ('np.asarray(x)', lambda: np.asarray(x)), ('x + 0', lambda: x + 0)):
        try:
            read()
            seen[name] = 'passes'
        except Exception as error:
            seen[name] = str(error).splitlines()[0][:90]
for name, what in seen.items():
    print(f'{name}: {what}')
assert seen['int(total)'] == seen['np.asarray(x)'] == 'passes' and seen['x + 0'] != 'passes'
PY
