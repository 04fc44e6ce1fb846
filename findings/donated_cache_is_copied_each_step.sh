#!/usr/bin/env bash
# Expected: a key-value cache that is donated to a jitted lax.while_loop and written by dynamic_update_slice is updated
#   in place, and a step that reads half of it is no slower than one that reads all.
# What happens: that depends on how the loop READS it. With an einsum over the whole array there is no copy; with the
#   same product after a reshape that moves nothing, or over a slice of it, each step copies the whole cache two to
#   four times and takes several times as long. The donated buffer is gone and aliased to the output in every case.
# Versions: jax 0.10.2, CPU.
# Why it matters: donation, is_deleted() and alias_size_in_bytes, where one looks, say nothing about it; each token costs
#   the traffic of several caches. Only temp_size_in_bytes, or copies in the body of the loop, show it.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cd "$place"
JAX_PLATFORMS=cpu "$place/venv/bin/python" - <<'PY'
import re, time
import jax, jax.numpy as jnp
BATCH, HEADS, SLOTS, WIDTH = shape = 2, 8, 1024, 64
rows, nbytes = BATCH * HEADS, 4 * BATCH * HEADS * SLOTS * WIDTH
reads = {
    'whole': lambda cache, query: jnp.einsum('bhtd,bhd->bht', cache, query),
    'reshaped': lambda cache, query: jnp.einsum(
        'xtd,xd->xt', cache.reshape(rows, SLOTS, WIDTH), query.reshape(rows, WIDTH)).reshape(BATCH, HEADS, SLOTS),
    'half': lambda cache, query: jnp.einsum('bhtd,bhd->bht', cache[:, :, :SLOTS // 2], query),
}

def decode(read):
    def run(cache, query, count):
        def step(carry):
            i, cache, last = carry
            cache = jax.lax.dynamic_update_slice(cache, last[:, :, None] * 1e-3, (0, 0, i, 0))
            return i + 1, cache, jnp.tanh(query + read(cache, query).max(-1, keepdims=True))
        return jax.lax.while_loop(lambda carry: carry[0] < count, step, (0, cache, query))
    return jax.jit(run, donate_argnums=0)

copies = {}
for name, read in reads.items():
    query = jnp.ones((BATCH, HEADS, WIDTH))
    program = decode(read).lower(jnp.zeros(shape), query, 500).compile()
    loop = program.as_text().split('\nENTRY')[0]  # what is before it is the body of the loop and what that calls
    copies[name], memory = len(re.findall(r'= f32\[2,8,1024,64\]\S* copy\(', loop)), program.memory_analysis()
    program(jnp.zeros(shape), query, 2)
    cache = jax.block_until_ready(jnp.zeros(shape))
    start = time.perf_counter()
    jax.block_until_ready(program(cache, query, 500))
    took = (time.perf_counter() - start) * 2
    print(f'{name}: {copies[name]} copies and {took:.2f} ms a step, temporaries {memory.temp_size_in_bytes / nbytes:.2f} caches, '
          f'aliased {memory.alias_size_in_bytes // nbytes}, donated buffer deleted: {cache.is_deleted()}')
    assert cache.is_deleted() and memory.alias_size_in_bytes >= nbytes
assert copies['whole'] == 0 and copies['reshaped'] > 0 and copies['half'] > 0
PY
