#!/usr/bin/env bash
# Expected: a tree with the keys 'enc.w' and 'enc' / 'w' comes back as it was saved, or saving it is refused.
# What happens: both leaves are written to one place and both come back as the same array: one of them is lost without
#   an error.
# Versions: orbax-checkpoint 0.12.8 (its v1 API), jax 0.10.2.
# Why it matters: state dicts of other frameworks have dotted names; stored beside nested ones they overwrite each
#   other, and checksums of the files are right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6' 'orbax-checkpoint==0.12.8'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import os
import numpy as np
from orbax.checkpoint import v1
tree = {'enc.w': np.ones(2), 'enc': {'w': np.zeros(2)}}
v1.save(os.path.abspath('dotted'), tree)
back = v1.load(os.path.abspath('dotted'))
print('saved', tree, 'loaded', back)
assert (np.asarray(back['enc.w']) == np.asarray(back['enc']['w'])).all()
PY
