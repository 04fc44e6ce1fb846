#!/usr/bin/env bash
# Expected: vmap of a function of a key gives each member what the function gives for its key alone.
# What happens: with rbg keys (JAX_DEFAULT_PRNG_IMPL=rbg, usual on TPUs) the members of a vmap draw other numbers than
#   each key draws alone; with threefry they are equal.
# Versions: jax 0.10.2.
# Why it matters: an ensemble trained by vmap is then not the set of runs of its seeds, and a member cannot be
#   reproduced by itself.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import jax, jax.numpy as jnp
for impl, same in (('threefry2x32', True), ('rbg', False)):
    keys = jax.random.split(jax.random.key(0, impl=impl), 4)
    draw = lambda key: jax.random.normal(key, (3,))
    gap = float(jnp.abs(jax.vmap(draw)(keys) - jnp.stack([draw(key) for key in keys])).max())
    print(f'{impl}: largest difference between vmap and one by one: {gap:.3f}')
    assert (gap == 0) == same
PY
