#!/usr/bin/env bash
# Expected: the number of worker processes changes the speed of a pipeline, not what is in its batches.
# What happens: batches made after to_iter_dataset() are made in each worker from its own share of the examples: [0, 1,
#   2], [3, 4, 5] without workers, [0, 2, 4], [1, 3, 5] with two. MapDataset.batch before to_iter_dataset() keeps them.
#   mp_prefetch also refuses to run before absl has parsed flags, in a program that has none.
# Versions: grain 0.2.18, jax 0.10.2.
# Why it matters: a run that resumes on a machine with more cores trains on other batches than the run it continues.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'grain==0.2.18' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import pathlib, subprocess, sys
pathlib.Path('script.py').write_text("""
import sys
from absl import flags
import grain

def batches(workers, early):
    data = grain.MapDataset.range(6)
    data = data.batch(3).to_iter_dataset() if early else data.to_iter_dataset().batch(3)
    if workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return [batch.tolist() for batch in data]

if __name__ == '__main__':
    refused = ''
    try:
        batches(2, False)
    except flags.UnparsedFlagAccessError as error:
        refused = str(error).splitlines()[0]
    print('before flags are parsed:', refused)
    flags.FLAGS(sys.argv[:1])
    seen = {(workers, early): batches(workers, early) for workers in (0, 2) for early in (False, True)}
    for (workers, early), found in seen.items():
        print(f'{workers} workers, batched {"before" if early else "after"} to_iter_dataset: {found}', flush=True)
    assert refused and seen[0, False] != seen[2, False] and seen[0, True] == seen[2, True]
""")
sys.exit(subprocess.run([sys.executable, 'script.py'], timeout=120).returncode)
PY
