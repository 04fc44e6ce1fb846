#!/usr/bin/env bash
# Expected: a convolution of each channel alone (feature_group_count = channels) takes no longer than the same sum written as
#   shifted slices times a weight of each channel, which reads the image once per tap.
# What happens: on a CPU XLA's takes 15 to 40 times as long for 3x3 to 7x7 kernels of mobile networks and ConvNeXt, and with
#   its gradients 1.5 to 7 times.
# Versions: jax 0.10.2, two cores.
# Why it matters: MobileNet, EfficientNet and ConvNeXt spend most of their time on a CPU in these layers; written as a sum of
#   slices they are one loop that the compiler vectorises.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cd "$place"
JAX_PLATFORMS=cpu "$place/venv/bin/python" - <<'PY'
import time

import jax
import jax.numpy as jnp
import numpy as np

def library(x, kernel, pad):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, feature_group_count=x.shape[-1],
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

def slices(x, kernel, pad):
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return sum(x[:, i:i + height, j:j + width] * kernel[i, j, 0] for i, j in np.ndindex(*kernel.shape[:2]))

def seconds(f, *args):
    jax.block_until_ready(f(*args))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - start)
    return min(times)

ratios = []
for shape, size in (((4, 112, 112, 32), 3), ((4, 56, 56, 96), 7)):
    x, kernel = (jax.random.normal(jax.random.key(0), s) for s in (shape, (size, size, 1, shape[-1])))
    pad = size // 2
    one, other = (jax.jit(lambda x, kernel, f=f: f(x, kernel, pad)) for f in (library, slices))
    np.testing.assert_allclose(one(x, kernel), other(x, kernel), atol=1e-4)
    a, b = seconds(one, x, kernel), seconds(other, x, kernel)
    ratios.append(a / b)
    print(f'{size}x{size} on {shape}: {1e3 * a:.1f} ms by the library, {1e3 * b:.1f} ms by slices, {a / b:.0f} times')
assert min(ratios) > 4
PY
