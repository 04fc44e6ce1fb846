"""The trace of some steps, and its table."""
import io
import re

import pytest

from bigjax.runs.progress import Progress
from bigjax.runs.writer import Records
from bigjax.train import profile
from bigjax.train.loop import Loop
from tests import tiny
from tests.refused import refused


@pytest.mark.parametrize('text', ['5', '5:5', '7:5', 'a:b', '-1:4', '1:2:3'])
def test_a_range_that_is_none(text):
    with refused('profile/range', text):
        profile.parse(text)


@pytest.mark.parametrize('text', ['500:600', '5:11'])
def test_a_range_beyond_the_run(text):
    with refused('profile/range', text, '10', '--profile=5:10'):
        profile.parse(text, 10)


def test_a_range():
    assert profile.parse('3:10') == (3, 10) and profile.parse('') is None


def test_what_is_inside_an_operation_is_not_counted_twice():
    events = [(0, 100, 'while'), (10, 40, 'dot'), (15, 20, 'copy'), (50, 60, 'dot'), (100, 130, 'add')]
    assert sorted(map(tuple, profile._own(events))) == [('add', 30), ('copy', 5), ('dot', 10), ('dot', 25), ('while', 60)]


def test_places_are_modules_without_the_transformations():
    text = ('  %dot.1 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(call)/transpose(jvp(Net))/hidden/dot_general" id=1}\n'
            '  ROOT tanh.2 = f32[2]{0} tanh(a), metadata={op_name="jit(call)/jvp(Net)/head/tanh"}\n')
    assert profile.places(text) == {'dot.1': 'hidden/dot_general (backward)', 'tanh.2': 'head/tanh'}


def test_the_table_has_the_layers_of_the_steps_asked_for(tmp_path):
    out, p = io.StringIO(), tiny.program()
    records = Records(tmp_path, experiment='tiny', variant='', config={}, command='tiny')
    Loop(p, tmp_path, records, Progress(stream=out), profile=(4, 7)).run()
    shown = (tmp_path / 'profile' / 'places.txt').read_text()
    assert shown in out.getvalue() and 'where the time of 3 steps went' in out.getvalue()
    rows = [line for line in shown.splitlines()[2:] if re.search(r'(hidden|head)/dot_general', line)]
    assert len(rows) >= 3  # forward and backward of two layers, less what was fused
    assert {re.findall(r'%  +(\S+)', row)[0] for row in rows} == {'1'}  # once a step


def test_no_trace_no_table(tmp_path):
    with refused('profile/no-trace', str(tmp_path)):
        profile.operations(tmp_path, 1, {})
