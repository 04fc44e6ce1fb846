"""The witness prints who died exactly where this process could not."""
import subprocess
import sys

import pytest

PARENT = '''
import os, socket, sys, time
from bigjax.distributed.witness import Witness
leader, link = socket.socketpair()
link.setblocking(False)
witness = Witness(link, 'process 0 on node1 (pid 77)')
{harm}
os._exit(1)
'''


@pytest.mark.parametrize(('harm', 'reported'), [
    ('leader.close()', True),
    ("leader.sendall(b'{\"kind\": \"notice\", \"text\": \"SIGTERM\"}\\n'); leader.close()", True),
    ("leader.sendall(b'{\"kind\": \"bye\", \"text\": \"\"}\\n'); leader.close()", False),
    ('leader.close(); witness.dismiss()', False),
    ('os.set_inheritable(leader.fileno(), True); os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1")', False)],
    ids=['rank 0 died', 'rank 0 died after a message', 'rank 0 left', 'this process has reported it', 'rank 0 lives'])
def test_the_death_of_rank_0_is_reported_where_this_process_could_not(harm, reported):
    done = subprocess.run([sys.executable, '-c', PARENT.replace('{harm}', harm)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    expected = 'process 0 on node1 (pid 77) is gone; JAX has ended this process with it\n'
    assert done.stderr == (expected if reported else '')
