#!/usr/bin/env bash
# Expected: jax.random.fold_in(key, i) and jax.random.split(key, n)[i] are two independent ways to derive keys, so code
#   may use one in the model and the other in the data.
# What happens: they are the same key, for threefry and for rbg: both parts of the program draw the same numbers.
# Versions: jax 0.10.2.
# Why it matters: a train step that folds in the step and an augmentation that splits the same key repeat the same
#   noise.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import jax
for impl in ('threefry2x32', 'rbg'):
    key = jax.random.key(7, impl=impl)
    folded, split = jax.random.fold_in(key, 3), jax.random.split(key, 8)[3]
    print(impl, jax.random.normal(folded, (3,)), jax.random.normal(split, (3,)))
    assert (jax.random.key_data(folded) == jax.random.key_data(split)).all()
PY
