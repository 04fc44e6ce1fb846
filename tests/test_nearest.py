"""The nearest valid name, in any case of letters and in any section."""
import pytest

from bigjax.io.text import hint, nearest


@pytest.mark.parametrize('name, valid, found', [
    ('stps', ['seed', 'steps'], 'steps'), ('MNIST', ['mnist', 'cifar10'], 'mnist'), ('mnist', ['MNIST'], 'MNIST'),
    ('ir', ['optimizer.lr', 'optimizer.b1', 'model.layers'], ''), ('layer', ['optimizer.lr', 'model.layers'], 'model.layers'),
    ('model.lr', ['optimizer.lr', 'seed'], 'optimizer.lr'), ('qqq', ['seed', 'steps'], ''), ('x', [], ''), (3, ['33'], '33')])
def test_nearest(name, valid, found):
    assert nearest(name, valid) == found
    assert hint(name, valid) == (f'; the nearest is {found}' if found else '')


@pytest.mark.parametrize('name', ['steps', 'optimizer.lr'])
def test_a_hint_never_repeats_what_was_wrong(name):
    assert nearest(name, [name, 'step', 'lr']) in ('step', 'lr')
    assert hint(name, [name]) == ''


def test_a_higher_cutoff_wants_more_alike():
    assert nearest('stop', ['steps'], 0.4) == 'steps' and nearest('stop', ['steps'], 0.9) == ''
