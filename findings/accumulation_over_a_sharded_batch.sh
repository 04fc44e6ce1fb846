#!/usr/bin/env bash
# Expected: gradient accumulation the usual way, x.reshape(k, B // k, …) and lax.scan over the k slices inside jit, on a
#   batch that is sharded over 8 devices: each device computes B / 8 rows in all, B / 8 / k of them per slice.
# What happens: the partitioner all-gathers the slices, and each device computes every row of every slice: k = 8 costs 8
#   times the FLOPs of k = 1 and saves no memory. Values are right, so no test of values sees it.
# Versions: jax 0.10.2, eight host devices, a mesh with automatic axes.
# Why it matters: accumulation is used to fit a large batch; here it multiplies the time by k. Dealing each device its
#   own rows, reshape(B // k, k).swapaxes(0, 1), keeps one row per device and slice.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cd "$place"
"$place/venv/bin/python" - <<'PY'
import os, re
os.environ.update(XLA_FLAGS='--xla_force_host_platform_device_count=8', JAX_PLATFORMS='cpu')
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

mesh = Mesh(np.array(jax.devices()), ('data',))
whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec('data'))
B, K, WIDTH = 64, 8, 256

def compiled(slices):
    def step(w, x):
        def body(total, part):
            return total + jax.grad(lambda w: jnp.sum(jnp.tanh(part @ w) ** 2))(w), None
        return jax.lax.scan(body, jnp.zeros_like(w), slices(x))[0]
    shapes = jax.ShapeDtypeStruct((WIDTH, WIDTH), 'float32'), jax.ShapeDtypeStruct((B, WIDTH), 'float32')
    return jax.jit(step, in_shardings=(whole, split), out_shardings=whole).lower(*shapes).compile()

usual = compiled(lambda x: x.reshape(K, B // K, WIDTH))
dealt = compiled(lambda x: x.reshape(B // K, K, WIDTH).swapaxes(0, 1))
def rows(program):  # of the activation that a device computes per slice
    return sorted({int(n or 1) for n in re.findall(rf'f32\[(?:(\d+),)?{WIDTH}\]\S* tanh', program.as_text())})
for name, program in (('usual', usual), ('dealt', dealt)):
    print(f'{name}: rows computed per device and slice {rows(program)}, the batch is gathered: {"all-gather" in program.as_text()}')
assert rows(usual) == [B // K] and 'all-gather' in usual.as_text()
assert rows(dealt) == [B // K // 8] and 'all-gather' not in dealt.as_text()
PY
