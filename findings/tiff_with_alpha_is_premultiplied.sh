#!/usr/bin/env bash
# Expected: cv2.imread(…, IMREAD_UNCHANGED) returns the stored colours and alpha, alike for PNG, WebP and TIFF.
# What happens: TIFF colours come back multiplied by alpha: (200, 200, 200, 128) is read as (100, 100, 100, 128), PNG
#   and WebP of the same image as (200, 200, 200, 128). Pillow reads 200 from all three.
# Versions: opencv-python-headless 5.0.0.93 (cv2 5.0.0), pillow 13.0.0.
# Why it matters: blending with a background, as for PNG, multiplies by alpha twice: up to 63 levels too dark in an
#   image data set.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'opencv-python-headless==5.0.0.93' 'pillow==13.0.0' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import cv2, numpy as np
from PIL import Image
image = Image.fromarray(np.full((2, 2, 4), (200, 200, 200, 128), np.uint8), 'RGBA')
found = {}
for ending, options in (('png', {}), ('webp', {'lossless': True}), ('tiff', {})):
    image.save(f'a.{ending}', **options)
    found[ending] = cv2.imread(f'a.{ending}', cv2.IMREAD_UNCHANGED)[0, 0].tolist()
    print(ending, 'cv2', found[ending], 'Pillow', np.asarray(Image.open(f'a.{ending}'))[0, 0].tolist())
assert found['png'] == found['webp'] == [200, 200, 200, 128] and found['tiff'] == [100, 100, 100, 128]
PY
