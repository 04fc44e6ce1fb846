#!/usr/bin/env bash
# Expected: a program that handles SIGTERM (to save before a preemption) still does after jax.distributed.initialize():
#   signal.getsignal() shows its handler before and after.
# What happens: initialize() starts a preemption service, on by default, whose C++ handler replaces the program's. Python is not
#   told: getsignal() still names the handler, which is never called, and the process goes on without saving. A handler that
#   is set after initialize() works, and so does one set before it with jax_enable_preemption_service=False.
# Versions: jax 0.10.2 and jaxlib 0.10.2, one process on a CPU.
# Why it matters: a loop that saves on SIGTERM is tested in one process, where initialize() is not called, and loses its last
#   steps on the cluster, when the scheduler sends SIGKILL after the grace period.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'jax==0.10.2' 'numpy==2.4.6'
cat > "$place/handler.py" <<'PY'
import os, signal, socket, sys, time
import jax

order, called = sys.argv[1], []
handle = lambda number, frame: called.append(number)
if order != 'after':
    signal.signal(signal.SIGTERM, handle)
jax.config.update('jax_enable_preemption_service', order != 'service off')
with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
jax.distributed.initialize(f'127.0.0.1:{port}', 1, 0)
if order == 'after':
    signal.signal(signal.SIGTERM, handle)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
print(f'{order}: getsignal names the handler: {signal.getsignal(signal.SIGTERM) is handle}, it was called: {bool(called)}')
PY
export JAX_PLATFORMS=cpu
for order in before after 'service off'; do
    "$place/venv/bin/python" "$place/handler.py" "$order" 2> "$place/stderr" | tee -a "$place/seen"
done
diff "$place/seen" - <<'SEEN'
before: getsignal names the handler: True, it was called: False
after: getsignal names the handler: True, it was called: True
service off: getsignal names the handler: True, it was called: True
SEEN
