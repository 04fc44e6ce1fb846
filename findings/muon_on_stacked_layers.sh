#!/usr/bin/env bash
# Expected: optax.contrib.muon of the layers of a network gives the same updates whether the layers are separate arrays
#   or stacked along a leading axis, as nn.scan stacks them.
# What happens: it chooses by the number of axes: a stacked kernel [layers, in, out] has three and gets Adam, and
#   stacked biases [layers, out] have two and are orthogonalised. Updates differ by 225 % (kernels) and 68 % (biases).
# Versions: optax 0.2.8, jax 0.10.2.
# Why it matters: switching a model to scanned layers to compile faster trains it by another rule, silently; decay masks
#   by ndim have the same fault.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6' 'optax==0.2.8'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import jax, jax.numpy as jnp, numpy as np, optax
rng = np.random.default_rng(0)
stacked = {'kernel': jnp.asarray(rng.normal(size=(2, 4, 16)), 'float32'), 'bias': jnp.asarray(rng.normal(size=(2, 16)), 'float32')}
tx = optax.contrib.muon(1.0)

def update(gradients):
    parameters = jax.tree.map(jnp.zeros_like, gradients)
    return tx.update(gradients, tx.init(parameters), parameters)[0]

by_layer = [update(jax.tree.map(lambda g: g[i], stacked)) for i in range(2)]
separate = jax.tree.map(lambda *parts: jnp.stack(parts), *by_layer)
gap = jax.tree.map(lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)), update(stacked), separate)
print('relative difference of the updates, stacked against separate:', gap)
assert gap['kernel'] > 0.5 and gap['bias'] > 0.5
PY
