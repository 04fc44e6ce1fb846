"""Every way of sharing the work gives the numbers of one device: losses of five steps, and the parameters after them.

What an experiment claims is read off its model: `data`, `zero1` and `fsdp` always, `tensor` where its partition rules name
such dimensions, and, for the decoder, split sequences, experts and stages. `--modes=FILE` keeps what passed, for the matrix
in experiments/README.md. Five steps of plain SGD are compared, because
Adam turns the rounding of a gradient near zero into a step of full size.
"""
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment
from bigjax.models import bert, gpt, mlp, seq2seq
from bigjax.nn import stacking
from bigjax.sharding import logical
from bigjax.sharding import mesh as parallel
from bigjax.tasks import classification, language, masked_language, mean, sequence
from bigjax.train.program import Program
from tests import test_experiments as inherited
from tests import tiny
from tests.plan import test_flops_by_mode as flops_by_mode

ALL = ('data:8', 'zero1:8', 'fsdp:8')
TENSOR = ('tensor:4', 'data:2,fsdp:2,tensor:2')
DECODER = ('seq:4', 'data:2,seq:2,tensor:2', 'fsdp:2,seq:4')
EXPERTS = ('expert:4', 'data:2,expert:2,tensor:2')
WHOLE_ON_TENSOR = ('gpt2_openwebtext', 'tiny_shakespeare', 'librispeech', 'spoken_digits')
STAGES = ('stage:2', 'data:2,stage:2,tensor:2', 'fsdp:2,stage:2')


def cases():
    """(experiment, variant, mesh, fields of the model that are replaced)."""
    found = []
    for name, variant in inherited.TRAINED:
        rules = inherited.job(name, variant).build(variant).experiment.partition_rules
        found += [(name, variant, mesh, {}) for mesh in (*ALL, *(TENSOR if rules else ()))]
    found += [('llama2', '7b', mesh, {}) for mesh in DECODER]
    found += [('gpt2_openwebtext', 's', mesh, {'experts': 4, 'capacity': 2.0}) for mesh in EXPERTS]
    found += [('gpt2_openwebtext', 's', mesh, {'scan': True}) for mesh in STAGES]
    return found + [('gpt2_openwebtext', 's', 'seq:4', {'context': context}) for context in ('ring', 'gather')]


def program(name, variant, mesh, fields, **overrides):
    """The experiment on a mesh, by SGD; `fields` of the model are replaced."""
    job = inherited.job(name, variant, mesh=mesh, steps='8', **overrides)
    built = job.build(variant)
    experiment, own = dataclasses.replace(built.experiment, model=built.experiment.model.clone(**fields)), built.settings
    if 'groups' in built.config['optimizer']:
        return Program([experiment], own)
    for lr in (0.05, 0.001):  # the smaller one where batch statistics of a few examples amplify what rounding changes
        p = Program([dataclasses.replace(experiment, optimizer={'name': 'sgd', 'lr': lr, 'clip_norm': 1.0})], own)
        if not p.arguments()[0].model_state:
            break
    return p


def five_steps(p, params=None):
    """(losses and norms of the gradient, parameters on the host)."""
    carry, feed, losses = p.init(), p.feed(0), []
    if params is not None:
        placed = jax.tree.map(lambda x: x.sharding, p.abstract['state'].params)
        carry['state'] = carry['state'].replace(params=jax.device_put(params, placed))
    for step in range(5):
        state, totals, _ = p.train_steps(carry['state'], tiny.zeros(carry['totals']), feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state, 'totals': totals}
        losses.append([float(mean(totals[name])) for name in ('loss', 'grad_norm')])
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


def same(mine, theirs):
    """Losses, and norms of the gradient, in which a ReLU at zero may fall either way."""
    (losses, norms), (expected, expected_norms) = np.transpose(mine), np.transpose(theirs)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-3)


def close(mine, theirs):
    """Within 2e-5 of the largest number of each tensor, as float32 sums in another order are; of at least 0.05, because small
    tensors (biases) are added to numbers of order one."""
    for a, b in zip(tiny.leaves(mine), tiny.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * max(0.05, np.abs(b).max()))


def check(alone, name, variant, mesh, fields):
    start, losses, params = alone(name, variant, fields)
    again, after = five_steps(program(name, variant, mesh, fields), start)
    same(again, losses)
    close(after, params)


def ids(x):
    return '_'.join(map(str, x)) if isinstance(x, dict) else str(x).replace(',', '_')


@pytest.mark.equivalence
@pytest.mark.parametrize(('name', 'variant', 'mesh', 'fields'), cases(), ids=ids)
def test_many_devices_are_one(alone, record_property, name, variant, mesh, fields):
    for key, value in (('experiment', name), ('mode', ' x '.join(parallel.parse(mesh)))):
        record_property(key, value)  # for the matrix in experiments/README.md
    check(alone, name, variant, mesh, fields)


@pytest.mark.equivalence
@pytest.mark.parametrize(('name', 'variant', 'mesh', 'fields'), [
    case for case in cases() if case[2] in ('data:8', 'fsdp:8', *TENSOR, *DECODER)], ids=ids)
def test_accumulation_executes_the_flops_of_the_model(name, variant, mesh, fields):
    """A device that computed rows of others, or all of them in each micro-batch, would execute several times as many. (zero1 is
    data here; pipelines compute bubbles, experts have spare capacity. An odd vocabulary is whole on every device of 'tensor',
    and so are the features of sounds, a half of what so small a Conformer needs and a hundredth of what the published ones do:
    then the step without accumulation is the measure.)"""
    measured = lambda parts: flops_by_mode.measured(program(name, variant, mesh, fields, accumulate=parts, batch_size='64'))[0]
    whole = measured('1') if name in WHOLE_ON_TENSOR and 'tensor' in mesh else 1
    assert measured('4') <= 1.05 * whole


@pytest.mark.equivalence
def test_the_decoder_split_two_ways_is_whole(alone):
    check(alone, 'llama2', '7b', 'fsdp:2,tensor:4', {})


@pytest.mark.equivalence
def test_layers_stacked_on_many_devices_are_layers_one_by_one_on_one(alone):
    start, losses, params = alone('gpt2_openwebtext', 's', {})
    p = program('gpt2_openwebtext', 's', 'fsdp:2,tensor:2', {'scan': True, 'remat': 'dots'})
    again, after = five_steps(p, stacking.stack(start))
    same(again, losses)
    close(stacking.unstack(after), params)


NAMES = (None, 'embed', 'heads', 'mlp', 'vocab')
KERNELS = ('dense_0/kernel', 'dense_1/kernel', 'head/kernel')
WAYS = [(a, b) for a in NAMES for b in NAMES if not logical.DEFAULTS[a] == logical.DEFAULTS[b] == 'tensor']


@pytest.mark.equivalence
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(mesh=st.sampled_from(['tensor:2', 'tensor:4', 'data:2,tensor:4', 'fsdp:4,tensor:2', 'zero1:2,tensor:2', 'fsdp:8']),
       axes=st.tuples(*[st.sampled_from(WAYS)] * len(KERNELS)))
def test_any_rules(axes, mesh):
    """Every kernel split in any way that is a way: three layers of a perceptron, dimensions that all meshes divide."""
    rules = (*((path, names) for path, names in zip(KERNELS, axes, strict=True)), ('.*/bias', (None,)))
    assume('tensor' not in mesh or any(logical.DEFAULTS[name] == 'tensor' for names in axes for name in names))
    p, alone = small(mesh, rules), small('data:1', ())
    start = jax.tree.map(np.asarray, alone.init()['state'].params)
    losses, params = five_steps(p, start)
    expected, after = five_steps(alone, start)
    same(losses, expected)
    close(params, after)


def small(mesh, rules):
    """A perceptron of 8, 16, 32 and 8 units on made-up numbers."""
    rng = np.random.default_rng(0)
    source = ArraySource({'x': rng.normal(size=(64, 8)).astype(np.float32), 'label': rng.integers(0, 8, 64).astype(np.int32)})
    experiment = Experiment(mlp.MLP(features=(16, 32), num_classes=8), classification.softmax('x'), Data(source, {}),
                            {'name': 'sgd', 'lr': 0.05}, {}, partition_rules=rules)
    return tiny.program([experiment], mesh=mesh, ema=0.0)


BLOCKS = {'vocab_size': 64, 'num_layers': 2, 'num_heads': 8, 'width': 32}
TEXTS = {  # model, partition rules, task: what no experiment has yet
    'bert': (bert.BERT(**BLOCKS, mlm=True), bert.PARTITION_RULES, masked_language.masked_token(1, 64)),
    'qwen3': (gpt.GPT(**BLOCKS, norm='rmsnorm', hidden='swiglu', rope_base=1e4, num_kv_heads=4, head_width=8, qk_norm=True,
                      qkv_bias=True, window=5), gpt.PARTITION_RULES, language.next_token()),
    't5': (seq2seq.EncoderDecoder(**BLOCKS, hidden='geglu_tanh', tie_head=False), seq2seq.PARTITION_RULES,
           sequence.teacher_forcing()),
    'transformer': (seq2seq.EncoderDecoder(**BLOCKS, positions='sinusoidal', norm='layernorm', post_norm=True, bias=True,
                                           scale_embed=True, scale_head=False), seq2seq.PARTITION_RULES,
                    sequence.teacher_forcing()),
}


@pytest.mark.equivalence
@pytest.mark.parametrize('mesh', [*ALL, *TENSOR])
@pytest.mark.parametrize('family', TEXTS)
def test_families_of_text_on_many_devices_are_one(family, mesh):
    p, alone = texts(family, mesh), texts(family, 'data:1')
    start = jax.tree.map(np.asarray, alone.init()['state'].params)
    losses, params = five_steps(p, start)
    expected, after = five_steps(alone, start)
    same(losses, expected)
    close(params, after)


def texts(family, mesh):
    """One of `TEXTS` on made-up texts of unequal length."""
    rng, (model, rules, task) = np.random.default_rng(0), TEXTS[family]
    rows = lambda low: rng.integers(low, 64, (64, 13)).astype(np.int32)
    mask = np.arange(13) < rng.integers(4, 14, (64, 1))
    if family == 'bert':
        hidden = rng.random((64, 13)) < 0.3
        arrays = {'tokens': rows(2), 'targets': np.where(hidden, rows(2), -1).astype(np.int32), 'mask': mask}
    elif family == 'qwen3':
        arrays = {'tokens': rows(0)}
    else:
        arrays = {'source': np.where(mask, rows(2), 0).astype(np.int32), 'target': rows(2)}
    experiment = Experiment(model, task, Data(ArraySource(arrays), {}), {'name': 'sgd', 'lr': 0.05, 'clip_norm': 1.0}, {},
                            partition_rules=rules)
    return tiny.program([experiment], mesh=mesh, ema=0.0)
