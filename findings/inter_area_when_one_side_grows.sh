#!/usr/bin/env bash
# Expected: cv2.resize with INTER_AREA averages the pixels that fall together, in each direction that shrinks.
# What happens: as soon as one side grows the whole call silently becomes bilinear: 0/255 stripes of 50 × 2000 resized
#   to 100 × 100 give a constant 13 where the mean is 127.5. Two calls, first the side that shrinks, then the one that
#   grows, give 128.
# Versions: opencv-python-headless 5.0.0.93 (cv2 5.0.0), numpy 2.4.6.
# Why it matters: random resized crops have sides that grow and shrink in one call; such crops alias although
#   antialiasing was asked for.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'opencv-python-headless==5.0.0.93' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import cv2, numpy as np
stripes = np.zeros((50, 2000), np.uint8)
stripes[:, ::2] = 255
once = cv2.resize(stripes, (100, 100), interpolation=cv2.INTER_AREA)
twice = cv2.resize(cv2.resize(stripes, (100, 50), interpolation=cv2.INTER_AREA), (100, 100), interpolation=cv2.INTER_LINEAR)
print(f'mean of the image {stripes.mean()}, one call {once.min()} to {once.max()}, two calls {twice.min()} to {twice.max()}')
assert abs(float(once.mean()) - 127.5) > 50 and abs(float(twice.mean()) - 127.5) < 2
PY
