"""Data that is not the same on all processes, told in a line; `tests/distributed/test_processes.py` has real ones."""
import re

import jax
import numpy as np
import pytest

from bigjax.data.sources import ArraySource
from bigjax.errors import UserError
from bigjax.experiment import Data
from bigjax.train import host_consistency


def data(count=30, seed=0, **evals):
    x = np.random.default_rng(seed).normal(size=(count, 2))
    return Data(ArraySource({'x': x}), evals)


def met(monkeypatch, *processes):
    """What each of the processes, with so many `datas`, is told: an error's line, or None."""
    told = []
    monkeypatch.setattr(jax, 'process_count', lambda: len(processes))
    for i, datas in enumerate(processes):
        monkeypatch.setattr(host_consistency.socket, 'gethostname', lambda i=i: f'node{i}')
        monkeypatch.setattr(host_consistency, '_of_all', lambda mine: told.append(mine) or [])
        host_consistency.same_data(datas)
    monkeypatch.setattr(host_consistency, '_of_all', lambda mine: told)
    lines = []
    for datas in processes:
        try:
            lines.append(host_consistency.same_data(datas))
        except UserError as error:
            lines.append(str(error))
    return lines


def test_equal_data_is_no_news(monkeypatch):
    assert met(monkeypatch, [data()], [data()], [data()]) == [None] * 3
    monkeypatch.setattr(host_consistency, '_of_all', lambda mine: pytest.fail('one process asks nobody'))
    monkeypatch.setattr(jax, 'process_count', lambda: 1)
    host_consistency.same_data([data()])


@pytest.mark.parametrize(('others', 'words'), [
    ([[data(10)], [data(7)]],
     r'of train there are 10 records \(sample \w{12}\) for process 0 on node0, and 7 records \(sample \w{12}\) for process 1 '
     r'on node1'),
    ([[data()], [data()], [data(seed=1)]],
     r'of train there are 30 records \(sample (\w{12})\) for process 0 on node0, process 1 on node1, and 30 records \(sample '
     r'(?!\1)\w{12}\) for process 2 on node2'),
    ([[data(val=data(5).train)], [data(val=data(4).train)]], r'of val there are 5 records .* and 4 records .* on node1'),
    ([[data()], [data(val=data(4).train)]], r'of val there are nothing for process 0 on node0, and 4 records'),
    ([[data(), data(9)], [data(), data(8)]], r'of train of member 1 there are 9 records .* and 8 records')])
def test_a_difference_names_the_process_and_what_it_has(monkeypatch, others, words):
    lines = met(monkeypatch, *others)
    assert len(set(lines)) == 1 and '\n' not in lines[0]  # all end with the same line
    assert re.match(f'config.data: the processes do not have the same data: {words}.*; put the same files on', lines[0]), lines


def test_of_many_processes_some_are_named():
    told = [{'host': f'n{i}', 'has': {'train': 'a' if i else 'b'}} for i in range(100)]
    line = host_consistency.compare(told)
    assert line.startswith('of train there are b for process 0 on n0, and a for process 1 on n1, process 2 on n2')
    assert line.endswith('process 8 on n8 and 91 more')


def test_all_hear_what_each_has():
    assert host_consistency._of_all({'host': 'ä', 'has': {}}) == [{'host': 'ä', 'has': {}}]
