"""python -m tests.fuzz READER [--seconds=600] [--seed=0]: exits 1 where a reader did what it must not; the case is kept."""
import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from tests.fuzz import trial
from tests.fuzz.readers import READERS

CASES = pathlib.Path(__file__).parent / 'cases'


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog='python -m tests.fuzz')
    parser.add_argument('reader', choices=READERS)
    parser.add_argument('--seconds', type=float, default=600)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f'fuzz-{options.reader}-') as folder:  # left there if the process dies of an input
        tried, found = trial.run(READERS[options.reader], pathlib.Path(folder), seed=options.seed, seconds=options.seconds)
    print(f'{options.reader}: {tried:,} inputs in {time.monotonic() - began:.0f} s, seed {options.seed}: {len(found)} defects')
    for wrong, (name, data) in found.items():
        path = CASES / options.reader / hashlib.sha256(data).hexdigest()[:8] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f'  {wrong}\n    kept as {path} ({len(data)} bytes)')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
