#!/usr/bin/env bash
# Expected: a checkpoint loaded without a target has its leaves in the order in which they were saved, so that
#   jax.tree.leaves of both can be compared one by one.
# What happens: integer keys come back as text and in the order of text ('10' before '2'), so the leaves are in another
#   order; with a target all are right.
# Versions: orbax-checkpoint 0.12.8 (its v1 API), jax 0.10.2.
# Why it matters: tools that zip the leaves of two trees (diffs, averages of checkpoints) pair the wrong arrays from the
#   eleventh layer on.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6' 'orbax-checkpoint==0.12.8'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import os
import jax, numpy as np
from orbax.checkpoint import v1
tree = {i: np.full(1, float(i)) for i in (0, 1, 2, 10)}
v1.save(os.path.abspath('layers'), tree)
back = v1.load(os.path.abspath('layers'))
order = lambda t: [float(x[0]) for x in jax.tree.leaves(t)]
print('saved', order(tree), 'loaded', list(back), order(back))
assert order(tree) == [0.0, 1.0, 2.0, 10.0] and order(back) == [0.0, 1.0, 10.0, 2.0]
PY
