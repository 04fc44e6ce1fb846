"""Partition rules: where parameters and what follows them go, and what is refused with the tensor's name."""
import collections
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from bigjax.models import bert, gpt, seq2seq, vit
from bigjax.sharding import logical, rules
from bigjax.sharding import mesh as meshes
from tests.refused import refused

PARAMS = {'up': {'kernel': jnp.zeros((64, 256)), 'bias': jnp.zeros(256)}, 'down': {'kernel': jnp.zeros((256, 64))}}
RULES = (('up/kernel', ('embed', 'mlp')), ('up/bias', ('mlp',)), ('down/kernel', ('mlp', 'embed')))


def specs(mesh, partition=RULES, params=None):
    placed = rules.layout(PARAMS if params is None else params, partition, meshes.abstract(mesh))
    return {k: v.spec for k, v in placed.params.items()}, {k: v.spec for k, v in placed.optimizer.items()}


@pytest.mark.parametrize(('mesh', 'up', 'down', 'moment'), [
    ('data:8', P(None, None), P(None, None), P(None, None)),
    ('tensor:4', P(None, 'tensor'), P('tensor', None), P(None, 'tensor')),
    ('fsdp:4', P(None, 'fsdp'), P('fsdp', None), P(None, 'fsdp')),
    ('fsdp:4,tensor:2', P('fsdp', 'tensor'), P('tensor', 'fsdp'), P('fsdp', 'tensor')),
    ('zero1:4', P(None, None), P(None, None), P(None, 'zero1')),
    ('zero1:4,tensor:2', P(None, 'tensor'), P('tensor', None), P('zero1', 'tensor')),
    ('fsdp:128', P(None, 'fsdp'), P('fsdp', None), P(None, 'fsdp')), ('fsdp:3', P(None, None), P(None, None), P(None, None))])
def test_modes(mesh, up, down, moment):
    params, optimizer = specs(mesh)
    assert (params['up/kernel'], params['down/kernel'], optimizer['up/kernel']) == (up, down, moment)


@pytest.mark.parametrize(('mesh', 'partition', 'code', 'name'), [
    ('tensor:4', RULES[:2], 'mesh/no-rule', 'down/kernel'),
    ('tensor:4', (('.*', ('mlp',)),), 'mesh/rule-dimensions', '/kernel'),
    ('tensor:4', (('.*/kernel', ('mlp', 'heads')), ('.*', (None,))), 'mesh/axis-twice', '/kernel'),
    ('tensor:3', RULES, 'mesh/does-not-divide', '256'), ('tensor:2', (), 'mesh/splits-nothing', 'tensor'),
    ('stage:2', RULES, 'mesh/splits-nothing', 'stage'),
    ('tensor:2', (('.*/kernel', ('mlp', 'width')), ('.*', ('mlp',))), 'mesh/unknown-logical-axis', 'width')])
def test_refusals_name_the_tensor(mesh, partition, code, name):
    with refused(code, name):
        specs(mesh, partition)


@pytest.mark.parametrize(('axes', 'up', 'down'), [
    ({'mlp': None, 'embed': 'tensor'}, P('tensor', 'fsdp'), P('fsdp', 'tensor')),
    ({'mlp': ('data', 'tensor')}, P('fsdp', ('data', 'tensor')), P(('data', 'tensor'), 'fsdp')),
    ({'mlp': 'fsdp', 'embed': 'tensor'}, P('tensor', 'fsdp'), P('fsdp', 'tensor')),
    ({}, P('fsdp', 'tensor'), P('tensor', 'fsdp'))], ids=str)
def test_an_experiment_changes_what_splits_a_dimension(axes, up, down):
    placed = rules.layout(PARAMS, RULES, meshes.abstract('data:2,fsdp:2,tensor:2'), axes).params
    assert (placed['up/kernel'].spec, placed['down/kernel'].spec) == (up, down)


@pytest.mark.parametrize(('axes', 'code', 'name'), [
    ({'mlp': 'tensors'}, 'mesh/unknown-axis', 'tensor'), ({'mlp': ('data', 'x')}, 'mesh/unknown-axis', "'x'"),
    ({'batch': 'data'}, 'mesh/fixed-axis', 'batch')])
def test_axes_that_cannot_be(axes, code, name):
    with refused(code, name):
        rules.layout(PARAMS, RULES, meshes.abstract('tensor:2'), axes)


def test_a_question_mark_leaves_whole_what_does_not_divide():
    params = {'embed': jnp.zeros((50257, 64))}
    assert specs('tensor:4', (('embed', ('vocab?', 'embed')),), params)[0]['embed'] == P(None, None)
    assert specs('tensor:29', (('embed', ('vocab?', 'embed')),), params)[0]['embed'] == P('tensor', None)


@pytest.mark.parametrize('tx', [
    optax.adamw(1e-3), optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0, momentum=0.9)),
    optax.partition({'a': optax.adam(1e-3), 'b': optax.sgd(0.1, momentum=0.9)}, {'up': 'a', 'down': 'b'})],
    ids=['adamw', 'chain', 'groups'])
@pytest.mark.parametrize('members', [False, True])
def test_the_optimizers_state_follows_its_parameters(tx, members):
    mesh = meshes.make('fsdp:4')
    placed = rules.layout(PARAMS, RULES, mesh)
    state = tx.init(PARAMS)
    if members:
        state = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    shardings = rules.follow(state, placed.optimizer, mesh, members)
    found = 0
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        part = math.prod(jax.device_put(leaf, sharding).addressable_shards[0].data.shape)
        large = leaf.size >= 64 * 256
        assert part == (leaf.size // 4 if large else leaf.size)
        found += large
    assert found >= 2, 'no moment of a kernel was seen'


def test_bytes_of_a_device():
    mesh = meshes.abstract('fsdp:2,tensor:4')
    placed = rules.layout(PARAMS, RULES, mesh).params
    assert placed['up/kernel'].bytes_per_device(mesh) == 64 * 256 * 4 // 8
    text = rules.show(rules.layout({'w': jnp.zeros((3, 1 << 20))}, (), meshes.abstract('data:2')), meshes.abstract('data:2'))
    assert 'replicated, over 10 MB' in text and '3 x 1048576' in text and '12,582,912' in text


SIZES = {'width': 16, 'num_heads': 4, 'num_layers': 2}
IMAGE, TEXT = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 4), jnp.int32)


@pytest.mark.parametrize(('partition', 'model', 'inputs'), [
    (gpt.PARTITION_RULES, gpt.GPT(vocab_size=8, **SIZES, bias=True, tie_head=False, scan=True), [TEXT]),
    (gpt.PARTITION_RULES, gpt.GPT(vocab_size=8, **SIZES, experts=4, hidden='swiglu'), [TEXT]),
    (gpt.PARTITION_RULES, gpt.GPT(vocab_size=8, **SIZES, qk_norm=True, qkv_bias=True, head_width=8), [TEXT]),
    (bert.PARTITION_RULES, bert.BERT(vocab_size=8, **SIZES, pool='cls', num_classes=3, scan=True), [TEXT]),
    (bert.PARTITION_RULES, bert.BERT(vocab_size=8, **SIZES, mlm=True), [TEXT]),
    (seq2seq.PARTITION_RULES, seq2seq.EncoderDecoder(vocab_size=8, **SIZES, hidden='geglu_tanh', tie_head=False), [TEXT, TEXT]),
    (seq2seq.PARTITION_RULES, seq2seq.EncoderDecoder(8, **SIZES, bias=True, positions='sinusoidal', scan=True), [TEXT, TEXT]),
    (vit.PARTITION_RULES, vit.ViT(**SIZES), [IMAGE]),
    (vit.PARTITION_RULES, vit.ViT(**SIZES, pool='token', positions='learned', scan=True), [IMAGE])])
def test_the_rules_of_families_cover_every_parameter(partition, model, inputs):
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))['params']
    placed = rules.resolve(params, partition, meshes.abstract('tensor:4'))
    split = sum(math.prod(p.shape) for p in placed if 'tensor' in p.spec)
    assert split > 0.5 * sum(math.prod(p.shape) for p in placed if re.search('/(attn|cross|mlp)', p.path))


def messages(layers, partition) -> collections.Counter:
    """Collectives of the forward pass of a decoder over 'tensor'."""
    model, mesh = gpt.GPT(vocab_size=8, block_size=8, width=16, num_heads=4, num_layers=layers), meshes.make('tensor:4')
    tokens = jnp.zeros((2, 8), jnp.int32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, train=False))['params']
    where = rules.follow(params, rules.layout(params, partition, mesh).params, mesh)

    def f(params):
        with logical.using(mesh):
            return model.apply({'params': params}, tokens, train=False)

    text = jax.jit(f, in_shardings=(where,)).lower(params).compile().as_text()
    return collections.Counter(re.findall(r' (all-\w+|reduce-scatter|collective-permute)\(', text))


def test_a_layer_sends_two_sums_as_megatron_s_pairs_do():
    """Shoeybi et al. 2019, section 3: one all-reduce after attention and one after the MLP, and nothing else."""
    assert messages(3, gpt.PARTITION_RULES) - messages(1, gpt.PARTITION_RULES) == {'all-reduce': 4}


def test_activations_are_split_where_they_divide():
    mesh = meshes.make('data:2,tensor:4')

    def f(x):
        with logical.using(mesh):
            return logical.constrain(2 * x, 'batch', None, 'heads')

    shape = lambda *n: jax.jit(f)(np.zeros(n)).addressable_shards[0].data.shape
    assert shape(4, 3, 8) == (2, 3, 2) and shape(3, 3, 6) == (3, 3, 6)
    assert logical.constrain(jnp.zeros((4, 2)), 'batch', 'heads').shape == (4, 2)


@pytest.mark.parametrize(('text', 'shape'), [('data:2x4', {'data': 8}), ('data:2x1,fsdp:4', {'data': 2, 'fsdp': 4})])
def test_slices(text, shape):
    mesh = meshes.make(text)
    assert dict(mesh.shape) == shape
    assert mesh.devices.reshape(2, -1)[0, 0].id == 0 and mesh.devices.reshape(2, -1)[1, 0].id == 4
