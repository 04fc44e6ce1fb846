#!/usr/bin/env bash
# Expected: variables of a model that are flattened to names with slashes and nested again are the same tree, as those of
#   every other layer are; so are weights that a file holds by such names.
# What happens: flax.linen.SpectralNorm keeps its vector under the one key 'Dense_0/kernel/u', slashes in it. Nested again it
#   is three dictionaries, and the model does not find it: it wants to draw the vector anew, and fails for want of a key.
# Versions: flax 0.12.8, jax 0.10.2.
# Why it matters: checkpoints, safetensors and rules by regex name parameters by their path; a path has to name one place.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'flax==0.12.8'
"$place/venv/bin/python" - <<'PY'
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.SpectralNorm(nn.Dense(2))(x, update_stats=False)


x = jnp.ones((1, 3))
variables = Model().init(jax.random.key(0), x)
again = unflatten_dict(flatten_dict(variables, sep='/'), sep='/')
print(jax.tree.map(jnp.shape, variables['batch_stats']), jax.tree.map(jnp.shape, again['batch_stats']))
assert jax.tree.structure(variables) != jax.tree.structure(again)
Model().apply(variables, x)
try:
    Model().apply(again, x)
    raise SystemExit('the nested tree was accepted')
except flax.errors.InvalidRngError as error:
    print(error)
PY
