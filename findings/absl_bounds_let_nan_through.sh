#!/usr/bin/env bash
# Expected: a flag of absl with the bounds 0 and 10 takes no value outside of them.
# What happens: --wait=-1 and --wait=11 are refused, --wait=nan is taken: the bounds are tested by `<` and `>`, which are both
#   false of NaN.
# Versions: absl-py 2.5.1.
# Why it matters: `deadline = now + nan` is never reached, and `value > limit` is never true, so a timeout or a clipping norm
#   that was meant to be checked is silently off.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'absl-py==2.5.1'
cd "$place"
"$place/venv/bin/python" - <<'PY'
from absl import flags

values = flags.FlagValues()
flags.DEFINE_float('wait', 1.0, 'seconds', lower_bound=0.0, upper_bound=10.0, flag_values=values)
taken = {}
for text in ('-1', '11', 'nan', '5'):
    try:
        values(['program', f'--wait={text}'])
        taken[text] = True
    except flags.Error:
        taken[text] = False
    print(f"--wait={text}: {'taken' if taken[text] else 'refused'}")
assert taken == {'-1': False, '11': False, 'nan': True, '5': True}
PY
