"""Which end is the cause, and what class it is."""
import signal

import pytest

from launch import outcome
from launch.outcome import End


@pytest.mark.parametrize(('code', 'kind'), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (75, 75), (5, 1), (137, 1), (-9, 1)])
def test_every_code_has_a_class(code, kind):
    assert outcome.kind(code) == kind and kind in outcome.CLASSES


@pytest.mark.parametrize(('code', 'words'), [
    (-9, 'was killed by SIGKILL'), (-6, 'was killed by SIGABRT'), (-(signal.SIGRTMIN + 3), 'was killed by signal '),
    (3, 'ended with exit code 3'),
])
def test_ends_in_words(code, words):
    assert str(End(1, code, 0.0)).startswith(f'process 1 {words}')


@pytest.mark.parametrize(('ends', 'told', 'process'), [
    ([(0, 0, 1.0), (1, 0, 2.0)], None, None),
    ([(0, -6, 2.0), (1, 1, 1.0)], None, 1),            # the peer aborts after it
    ([(0, -9, 1.0), (1, 1, 2.0)], None, 0),
    ([(0, 0, 1.0), (1, -9, 2.0)], None, 1),            # who ended well is no cause
    ([(0, 75, 3.0), (1, 3, 4.0)], 5.0, 0),
    ([(0, 1, 6.0), (1, -9, 4.0)], 5.0, 1),             # by itself before us, though killed
    ([(0, -15, 6.0), (1, 75, 7.0)], 5.0, 1),           # all after us: who chose its code
    ([(0, -15, 7.0), (1, -9, 8.0)], 5.0, 0),
    ([(0, 0, 6.0), (1, 0, 7.0)], 5.0, None),
])
def test_the_cause(ends, told, process):
    found = outcome.cause([End(*end) for end in ends], *([] if told is None else [told]))
    assert (found and found.process) == process
