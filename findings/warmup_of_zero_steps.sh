#!/usr/bin/env bash
# Expected: an optax schedule with a warm-up of 0 steps begins at its peak.
# What happens: linear_schedule and warmup_constant_schedule with 0 steps stay at their INITIAL value, 0, for the whole
#   run; warmup_cosine_decay_schedule with 0 begins at the peak.
# Versions: optax 0.2.8, jax 0.10.2.
# Why it matters: a sweep over warm-up lengths that includes 0 trains one arm at a rate of 0: parameters never move, and
#   nothing raises.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6' 'optax==0.2.8'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import optax
schedules = {'linear': optax.linear_schedule(0.0, 0.1, 0), 'warmup_constant': optax.warmup_constant_schedule(0.0, 0.1, 0),
             'warmup_cosine_decay': optax.warmup_cosine_decay_schedule(0.0, 0.1, 0, 100)}
rates = {name: [float(schedule(step)) for step in (0, 1, 50)] for name, schedule in schedules.items()}
for name, found in rates.items():
    print(f'{name}: rates at steps 0, 1, 50: {found}')
assert rates['linear'] == rates['warmup_constant'] == [0.0, 0.0, 0.0] and rates['warmup_cosine_decay'][0] > 0.09
PY
