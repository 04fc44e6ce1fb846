"""Stacked layers are updated as layers one by one: every optimizer, every rule that looks at shapes or norms."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.nn.stacking import stack
from bigjax.sharding import mesh as meshes
from bigjax.sharding import rules, tree_paths
from bigjax.train import averages, layers, optimizers
from tests import tiers

RUN = {'total_steps': 20, 'steps_per_epoch': 5, 'batch_size': 4}
LAYERS, EXPERTS = 3, 2


def numbers(shape, seed):
    return np.asarray(np.random.default_rng(seed).normal(size=shape), np.float32)


def tree(seed):
    """Three blocks with a kernel, a bias, a norm's scale and experts, beside an embedding; other numbers in each."""
    def block(i):
        return {'attn': {'kernel': numbers((6, 5), seed + i), 'bias': numbers((5,), seed + 10 + i)},
                'norm': {'scale': numbers((6,), seed + 20 + i)}, 'moe': {'up': numbers((EXPERTS, 4, 6), seed + 30 + i)}}
    return {'embed': numbers((7, 6), seed + 40), **{f'block_{i}': block(i) for i in range(LAYERS)}}


def as_layers(params):
    """Every expert as a parameter of its own."""
    return {k: {**v, 'moe': {f'expert_{i}': v['moe']['up'][i] for i in range(EXPERTS)}} if k != 'embed' else v
            for k, v in params.items()}


def as_stack(params):
    return stack({k: {**v, 'moe': {'up': jnp.stack([v['moe'][f'expert_{i}'] for i in range(EXPERTS)])}} if k != 'embed' else v
                  for k, v in params.items()})


def train(tx, form, steps):
    params = jax.tree.map(jnp.asarray, form(as_layers(tree(0))))
    state = tx(params).init(params)
    update = jax.jit(tx(params).update)
    for i in range(steps):
        updates, state = update(form(as_layers(tree(100 * (i + 1)))), state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
    return params, state


def check(spec, steps):
    make = lambda params: optimizers.make(spec, params, **RUN)[0]
    one_by_one, _ = train(make, lambda params: params, steps)
    stacked, _ = train(make, as_stack, steps)
    for (path, ours), wanted in zip(jax.tree_util.tree_leaves_with_path(stacked), jax.tree.leaves(as_stack(one_by_one)),
                                    strict=True):
        # 20 steps of rounding in float32, which muon's iteration amplifies; a rule that saw a stack is off by over 1e-3
        np.testing.assert_allclose(ours, wanted, rtol=3e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))


MASKED_INSIDE = ('dadapt_adamw', 'madgrad', 'momo', 'momo_adam', 'novograd', 'prodigy', 'schedule_free_adamw',
                 'schedule_free_sgd')  # they decay inside their rule and have no mask
OPTIONS = {'adafactor': {'min_dim_size_to_factor': 2}, 'galore': {'rank': 2, 'update_proj_gap': 2}}
QUICK = ('muon', 'lamb', 'adamw')
OTHERS = [name for name in optimizers.names() if name not in (*QUICK, 'noisy_sgd')]  # its noise is drawn by shape


@pytest.mark.parametrize('name', tiers.first(len(QUICK), [*QUICK, *OTHERS]))
def test_every_optimizer(name):
    """20 steps with decay; optimizers that only a shape can tell from a stack are in the quick tier."""
    mask = {} if name in MASKED_INSIDE else {'wd_mask': 'kernels'}
    check({'name': name, 'lr': 0.05, 'weight_decay': 0.1, **OPTIONS.get(name, {}), **mask}, 20)


@pytest.mark.parametrize('name', [name for name in optimizers.PER_LAYER if name not in QUICK])
def test_rules_by_shape_two_steps(name):
    check({'name': name, 'lr': 0.05, 'weight_decay': 0.1, **OPTIONS.get(name, {})}, 2)


@pytest.mark.parametrize('rule', [
    {'wd_mask': 'kernels', 'weight_decay': 0.3}, {'wd_mask': 'kernels', 'l2': 0.3}, {'wd_mask': 'kernels', 'l1': 0.3},
    {'weight_decay': 0.3, 'wd_mults': (('.*/scale', 0.0), ('.*/moe/.*', 0.5))}, {'l2': 0.3, 'l1': 0.1}, {'max_norm': 0.8},
    {'clip_norm': 0.5}, {'clip_value': 0.3}, {'lr_mults': (('.*/bias', 0.1),)}, {'frozen': ('.*/bias',)},
    {'lookahead': {'period': 2}}, {'swa': {'start': 2}}, {'schedule': {'name': 'plateau', 'patience': '1 epoch'}},
    {'groups': (('.*/kernel', {'name': 'muon', 'lr': 0.01}), ('.*', {'name': 'lamb'})), 'wd_mask': 'kernels',
     'weight_decay': 0.3}], ids=str)
def test_every_rule(rule):
    check({'name': 'sgd', 'lr': 0.1, **rule}, 4)


def test_shapes_of_stacks():
    params = as_stack(as_layers(tree(0)))
    assert layers.leads(params) == {
        'embed': (), 'blocks/attn/bias': (3,), 'blocks/attn/kernel': (3,), 'blocks/norm/scale': (3,), 'blocks/moe/up': (3, 2)}
    named_blocks = {'blocks': {'kernel': numbers((4, 5), 0), 'bias': numbers((5,), 1)}}  # a module with that name
    assert set(layers.leads(named_blocks).values()) == {()}


def test_the_state_of_a_stack_has_its_shape_and_is_split_as_it_is():
    """Moments of stacked layers lie where the layers lie, and counters stay one number."""
    params = jax.tree.map(jnp.asarray, as_stack(as_layers(tree(0))))
    tx, _ = optimizers.make({'name': 'lamb', 'lr': 0.1}, params, **RUN)
    mesh = meshes.make('stage:1')
    partition = (('blocks/(attn/bias|norm/scale)', ('layers', None)), ('blocks/attn/kernel', ('layers', None, None)),
                 ('blocks/moe/up', ('layers', None, None, None)), ('embed', (None, None)))
    placed = {p.path: p for p in rules.resolve(params, partition, mesh)}
    state = tx.init(params)
    shardings = rules.follow(state, placed, mesh)
    split = {path for path, s in tree_paths.leaves(shardings) if 'stage' in s.spec}
    for moment in ('mu', 'nu'):
        for path in ('attn/kernel', 'attn/bias', 'norm/scale', 'moe/up'):
            assert any(p.endswith(f'{moment}/blocks/{path}') for p in split), (moment, path, split)
    assert all(leaf.shape == () for path, leaf in tree_paths.leaves(state) if path.endswith('count'))


def test_a_population_of_stacked_layers_is_its_members():
    spec = {'name': 'muon', 'lr': 0.05, 'weight_decay': 0.1, 'wd_mask': 'kernels'}
    members = [jax.tree.map(jnp.asarray, as_stack(as_layers(tree(seed)))) for seed in (0, 7)]
    grads = jax.tree.map(jnp.asarray, as_stack(as_layers(tree(100))))
    tx, _ = optimizers.make(spec, members[0], **RUN)

    def run(params):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
        return params

    both = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: jnp.stack(x), *members))
    for i, member in enumerate(members):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-6), both, jax.jit(run)(member))


def test_an_own_transformation_by_layer():
    """A trust ratio that optax lacks: `per_layer` makes it see layers, and without it the stack is one array."""
    rule = optax.chain(optax.scale_by_trust_ratio(), optax.scale(-0.1))
    wrapped = lambda params: optax.with_extra_args_support(layers.per_layer(rule, layers.leads(params)))
    one_by_one, _ = train(wrapped, lambda params: params, 2)
    stacked, _ = train(wrapped, as_stack, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stacked, as_stack(one_by_one))
    plain, _ = train(lambda params: optax.with_extra_args_support(rule), as_stack, 2)
    assert np.any(np.abs(plain['blocks']['attn']['kernel'] - stacked['blocks']['attn']['kernel']) > 1e-3)


def test_averages_of_a_partition_leave_the_rest_alone():
    params = jax.tree.map(jnp.asarray, as_stack(as_layers(tree(0))))
    tx, _ = optimizers.make({'name': 'sgd', 'lr': 0.1, 'swa': {'start': 1}, 'frozen': ('embed',)}, params, **RUN)
    averaged = averages.eval_params(tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, averaged, params)
