"""Optimizers against torch and formulas, their rules by regex, and every name that optax has."""
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from bigjax.train import optimizers
from tests import tiers
from tests.refused import refused

RUN = {'total_steps': 20, 'steps_per_epoch': 5, 'batch_size': 4}
STEPS = 20


def numbers(shape, seed=0, scale=1.0):
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * scale, np.float32)


def tree(seed=0):
    return {'body': {'kernel': numbers((5, 4), seed), 'bias': numbers((4,), seed + 1)},
            'head': {'kernel': numbers((4, 3), seed + 2), 'scale': numbers((3,), seed + 3)}}


PARAMS = tree()
GRADS = [tree(100 + 10 * i) for i in range(STEPS)]


def make(spec, params=PARAMS, **run):
    return optimizers.make(spec, params, **{**RUN, **run})


def train(spec, steps=STEPS, values=None, params=PARAMS):
    """The parameters after each step, [steps, …]; eager, so that many specs stay cheap."""
    tx, _ = make(spec, params)
    params, state, history = jax.tree.map(jnp.asarray, params), tx.init(params), []
    for i in range(steps):
        updates, state = tx.update(GRADS[i], state, params, value=jnp.float32(values[i] if values is not None else 1.0))
        params = optax.apply_updates(params, updates)
        history.append(params)
    return jax.tree.map(lambda *x: np.stack(x), *history), state


TORCH = {
    'sgd': ({}, 'SGD', {}),
    'sgd, momentum': ({'name': 'sgd', 'momentum': 0.9}, 'SGD', {'momentum': 0.9}),
    'sgd, nesterov': ({'name': 'sgd', 'momentum': 0.9, 'nesterov': True}, 'SGD', {'momentum': 0.9, 'nesterov': True}),
    'sgd, momentum, l2': ({'name': 'sgd', 'momentum': 0.9, 'l2': 0.1}, 'SGD', {'momentum': 0.9, 'weight_decay': 0.1}),
    'adam': ({}, 'Adam', {}),
    'adam, own betas': ({'name': 'adam', 'b1': 0.5, 'b2': 0.9, 'eps': 0.1}, 'Adam', {'betas': (0.5, 0.9), 'eps': 0.1}),
    'adam, l2': ({'name': 'adam', 'l2': 0.2}, 'Adam', {'weight_decay': 0.2}),
    'adam, weight_decay': ({'name': 'adam', 'weight_decay': 0.2}, 'AdamW', {'weight_decay': 0.2}),
    'adamw': ({'name': 'adamw', 'weight_decay': 0.2}, 'AdamW', {'weight_decay': 0.2}),
    'adadelta': ({'name': 'adadelta', 'rho': 0.8}, 'Adadelta', {'rho': 0.8}),
    'adamax': ({'name': 'adamax'}, 'Adamax', {}),
    'nesterov adam': ({'name': 'rmsprop', 'eps_in_sqrt': False, 'decay': 0.99, 'momentum': 0.5}, 'RMSprop',
                      {'alpha': 0.99, 'momentum': 0.5}),
}


@pytest.mark.parametrize('case', TORCH)
def test_against_torch(case):
    """20 steps on random gradients. (Keras's Adam has eps 1e-7 outside the bias correction, so it is not this Adam.)"""
    torch = pytest.importorskip('torch', reason='the reference is torch.optim')
    spec, name, options = TORCH[case]
    ours, _ = train({'name': case, 'lr': 0.05, **spec})
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in jax.tree.leaves(PARAMS)]
    optimizer = getattr(torch.optim, name)(theirs, lr=0.05, **options)
    for i in range(STEPS):
        for w, g in zip(theirs, jax.tree.leaves(GRADS[i]), strict=True):
            w.grad = torch.tensor(g)
        optimizer.step()
        for w, x in zip(theirs, jax.tree.leaves(ours), strict=True):
            np.testing.assert_allclose(x[i], w.detach().numpy(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('clip', ['clip_norm', 'clip_value'])
def test_clipping_against_torch(clip):
    torch = pytest.importorskip('torch', reason='the reference is torch.nn.utils.clip_grad_*')
    ours, _ = train({'name': 'sgd', 'lr': 0.1, clip: 0.5}, steps=3)
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in jax.tree.leaves(PARAMS)]
    optimizer = torch.optim.SGD(theirs, lr=0.1)
    for i in range(3):
        for w, g in zip(theirs, jax.tree.leaves(GRADS[i]), strict=True):
            w.grad = torch.tensor(g)
        if clip == 'clip_norm':
            torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        else:
            torch.nn.utils.clip_grad_value_(theirs, 0.5)
        optimizer.step()
    for w, x in zip(theirs, jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(x[-1], w.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_adam_in_one_cycle_against_torch():
    torch = pytest.importorskip('torch', reason='the reference is torch.optim.lr_scheduler.OneCycleLR')
    ours, _ = train({'name': 'adam', 'lr': 0.1, 'schedule': 'one_cycle'})
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in jax.tree.leaves(PARAMS)]
    optimizer = torch.optim.Adam(theirs, lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS, cycle_momentum=False)
    for i in range(STEPS):
        for w, g in zip(theirs, jax.tree.leaves(GRADS[i]), strict=True):
            w.grad = torch.tensor(g)
        optimizer.step()
        if i < STEPS - 1:
            schedule.step()
    for w, x in zip(theirs, jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(x[-1], w.detach().numpy(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('cooldown, threshold', [(0, {}), (2, {}), (0, {'threshold_mode': 'abs', 'threshold': 0.12})])
def test_plateau_against_torch(cooldown, threshold):
    """The recorded loss falls, stays, falls a little and stays; torch's patience is one less for the same moment."""
    torch = pytest.importorskip('torch', reason='the reference is torch.optim.lr_scheduler.ReduceLROnPlateau')
    epochs = [3.0, 2.0, 1.5, 1.5, 1.6, 1.5, 1.4, 1.4, 1.39999, 1.4, 1.4, 1.4, 1.2, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3]
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        reference, factor=0.5, patience=1, cooldown=cooldown, min_lr=0.1, **threshold)
    spec = {'name': 'sgd', 'lr': 0.8, 'schedule': {
        'name': 'plateau', 'factor': 0.5, 'patience': '2 epochs', 'cooldown': f'{cooldown} epochs', 'min_lr': 0.1,
        **({'rtol': 0.0, 'atol': threshold['threshold']} if threshold else {})}}
    params = {'w': jnp.zeros(1)}
    tx, lr = make(spec, params, total_steps=500)
    state, update = tx.init(params), jax.jit(tx.update)
    rates = set()
    for loss in epochs:
        for wobble in (0.1, -0.1, 0.3, -0.3, 0.0):  # five steps an epoch, whose mean is the epoch's loss
            updates, state = update({'w': jnp.ones(1)}, state, params, value=jnp.float32(loss + wobble))
        schedule.step(loss)
        expected = reference.param_groups[0]['lr']
        rates.add(round(expected, 6))
        np.testing.assert_allclose(-updates['w'][0], expected, rtol=1e-5)
        np.testing.assert_allclose(lr(0) * optimizers.plateau_factor(state), expected, rtol=1e-5)
    assert len(rates) >= 3, 'the series does not exercise the schedule'


def test_the_learning_rate_follows_the_schedule_and_counts_steps():
    spec = {'name': 'sgd', 'lr': 0.4, 'schedule': {'name': 'linear', 'warmup': '1 epoch', 'end': 0.1}}
    history, _ = train(spec)
    _, lr = make(spec)
    w = np.concatenate([PARAMS['head']['kernel'][None], history['head']['kernel']])
    for i in range(STEPS):
        np.testing.assert_allclose(w[i] - w[i + 1], lr(i) * GRADS[i]['head']['kernel'], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose([lr(0), lr(5), lr(20)], [0, 0.4, 0.1], rtol=1e-6)


def one_step(spec, path=('head', 'kernel'), params=PARAMS):
    history, _ = train({'name': 'sgd', 'lr': 0.1, **spec}, steps=1, params=params)
    return functools.reduce(lambda node, key: node[key], path, history)[0]


def test_penalties_and_decay_by_formula():
    w, g = PARAMS['head']['kernel'], GRADS[0]['head']['kernel']
    np.testing.assert_allclose(one_step({'l2': 0.3}), w - 0.1 * (g + 0.3 * w), rtol=1e-5)
    np.testing.assert_allclose(one_step({'l1': 0.3}), w - 0.1 * (g + 0.3 * np.sign(w)), rtol=1e-5)
    np.testing.assert_allclose(one_step({'weight_decay': 0.3}), w - 0.1 * g - 0.1 * 0.3 * w, rtol=1e-5)
    np.testing.assert_allclose(one_step({'weight_decay': 0.3, 'lr_mults': (('head/.*', 0.5),)}),
                               w - 0.05 * g - 0.05 * 0.3 * w, rtol=1e-5)


def test_sgdw_keeps_the_decay_out_of_the_momentum():
    history, _ = train({'name': 'sgd', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.3})
    w, trace = PARAMS['head']['kernel'].astype(np.float64), 0.0
    for i in range(STEPS):
        trace = GRADS[i]['head']['kernel'] + 0.9 * trace
        w = w - 0.1 * trace - 0.1 * 0.3 * w
    np.testing.assert_allclose(history['head']['kernel'][-1], w, rtol=1e-4)


def test_decay_default_is_the_optimizers_own():
    free, _ = train({'name': 'lion', 'lr': 0.1, 'weight_decay': 0})
    default, _ = train({'name': 'lion', 'lr': 0.1})
    explicit, _ = train({'name': 'lion', 'lr': 0.1, 'weight_decay': 1e-3})
    assert np.any(free['head']['kernel'] != default['head']['kernel'])
    jax.tree.map(np.testing.assert_array_equal, default, explicit)
    plain = optax.lion(0.1)
    params = jax.tree.map(jnp.asarray, PARAMS)
    updates, _ = plain.update(GRADS[0], plain.init(params), params)
    np.testing.assert_allclose(default['head']['kernel'][0], params['head']['kernel'] + updates['head']['kernel'],
                               rtol=1e-6)


@pytest.mark.parametrize('key', ['weight_decay', 'l2', 'l1'])
def test_what_decays(key):
    plain, _ = train({'name': 'sgd', 'lr': 0.1}, steps=1)
    everywhere, _ = train({'name': 'sgd', 'lr': 0.1, key: 0.3}, steps=1)
    kernels, _ = train({'name': 'sgd', 'lr': 0.1, key: 0.3, 'wd_mask': 'kernels'}, steps=1)
    mults, _ = train({'name': 'sgd', 'lr': 0.1, key: 0.3, 'wd_mults': (('head/.*', 0.0), ('.*/bias', 2.0))}, steps=1)
    doubled, _ = train({'name': 'sgd', 'lr': 0.1, key: 0.6}, steps=1)
    for part, leaf in (('body', 'kernel'), ('body', 'bias'), ('head', 'kernel'), ('head', 'scale')):
        assert np.all(everywhere[part][leaf] != plain[part][leaf])
        np.testing.assert_array_equal(kernels[part][leaf], (everywhere if leaf == 'kernel' else plain)[part][leaf])
        expected = plain if part == 'head' else doubled if leaf == 'bias' else everywhere
        np.testing.assert_allclose(mults[part][leaf], expected[part][leaf], rtol=1e-6)


def test_decay_inside_a_rule():
    """LAMB's trust ratio sees the decay; its mask is the kernels."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    reference = optax.lamb(0.1, weight_decay=0.3, mask=jax.tree.map(lambda w: w.ndim > 1, params))
    updates, _ = reference.update(GRADS[0], reference.init(params), params)
    ours, _ = train({'name': 'lamb', 'lr': 0.1, 'weight_decay': 0.3, 'wd_mask': 'kernels'}, steps=1)
    jax.tree.map(lambda x, w, u: np.testing.assert_allclose(x[0], w + u, rtol=1e-5, atol=1e-6), ours, params, updates)
    with refused('optimizer/conflict', 'lamb', '0 or 1'):
        make({'name': 'lamb', 'lr': 0.1, 'weight_decay': 0.3, 'wd_mults': (('head/.*', 0.5),)})
    with refused('optimizer/conflict', 'prodigy'):
        make({'name': 'prodigy', 'weight_decay': 0.3, 'wd_mask': 'kernels'})


def test_lr_mults():
    plain, _ = train({'name': 'adam', 'lr': 0.1}, steps=1)
    ours, _ = train({'name': 'adam', 'lr': 0.1, 'lr_mults': (('head/.*', 0.1), ('.*/bias', 2))}, steps=1)
    for (part, leaf), factor in {('head', 'kernel'): 0.1, ('head', 'scale'): 0.1, ('body', 'bias'): 2.0,
                                 ('body', 'kernel'): 1.0}.items():
        w = PARAMS[part][leaf]
        np.testing.assert_allclose(ours[part][leaf][0] - w, factor * (plain[part][leaf][0] - w), rtol=1e-4, atol=1e-6)


def test_frozen_parameters_keep_every_bit_and_have_no_state():
    spec = {'name': 'adamw', 'lr': 0.1, 'frozen': ('body/.*',), 'weight_decay': 0.5, 'max_norm': 0.1, 'clip_norm': 1.0}
    history, state = train(spec)
    for leaf in ('kernel', 'bias'):
        assert history['body'][leaf][-1].tobytes() == PARAMS['body'][leaf].tobytes()
    assert np.all(history['head']['kernel'][-1] != PARAMS['head']['kernel'])
    assert not [x for x in jax.tree.leaves(state) if x.shape == (5, 4)]
    tx, _ = make({**spec, 'frozen': ()}, {'head': PARAMS['head']})  # nor a share in the clipped norm
    params = {'head': jax.tree.map(jnp.asarray, PARAMS['head'])}
    updates, _ = tx.update({'head': GRADS[0]['head']}, tx.init(params), params, value=1.0)
    new = optax.apply_updates(params, updates)
    np.testing.assert_allclose(history['head']['kernel'][0], new['head']['kernel'], rtol=1e-6)


def test_max_norm():
    """Srivastava et al., 2014: no unit's incoming weights are longer than c; a convolution's unit is its last axis."""
    params = {'conv': {'kernel': numbers((3, 3, 2, 6))}, 'dense': {'kernel': numbers((5, 4)), 'bias': numbers((4,))}}
    grads = {'conv': {'kernel': numbers((3, 3, 2, 6), 1)}, 'dense': {'kernel': numbers((5, 4), 2) * np.arange(
        4, dtype=np.float32), 'bias': 100 * numbers((4,), 3)}}
    params['dense']['kernel'][:, 0] *= 0.1
    tx, _ = make({'name': 'sgd', 'lr': 0.1, 'max_norm': 1.5}, params)
    params = jax.tree.map(jnp.asarray, params)
    updates, _ = tx.update(grads, tx.init(params), params, value=1.0)
    new = optax.apply_updates(params, updates)
    free = jax.tree.map(lambda w, g: np.asarray(w, np.float64) - 0.1 * g, params, grads)
    for name in ('conv', 'dense'):
        w = free[name]['kernel']
        norms = np.sqrt(np.sum(np.square(w.reshape(-1, w.shape[-1])), axis=0))
        np.testing.assert_allclose(new[name]['kernel'], w * np.minimum(1, 1.5 / norms), rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(new['dense']['kernel'][:, 0]) < 1.4  # inside the ball, untouched
    np.testing.assert_allclose(new['dense']['bias'], free['dense']['bias'], rtol=1e-5)


def test_groups_are_optimizers_of_their_own():
    """As in a GAN: each group equals that optimizer run on its parameters alone."""
    adam = {'name': 'adam', 'lr': 0.05, 'b1': 0.5, 'clip_norm': 0.3}
    sgd = {'name': 'sgd', 'lr': 0.2, 'momentum': 0.9, 'schedule': 'cosine', 'lr_mults': (('head/scale', 3.0),)}
    both, _ = train({'groups': (('body/.*', adam), ('.*', sgd))})
    for part, spec in (('body', adam), ('head', sgd)):
        tx, _ = make(spec, {part: PARAMS[part]})
        params = {part: jax.tree.map(jnp.asarray, PARAMS[part])}
        state = tx.init(params)
        for grads in GRADS:
            updates, state = tx.update({part: grads[part]}, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[-1], b, rtol=1e-5, atol=1e-6), both[part], params[part])


@pytest.mark.parametrize('every', [2, 3])
def test_a_group_may_be_updated_more_rarely(every):
    """It equals its optimizer run on every n-th gradient alone, schedule included; the other group is updated in every step."""
    spec = {'name': 'adam', 'lr': 0.05, 'schedule': {'name': 'linear', 'end': 0.1}}
    both, _ = train({**spec, 'groups': (('body/.*', {'every': every}), ('.*', {}))})
    plain, _ = train(spec)
    due = GRADS[every - 1::every]
    tx, _ = make(spec, {'body': PARAMS['body']}, total_steps=STEPS // every)
    params = {'body': jax.tree.map(jnp.asarray, PARAMS['body'])}
    state = tx.init(params)
    for grads in due:
        updates, state = tx.update({'body': grads['body']}, state, params, value=1.0)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[-1], b, rtol=1e-5, atol=1e-6), both['body'], params['body'])
    jax.tree.map(np.testing.assert_array_equal, both['head'], plain['head'])


def test_groups_take_their_defaults_from_beside_them():
    spec = {'name': 'sgd', 'lr': 0.3, 'momentum': 0.9, 'frozen': ('head/scale',), 'lr_mults': (('.*/bias', 0.5),)}
    grouped, _ = train({**spec, 'groups': (('body/.*', {'lr': 0.1}), ('head/.*', {}))})
    slow, _ = train({**spec, 'lr': 0.1})
    fast, _ = train(spec)
    jax.tree.map(np.testing.assert_array_equal, grouped['body'], slow['body'])
    jax.tree.map(np.testing.assert_array_equal, grouped['head'], fast['head'])


@pytest.mark.parametrize('spec, code, names', [
    ({}, 'optimizer/missing', ['optimizer.name']),
    ({'name': 'adamm', 'lr': 1}, 'optimizer/unknown-name', ["'adamm'", 'nearest is adam', 'muon']),
    ({'name': 'scale_by_adam', 'lr': 1}, 'optimizer/unknown-name', ["'scale_by_adam'"]),
    ({'name': 'sophia', 'lr': 1}, 'optimizer/unfit', ["'sophia'", 'Hessian']),
    ({'name': 'adam'}, 'optimizer/missing', ['optimizer.lr']),
    ({'name': 'adam', 'lr': 'fast'}, 'optimizer/number', ['optimizer.lr', "'fast'"]),
    ({'name': 'adam', 'lr': -1}, 'optimizer/number', ['optimizer.lr', '-1']),
    ({'name': 'adam', 'lr': float('nan')}, 'optimizer/number', ['optimizer.lr', 'nan']),
    ({'name': 'adam', 'lr': float('inf')}, 'optimizer/number', ['optimizer.lr', 'inf']),
    ({'name': 'adam', 'lr': 0}, 'optimizer/zero-rate', ['optimizer.lr', 'frozen']),
    ({'groups': (('body/.*', {'name': 'sgd', 'lr': 0.0}), ('.*', {'name': 'sgd', 'lr': 1}))}, 'optimizer/zero-rate',
     ['optimizer.groups[0].lr', 'frozen']),
    ({'name': 'adam', 'lr': 1, 'b1': float('nan')}, 'optimizer/number', ['optimizer.b1', 'nan']),
    ({'name': 'adam', 'lr': 1, 'b1': 2}, 'optimizer/number', ['optimizer.b1', '2']),
    ({'name': 'adam', 'lr': 1, 'eps': -1.0}, 'optimizer/number', ['optimizer.eps', '-1']),
    ({'name': 'sgd', 'lr': 1, 'momentum': -0.9}, 'optimizer/number', ['optimizer.momentum', '-0.9']),
    ({'name': 'sgd', 'lr': 1, 'lookahead': {'period': 0}}, 'optimizer/number', ['optimizer.lookahead.period', '0']),
    ({'name': 'sgd', 'lr': 1, 'lookahead': {'step_size': 0}}, 'optimizer/number', ['optimizer.lookahead.step_size']),
    ({'name': 'sgd', 'lr': 1, 'swa': {'start': '200%'}}, 'optimizer/number', ['optimizer.swa.start']),
    ({'name': 'sgd', 'lr': 1, 'swa': {'every': 0}}, 'optimizer/number', ['optimizer.swa.every', '0']),
    ({'name': 'adam', 'lr': 1, 'momentum': 0.9}, 'optimizer/unknown-key', ['optimizer.momentum', 'adam', 'b1, b2, eps']),
    ({'name': 'sgd', 'lr': 1, 'momentun': 0.9}, 'optimizer/unknown-key', ['nearest is momentum']),
    ({'name': 'sgd', 'lr': 1, 'weight_deca': 0.9}, 'optimizer/unknown-key', ['nearest is weight_decay']),
    ({'name': 'adam', 'learning_rate': 1, 'lr': 1}, 'optimizer/unknown-key', ['optimizer.learning_rate', 'write lr']),
    ({'name': 'adamw', 'lr': 1, 'mask': 1}, 'optimizer/unknown-key', ['optimizer.mask', 'write wd_mask']),
    ({'name': 'schedule_free_adamw', 'lr': 1, 'warmup_steps': 5}, 'optimizer/unknown-key', ['warmup_steps', "'warmup': …"]),
    ({'name': 'schedule_free_sgd', 'lr': 1, 'warmup_steps': 0}, 'optimizer/unknown-key', ['warmup_steps', "'warmup': …"]),
    ({'name': 'adam', 'lr': 1, 'wd_mask': 'biases'}, 'optimizer/mask', ['optimizer.wd_mask', "'kernels'"]),
    ({'name': 'adam', 'lr': 1, 'frozen': 3}, 'optimizer/regex', ['optimizer.frozen', '3']),
    ({'name': 'adam', 'lr': 1, 'frozen': ('body',)}, 'optimizer/no-match', ['optimizer.frozen', "'body'", "'body/bias'"]),
    ({'name': 'adam', 'lr': 1, 'frozen': ('(',)}, 'optimizer/regex', ['optimizer.frozen']),
    ({'name': 'adam', 'lr': 1, 'lr_mults': (('haed/.*', 2.0),)}, 'optimizer/no-match',
     ['optimizer.lr_mults', "'haed/.*'", "'head/"]),
    ({'name': 'adam', 'lr': 1, 'lr_mults': 3}, 'optimizer/number', ['optimizer.lr_mults']),
    ({'name': 'adam', 'lr': 1, 'lr_mults': (('.*', -1),)}, 'optimizer/number', ['optimizer.lr_mults', '-1']),
    ({'name': 'adam', 'lr': 1, 'wd_mults': (('.*', 2.0), ('head/.*', 0.0))}, 'optimizer/no-match', ['optimizer.wd_mults']),
    ({'groups': (('body/.*', {'name': 'sgd', 'lr': 1}),)}, 'optimizer/no-match', ['optimizer.groups', "'head/kernel'"]),
    ({'groups': (('.*', {'name': 'sgd', 'lr': 1, 'frozen': ('x',)}),)}, 'optimizer/conflict', ['optimizer.groups[0].frozen']),
    ({'groups': (('.*', {'name': 'sgd', 'lr': 1, 'every': 0}),)}, 'optimizer/number', ['optimizer.groups[0].every', '0']),
    ({'groups': (('.*', {'name': 'sgd', 'lr': 1, 'b1': 1}),)}, 'optimizer/unknown-key', ['optimizer.groups[0].b1', 'sgd']),
    ({'groups': (('body/.*', {'name': 'sgd', 'lr': 1, 'lr_mults': (('head/.*', 1),)}), ('.*', {}))}, 'optimizer/no-match',
     ['optimizer.groups[0].lr_mults', 'head']),
    ({'name': 'rprop', 'lr': 1, 'schedule': 'cosine'}, 'optimizer/conflict', ['optimizer.schedule', 'rprop']),
    ({'name': 'schedule_free_sgd', 'lr': 1, 'max_norm': 1.0}, 'optimizer/conflict', ['schedule_free_sgd', 'max_norm']),
    ({'name': 'sgd', 'lr': 1, 'schedule': {'name': 'plateau', 'factor': 2.0}}, 'schedule/number', ['optimizer.schedule']),
    ({'name': 'sgd', 'lr': 1, 'swa': {'strat': 3}}, 'optimizer/unknown-key', ['optimizer.swa.strat', 'start']),
    ({'name': 'sgd', 'lr': 1, 'lookahead': 6}, 'optimizer/number', ['optimizer.lookahead', 'period']),
    ({'name': 'sgd', 'fn': optax.sgd(0.1)}, 'optimizer/conflict', ["'sgd'", 'fn']),
    ('adam', 'optimizer/no-section', ["'adam'", "name='adam'"]), (None, 'optimizer/no-section', ['None']),
    ({'groups': (('.*', 'sgd'),)}, 'optimizer/no-section', ['optimizer.groups[0]', "name='sgd'"]),
    ({'fn': lambda rate: 3, 'lr': 1}, 'optimizer/transform', ['optimizer.fn', 'int']),
    ({'fn': lambda rate: optax.sgd(rate)}, 'optimizer/missing', ['optimizer.lr']),
    ({'fn': lambda rate: optax.sgd(rate), 'lr': 1, 'momentum': 0.9}, 'optimizer/unknown-key', ['optimizer.momentum']),
])
def test_wrong_specs_are_refused(spec, code, names):
    with refused(code, *names):
        make(spec)


class Tracked(Mapping):
    """A read-tracking proxy, as the command line wraps a config in."""

    def __init__(self, inner):
        self.inner, self.read = inner, set()

    def __getitem__(self, key):
        value = self.inner[key]
        self.read.add(key)
        return value

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)


def test_any_mapping_and_only_what_is_used_is_read():
    spec = {'name': 'adam', 'lr': 0.1, 'b1': 0.8, 'schedule': {'name': 'cosine', 'warmup': 3}, 'l2': None,
            'lr_mults': (('head/.*', 0.1),)}
    reference, _ = train(spec)
    tracked = Tracked(spec)
    listed = {**spec, 'lr_mults': [['head/.*', 0.1]]}  # as JSON gives it back
    config = ml_collections.ConfigDict(spec)
    for variant in (tracked, listed, config, ml_collections.FrozenConfigDict(config)):
        jax.tree.map(np.testing.assert_array_equal, reference, train(variant)[0])
    assert tracked.read == set(spec)
    outer = Tracked({'name': 'sgd', 'lr': 0.1, 'momentum': 0.9, 'groups': (
        ('body/.*', {'lr': 1, 'name': 'adam', 'momentum': None}), ('.*', {'name': 'lion', 'lr': 2, 'momentum': None}))})
    make(outer)
    assert outer.read == {'groups'}  # its lr reaches no group, and can be reported


def problem(params):
    return sum(jnp.sum(jnp.square(x - 0.5)) for x in jax.tree.leaves(params))


@pytest.mark.parametrize('name', tiers.first(0, optimizers.names()))
def test_every_optimizer_of_optax(name):
    """Under jit, vmap and scan: two members differ, stay finite, improve, and the state is arrays of a fixed shape."""
    schedule = 'constant' if name == 'rprop' else {'name': 'linear', 'warmup': 2}
    members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), PARAMS['body'])
    lr = 1.0 if name in ('dadapt_adamw', 'dog', 'dowg', 'prodigy') else 0.02  # these find their own
    tx, _ = make({'name': name, 'lr': lr, 'schedule': schedule, 'clip_norm': 100.0}, PARAMS['body'], total_steps=20)
    state = jax.vmap(tx.init)(members)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(problem)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    @jax.vmap
    def run(params, state):
        return jax.lax.scan(step, (params, state), None, length=10)

    (params, after), losses = run(members, state)
    assert np.all(np.isfinite(losses))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))
    assert np.all(problem(params) < problem(members))
    assert losses[0, 0] != losses[1, 0]
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [(x.shape, x.dtype) for x in jax.tree.leaves(state)]


def test_the_list_of_optimizers_is_optaxs():
    found = optimizers.names()
    assert {'sgd', 'adam', 'adamw', 'adadelta', 'lion', 'lamb', 'lars', 'muon', 'prodigy', 'polyak_sgd'} <= set(found)
    assert not set(found) & set(optimizers.UNFIT)
    for name in optimizers.UNFIT:
        assert name in vars(optax) or name in vars(optax.contrib), f'optax has no {name} any more'
    for name in optimizers.DECAY_INSIDE:
        assert name in found


@pytest.mark.parametrize('spec', [
    {'name': 'adamw', 'lr': 0.1, 'schedule': {'name': 'plateau', 'patience': '1 epoch'}, 'max_norm': 1.0},
    {'groups': (('body/.*', {'name': 'adam', 'lr': 0.1}), ('.*', {'name': 'sgd', 'lr': 0.1, 'l2': 0.1}))},
])
def test_a_population_is_its_members(spec):
    tx, _ = make(spec)
    members = [jax.tree.map(jnp.asarray, tree(seed)) for seed in (0, 50)]
    losses = 1 + 0.01 * jnp.arange(2 * STEPS).reshape(2, STEPS)  # rising: the plateau schedule acts

    def run(params, losses):
        state = tx.init(params)
        for i in range(8):
            updates, state = tx.update(GRADS[i], state, params, value=losses[i])
            params = optax.apply_updates(params, updates)
        return params, state

    stacked = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: jnp.stack(x), *members), losses)
    for i, member in enumerate(members):
        alone = jax.jit(run)(member, losses[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=1e-6), stacked, alone)


def test_a_schedule_may_be_a_function():
    """A schedule of optax is the rate itself; with `lr`, it multiplies it."""
    cosine = optax.cosine_decay_schedule(0.3, STEPS)
    ours, _ = train({'name': 'adam', 'schedule': cosine})
    scaled, _ = train({'name': 'adam', 'lr': 0.5, 'schedule': lambda step: 2.0 * cosine(step)})
    params = jax.tree.map(jnp.asarray, PARAMS)
    reference = optax.adam(cosine)
    state = reference.init(params)
    for i in range(STEPS):
        updates, state = reference.update(GRADS[i], state, params)
        params = optax.apply_updates(params, updates)
    for history in (ours, scaled):
        jax.tree.map(lambda x, w: np.testing.assert_allclose(x[-1], w, rtol=1e-5, atol=1e-6), history, params)
    np.testing.assert_allclose(make({'name': 'adam', 'schedule': cosine})[1](3), cosine(3))


@pytest.mark.parametrize('spec', [
    {'fn': lambda rate: optax.adam(rate, b1=0.7), 'lr': 0.1, 'schedule': 'cosine', 'weight_decay': 0.1, 'wd_mask': 'kernels'},
    {'fn': optax.adam(1.0, b1=0.7), 'lr': 0.1, 'schedule': 'cosine', 'weight_decay': 0.1, 'wd_mask': 'kernels'}])
def test_an_own_transformation_is_the_optimizer_of_that_name(spec):
    named, _ = train({'name': 'adam', 'b1': 0.7, **{k: v for k, v in spec.items() if k != 'fn'}})
    ours, _ = train(spec)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, named)


def test_a_transformation_is_an_optimizer():
    ours, _ = train(optax.sgd(0.1, momentum=0.9))
    named, _ = train({'name': 'sgd', 'lr': 0.1, 'momentum': 0.9})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, named)
    assert optimizers.frozen_paths(optax.sgd(0.1), PARAMS) == set()


def prune(share):
    """The smallest weights of each kernel become zero and stay it: a wrapper as `Experiment.transforms` has them."""

    def wrapper(tx):
        def init(params):
            large = lambda w: jnp.abs(w) >= jnp.quantile(jnp.abs(w), share)
            return jax.tree.map(lambda w: large(w) if w.ndim > 1 else jnp.ones(w.shape, bool), params), tx.init(params)

        def update(updates, state, params=None, **extra):
            updates, inner = tx.update(updates, state[1], params, **extra)
            return jax.tree.map(lambda u, w, keep: jnp.where(keep, u, -w), updates, params, state[0]), (state[0], inner)

        return optax.GradientTransformationExtraArgs(init, update)

    return wrapper


@pytest.mark.parametrize('spec', [
    {'name': 'adamw', 'lr': 0.1, 'max_norm': 3.0},
    {'groups': (('body/.*', {'name': 'adam', 'lr': 0.1}), ('.*', {'name': 'sgd', 'lr': 0.1, 'momentum': 0.9}))},
    {'name': 'adam', 'lr': 0.1, 'frozen': ('body/bias',), 'schedule': {'name': 'plateau', 'patience': '1 epoch'}}])
def test_wrappers_go_around_groups_and_populations(spec):
    doubled = lambda tx: optax.chain(tx, optax.scale(2.0))  # inside the mask
    tx = optimizers.wrap(make(spec)[0], (doubled, prune(0.5)))
    plain = optimizers.wrap(make(spec)[0], (doubled,))

    def run(tx, params):
        state = tx.init(params)
        for i in range(3):
            updates, state = tx.update(GRADS[i], state, params, value=jnp.float32(1.0))
            params = optax.apply_updates(params, updates)
        return params

    members = [jax.tree.map(jnp.asarray, tree(seed)) for seed in (0, 50)]
    both = jax.jit(jax.vmap(lambda params: run(tx, params)))(jax.tree.map(lambda *x: jnp.stack(x), *members))
    for i, member in enumerate(members):
        mine, free = jax.tree.map(lambda x, i=i: x[i], both), run(plain, member)
        kernel = mine['body']['kernel']
        assert np.sum(np.asarray(kernel) == 0) == 10  # of 20
        np.testing.assert_allclose(kernel[kernel != 0].size, 10)
        if 'max_norm' not in spec and spec.get('name') != 'adamw':
            np.testing.assert_allclose(mine['head']['scale'], free['head']['scale'], rtol=1e-5)


def test_a_wrapper_that_returns_nothing_is_refused():
    with refused('optimizer/transform', 'transforms[1]', 'NoneType'):
        optimizers.wrap(make({'name': 'sgd', 'lr': 1})[0], (prune(0.5), lambda tx: None))


@pytest.mark.parametrize('frozen', [(), ('body/.*',)])
def test_eval_params_of_schedule_free(frozen):
    spec = {'name': 'schedule_free_sgd', 'lr': 0.1, 'frozen': frozen}
    history, state = train(spec, steps=3)
    params = jax.tree.map(lambda x: jnp.asarray(x[-1]), history)
    ours = optimizers.eval_params(state, params)
    reference = optax.contrib.schedule_free_sgd(0.1)
    free = {'head': PARAMS['head']} if frozen else PARAMS
    free, grads = jax.tree.map(jnp.asarray, free), [{k: g[k] for k in free} for g in GRADS]
    theirs = reference.init(free)
    for i in range(3):
        updates, theirs = reference.update(grads[i], theirs, free)
        free = optax.apply_updates(free, updates)
    expected = optax.contrib.schedule_free_eval_params(theirs, free)
    for part in free:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours[part], expected[part])
    assert np.any(np.asarray(ours['head']['kernel']) != np.asarray(params['head']['kernel']))
    if frozen:
        jax.tree.map(np.testing.assert_array_equal, ours['body'], params['body'])


def test_eval_params_of_others_are_the_parameters():
    history, state = train({'name': 'adam', 'lr': 0.1}, steps=1)
    assert optimizers.eval_params(state, history) is history
    assert optimizers.plateau_factor(state) == 1
