#!/usr/bin/env bash
# Expected: np.savez of arrays that a JAX program has in bfloat16 (or float8) either keeps their type or raises.
# What happens: it writes them without a word. bfloat16 and float8_e4m3fn come back as void arrays ('|V2', '|V1'): no
#   arithmetic, no astype, and nothing that says which type they were (view(ml_dtypes.bfloat16) brings the numbers back, if
#   one knows). float8_e5m2 is filed as '<f1', which np.load then calls no valid type: the array cannot be read at all.
# Versions: numpy 2.4.6, ml_dtypes 0.6.0.
# Why it matters: .npz is the format that big_vision and the Vision Transformer's authors publish weights in, and what
#   np.savez makes of a half-precision checkpoint is found out when it is loaded.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'numpy==2.4.6' 'ml_dtypes==0.6.0'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import ml_dtypes, numpy as np

saved = {name: np.linspace(0.5, 2, 4).astype(getattr(ml_dtypes, name)) for name in ('bfloat16', 'float8_e4m3fn', 'float8_e5m2')}
np.savez('weights.npz', **saved)
outcome = {}
with np.load('weights.npz') as file:
    for name, array in saved.items():
        try:
            loaded = file[name]
        except ValueError as error:
            outcome[name] = 'unreadable'
            print(f'{name}: np.load: {error}')
            continue
        outcome[name] = loaded.dtype.str
        assert np.array_equal(loaded.view(array.dtype), array)
        try:
            loaded.astype(np.float32)
        except (TypeError, ValueError) as error:
            print(f'{name}: {loaded.dtype.str}, astype(float32): {type(error).__name__}: {error}')
        else:
            raise SystemExit(f'{name}: it is a number again')
print(outcome)
assert outcome == {'bfloat16': '|V2', 'float8_e4m3fn': '|V1', 'float8_e5m2': 'unreadable'}
PY
