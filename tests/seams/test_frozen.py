"""The seam `frozen`: a teacher's weights that the loss reads, in no state, no checkpoint and no update."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.checkpoint import manager
from bigjax.tasks import Aux, Term, bind, mask, weighted
from bigjax.train.state import init_variables
from tests import tiny
from tests.refused import refused

TEACHER = tiny.Net(norm=False, dropout=0.0)
WEIGHTS = init_variables(TEACHER, (jnp.zeros((1, 5)),), 7)


def distilled(weights=WEIGHTS):
    """The tiny experiment whose labels are the teacher's outputs."""
    base = tiny.experiment(norm=False, dropout=0.0)

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, batch['x'], train=train, rng=rng)
        wanted, _ = bind(TEACHER)(variables['frozen']['teacher'], batch['x'])
        weights = mask(batch)
        agree = weighted(logits.argmax(-1) == wanted.argmax(-1), weights)
        values = optax.softmax_cross_entropy(logits, jax.nn.softmax(wanted))
        return {'loss': Term(values, weights)}, Aux(state, {'agreement': agree})

    return dataclasses.replace(base, task=dataclasses.replace(base.task, loss=loss), frozen={'teacher': weights})


@pytest.mark.parametrize('options', [{}, {'population': 2, 'best': 'max test/agreement'}], ids=str)
def test_a_student_learns_from_its_teacher(tmp_path, options):
    outcome, carry = tiny.train(tmp_path, [distilled()], steps=60, eval_every=60, log_every=30, checkpoint_every=60, **options)
    assert min(outcome.final['test/agreement']) > 0.7
    paths = manager.stored(manager.newest(tmp_path))
    assert not [path for path in paths if 'frozen' in path or 'teacher' in path]
    assert 'frozen' not in carry['state'].variables()


def test_a_teacher_is_sharded_by_the_rules_of_the_model():
    rules = (('.*bias', (None,)), ('hidden/kernel', (None, 'mlp')), ('head/kernel', (None, None)))
    e = dataclasses.replace(distilled(), partition_rules=rules)
    program = tiny.program([e], mesh='data:1,tensor:2')
    kernel = program.frozen['teacher']['params']['hidden']['kernel']
    assert kernel.sharding.spec == program.layout.params['hidden/kernel'].spec == jax.P(None, 'tensor')
    np.testing.assert_array_equal(kernel, WEIGHTS['params']['hidden']['kernel'])


def test_something_else_than_arrays_is_refused():
    with refused('experiment/frozen', 'teacher'):
        tiny.program([distilled(weights='a path')])
