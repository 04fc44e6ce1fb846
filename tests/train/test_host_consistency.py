"""Data that is not the same on all processes is refused in one line; `tests/distributed/test_processes.py` has real ones."""
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


def checked(monkeypatch, *processes):
    """The error of each of the processes, which have so many `datas`, or None."""
    facts = []
    monkeypatch.setattr(jax, 'process_count', lambda: len(processes))
    for i, datas in enumerate(processes):
        monkeypatch.setattr(host_consistency.socket, 'gethostname', lambda i=i: f'node{i}')
        monkeypatch.setattr(host_consistency, '_gathered', lambda own: facts.append(own) or [])
        host_consistency.check(datas)
    monkeypatch.setattr(host_consistency, '_gathered', lambda own: facts)
    errors = []
    for datas in processes:
        try:
            errors.append(host_consistency.check(datas))
        except UserError as error:
            errors.append(error)
    return errors


def test_equal_data_passes(monkeypatch):
    assert checked(monkeypatch, [data()], [data()], [data()]) == [None] * 3
    monkeypatch.setattr(host_consistency, '_gathered', lambda own: pytest.fail('one process has nothing to compare'))
    monkeypatch.setattr(jax, 'process_count', lambda: 1)
    host_consistency.check([data()])


@pytest.mark.parametrize(('others', 'names'), [
    ([[data(10)], [data(7)]], ('train', '10 records', 'process 0 on node0', '7 records', 'process 1 on node1')),
    ([[data()], [data()], [data(seed=1)]], ('train', 'process 0 on node0, process 1 on node1', 'process 2 on node2')),
    ([[data(val=data(5).train)], [data(val=data(4).train)]], ('val', '5 records', '4 records')),
    ([[data()], [data(val=data(4).train)]], ('val', 'nothing on process 0', '4 records')),
    ([[data(), data(9)], [data(), data(8)]], ('train of member 1', '9 records', '8 records'))])
def test_a_difference_names_the_process_and_what_it_has(monkeypatch, others, names):
    errors = checked(monkeypatch, *others)
    assert {error.code for error in errors} == {'data/hosts-differ'}
    assert len({str(error) for error in errors}) == 1 and '\n' not in str(errors[0])  # all end with the same line
    assert all(name in str(errors[0]) for name in names), errors[0]


def test_of_many_processes_some_are_named():
    line = host_consistency.compare([{'host': f'n{i}', 'splits': {'train': 'a' if i else 'b'}} for i in range(100)])
    assert line.startswith('train: b on process 0 on n0, and a on process 1 on n1, process 2 on n2')
    assert line.endswith('process 8 on n8 and 91 more')


def test_the_facts_of_a_process_are_gathered():
    assert host_consistency._gathered({'host': 'ä', 'splits': {}}) == [{'host': 'ä', 'splits': {}}]
