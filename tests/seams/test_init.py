"""The seam `init`: weights of a renamed tree, in before the optimizer state is made; and a kill with every seam in use."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.train.state import init_variables
from tests import tiny
from tests.refused import refused
from tests.seams.test_frozen import distilled
from tests.seams.test_transforms import only_large
from tests.train.test_loop import Stops, assert_same

TRAINED = init_variables(tiny.Net(norm=False), (jnp.zeros((1, 5)),), 42)['params']


def their_name(path) -> str:
    """The name that another library has for the array at a path: 'net.hidden.weight'."""
    return 'net.' + jax.tree_util.keystr(path, simple=True, separator='.').replace('kernel', 'weight')


THEIRS = {their_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(TRAINED)}


def renamed(variables):
    """The variables with the arrays of `THEIRS`."""
    def one(path, ours):
        return THEIRS.get(their_name(path), ours)

    return {**variables, 'params': jax.tree_util.tree_map_with_path(one, variables['params'])}


def lookahead(tx):
    """An optimizer whose state begins with the parameters, and so shows which ones it was given."""
    return optax.GradientTransformationExtraArgs(
        lambda params: (tx.init(params), jax.tree.map(jnp.copy, params)),
        lambda g, s, p=None, **extra: ((out := tx.update(g, s[0], p, **extra))[0], (out[1], s[1])))


def experiment(**options):
    return dataclasses.replace(tiny.experiment(norm=False), init=renamed, **options)


@pytest.mark.parametrize('options', [{}, {'population': 2}, {'mesh': 'fsdp:8'}], ids=str)
def test_the_optimizer_begins_with_the_given_weights(options):
    program = tiny.program([experiment(transforms=(lookahead,))], **options)
    carry = program.init()
    for tree in (carry['state'].params, carry['state'].opt_state[1], carry['state'].ema):
        kernel = np.asarray(tree['hidden']['kernel'])
        for member in kernel if program.members else [kernel]:
            np.testing.assert_array_equal(member, THEIRS['net.hidden.weight'])
    where = lambda tree: jax.tree.map(lambda x: x.sharding, tree)
    assert where(carry) == where(program.abstract)


@pytest.mark.parametrize('init', [
    lambda v: {**v, 'params': {**v['params'], 'hidden': {**v['params']['hidden'], 'kernel': np.zeros((5, 4))}}},
    lambda v: {**v, 'params': {'hidden': v['params']['hidden']}}])
def test_other_variables_than_the_model_has_are_refused(init):
    with refused('experiment/init'):
        tiny.program([dataclasses.replace(tiny.experiment(norm=False), init=init)]).init()


@pytest.mark.parametrize('options', [{}, {'population': 2, 'best': 'max test/agreement'}], ids=str)
def test_killed_and_resumed_with_every_seam_is_straight(tmp_path, options):
    e = dataclasses.replace(distilled(), init=renamed, transforms=(only_large,))
    straight, carry = tiny.train(tmp_path / 'straight', [e], **options)
    with pytest.raises(RuntimeError, match='killed'):
        tiny.train(tmp_path / 'killed', [e], progress=Stops(9), **options)
    resumed, again = tiny.train(tmp_path / 'killed', [e], **options)
    assert straight.final == resumed.final and tiny.equal(carry, again)
    assert_same(tmp_path / 'straight', tmp_path / 'killed')
