"""Every way of sharing the work gives the numbers of one device: losses of five steps, and the parameters after them.

What an experiment claims is read off its model: `data`, `zero1` and `fsdp` always, `tensor` where its partition rules name
such dimensions, and, for the decoder, split sequences, experts and stages. Five steps of plain SGD are compared, because
Adam turns the rounding of a gradient near zero into a step of full size.
"""
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bigjax import config as configs
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment
from bigjax.models import mlp
from bigjax.nn import logical
from bigjax.tasks import classification
from bigjax.train import layers
from bigjax.train import settings as settings_module
from bigjax.train.program import Program
from tests import test_experiments as inherited
from tests import tiny

ALL = ('data:8', 'zero1:8', 'fsdp:8')
TENSOR = ('tensor:4', 'data:2,fsdp:2,tensor:2')
DECODER = ('seq:4', 'data:2,seq:2,tensor:2', 'fsdp:2,seq:4')
EXPERTS = ('expert:4', 'data:2,expert:2,tensor:2')
STAGES = ('stage:2', 'data:2,stage:2,tensor:2', 'fsdp:2,stage:2')


def modes(name, variant):
    """The meshes on which an experiment is compared."""
    experiment = inherited.job(name, variant).experiment(variant)
    return (*ALL, *(TENSOR if experiment.partition_rules else ()))


def cases():
    return [(*case, mesh) for case in inherited.TRAINED for mesh in modes(*case)]


def program(name, variant, mesh, fields=None):
    """The experiment on a mesh, by SGD; `fields` of the model are replaced."""
    job = inherited.job(name, variant, mesh=mesh)
    config = configs.Reader(job.config(variant))
    experiment = job.module.get_experiment(config)
    if 'groups' not in config['optimizer']:
        experiment = dataclasses.replace(experiment, optimizer={'name': 'sgd', 'lr': 0.05, 'clip_norm': 1.0})
    if fields:
        experiment = dataclasses.replace(experiment, model=experiment.model.clone(**fields))
    return Program([experiment], settings_module.read(config, len(experiment.data.train)))


def five_steps(p, params=None):
    """(losses, parameters on the host)."""
    carry, feed, losses = p.init(), p.feed(0), []
    if params is not None:
        carry['state'] = carry['state'].replace(params=jax.device_put(params, p.shardings['state'].params))
    for step in range(5):
        state, totals, _ = p.call(carry['state'], p.zero_totals(carry), feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state, 'totals': totals}
        losses.append(float(totals['loss'][0] / totals['loss'][1]))
    feed.close()
    return losses, jax.tree.map(np.asarray, carry['state'].params)


@pytest.fixture(scope='module')
def alone():
    """The same on one device, computed once an experiment."""
    made = {}

    def get(name, variant, fields):
        key = (name, variant, str(fields))
        if key not in made:
            p = program(name, variant, 'data:1', fields)
            start = jax.tree.map(np.asarray, p.init()['state'].params)
            made[key] = (start, *five_steps(p))
        return made[key]

    return get


def close(mine, theirs):
    """Within 2e-5 of the largest number of each tensor, as float32 sums in another order are."""
    for a, b in zip(tiny.leaves(mine), tiny.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * max(1e-3, np.abs(b).max()))


def check(alone, name, variant, mesh, fields=None):
    start, losses, params = alone(name, variant, fields)
    again, after = five_steps(program(name, variant, mesh, fields), start)
    np.testing.assert_allclose(again, losses, rtol=2e-5)
    close(after, params)


@pytest.mark.equivalence
@pytest.mark.parametrize(('name', 'variant', 'mesh'), cases(), ids=lambda x: str(x).replace(',', '_'))
def test_every_experiment(alone, name, variant, mesh):
    check(alone, name, variant, mesh)


def test_decoder_split_two_ways(alone):
    check(alone, 'llama2', '7b', 'fsdp:2,tensor:4')


@pytest.mark.equivalence
@pytest.mark.parametrize('mesh', ['zero1:8', *DECODER])
def test_decoder(alone, mesh):
    check(alone, 'llama2', '7b', mesh)


@pytest.mark.equivalence
@pytest.mark.parametrize('mesh', EXPERTS)
def test_experts(alone, mesh):
    check(alone, 'gpt2_openwebtext', 's', mesh, {'experts': 4, 'capacity': 2.0})


@pytest.mark.equivalence
@pytest.mark.parametrize('mesh', STAGES)
def test_stages(alone, mesh):
    check(alone, 'gpt2_openwebtext', 's', mesh, {'scan': True})


@pytest.mark.equivalence
@pytest.mark.parametrize('context', ['ring', 'gather'])
def test_split_sequences(alone, context):
    check(alone, 'gpt2_openwebtext', 's', 'seq:4', {'context': context})


@pytest.mark.equivalence
def test_layers_stacked_on_many_devices_are_layers_one_by_one_on_one(alone):
    start, losses, params = alone('gpt2_openwebtext', 's', None)
    p = program('gpt2_openwebtext', 's', 'fsdp:2,tensor:2', {'scan': True, 'remat': 'dots'})
    again, after = five_steps(p, layers.stack(start))
    np.testing.assert_allclose(again, losses, rtol=2e-5)
    close(layers.unstack(after), params)


NAMES = (None, 'embed', 'heads', 'mlp', 'vocab')
KERNELS = ('dense_0/kernel', 'dense_1/kernel', 'head/kernel')
WAYS = [(a, b) for a in NAMES for b in NAMES if not logical.LOGICAL[a] == logical.LOGICAL[b] == 'tensor']


@pytest.mark.equivalence
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(mesh=st.sampled_from(['tensor:2', 'tensor:4', 'data:2,tensor:4', 'fsdp:4,tensor:2', 'zero1:2,tensor:2', 'fsdp:8']),
       axes=st.tuples(*[st.sampled_from(WAYS)] * len(KERNELS)))
def test_any_rules(axes, mesh):
    """Every kernel split in any way that is a way: three layers of a perceptron, dimensions that all meshes divide."""
    rules = (*((path, names) for path, names in zip(KERNELS, axes, strict=True)), ('.*/bias', (None,)))
    assume('tensor' not in mesh or any(logical.LOGICAL[name] == 'tensor' for names in axes for name in names))
    p, alone = small(mesh, rules), small('data:1', ())
    start = jax.tree.map(np.asarray, alone.init()['state'].params)
    losses, params = five_steps(p, start)
    expected, after = five_steps(alone, start)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    close(params, after)


def small(mesh, rules):
    """A perceptron of 8, 16, 32 and 8 units on made-up numbers."""
    rng = np.random.default_rng(0)
    source = ArraySource({'x': rng.normal(size=(64, 8)).astype(np.float32), 'label': rng.integers(0, 8, 64).astype(np.int32)})
    experiment = Experiment(mlp.MLP(features=(16, 32), num_classes=8), classification.softmax('x'), Data(source, {}),
                            {'name': 'sgd', 'lr': 0.05}, {}, partition_rules=rules)
    return tiny.program([experiment], mesh=mesh, ema=0.0)
