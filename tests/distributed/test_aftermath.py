"""Who died is said before what JAX thinks of it."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

from bigjax.distributed import aftermath
from bigjax.distributed.aftermath import Aftermath

LEADER = 'process 0 on node1 (pid 77)'
POLLED = b'E1128 08:00:12.948888   29760 coordination_service_agent.cc:289] Polled an error from coordination service.\n'
FATAL = (b'F1128 08:00:12.948919   29760 client.h:80] Terminating process because the JAX distributed service detected fatal '
         b'errors.\nAdditional GRPC error information:\n:UNKNOWN:Error received from peer {grpc_message:"Socket closed"}\n')
GONE = f'{LEADER} is gone (it ended without a word); this process ends with it\n'.encode()


def test_the_cause_is_first_and_nothing_is_lost():
    passing = Aftermath(LEADER)
    assert passing.wait(0.0) is None
    assert passing.feed(b'before\n' + POLLED + FATAL, 10.0) == b'before\n'
    assert passing.due(10.5) == b'' and passing.wait(10.5) == 0.5
    assert passing.feed(GONE + b'after\n', 10.6) == GONE + b'after\n'
    assert passing.due(11.0) == POLLED + FATAL and passing.end() == b''


@pytest.mark.parametrize('parts', [[POLLED + FATAL], [POLLED[:1], POLLED[1:9], POLLED[9:], FATAL[:200], FATAL[200:]]])
def test_a_process_that_was_aborted_before_it_could_say_so(parts):
    passing = Aftermath(LEADER)
    assert not any(passing.feed(part, 10.0) for part in parts)
    assert passing.end() == f'{LEADER} is gone; JAX has ended this process with it\n'.encode() + POLLED + FATAL


def test_a_failure_that_is_not_the_leaders_end_is_not_called_so():
    passing = Aftermath(LEADER)
    passing.feed(FATAL.replace(b'Socket closed', b'task 2 failed'), 1.0)
    assert b'is gone' not in passing.end()


@pytest.mark.parametrize('text', [b'no end of line', b'Error: 3\n', b'W0 is a weight\n', b'E1128 is not of JAX\n', b'\r 50 %'])
def test_all_else_goes_out_at_once(text):
    passing = Aftermath(LEADER)
    assert passing.feed(text, 1.0) + passing.feed(b' more\n', 1.0) == text + b' more\n'
    assert passing.end() == b''


def test_a_line_that_has_begun_is_not_taken_for_one_of_jax():
    passing = Aftermath(LEADER)
    assert passing.feed(b'progress: ', 1.0) + passing.feed(POLLED, 1.0) == b'progress: ' + POLLED


@pytest.mark.parametrize('end', ['os.abort()', 'os._exit(1)', ''])
def test_what_an_aborted_process_wrote_arrives(end):
    """Also what it wrote last, and from below Python."""
    code = (f'import os, sys; from bigjax.distributed import aftermath; aftermath.divert({LEADER!r}); '
            f'print("one", file=sys.stderr); os.write(2, {POLLED + FATAL!r}); {end}')
    done = subprocess.run([sys.executable, '-c', code], cwd=pathlib.Path(aftermath.__file__).parents[2], stderr=subprocess.PIPE,
                          timeout=30, env={**os.environ})
    lines = done.stderr.decode().splitlines()
    assert lines[0] == 'one' and re.match(re.escape(LEADER) + ' is gone; JAX', lines[1]) and lines[2].startswith('E1128')
