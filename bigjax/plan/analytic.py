"""What a step has to compute at least: counted in the program as it is written, not as it is compiled.

Model FLOPs are those of the loss and of its gradient, two for every multiplication of a product or convolution: the loss
once, and once more for each of the two operands that a parameter reaches (for a dense layer three times the forward pass;
Kaplan et al. 2020, section 2.1). Recomputation is no model work. Causal attention counts whole, as it is computed.
"""
import math

import jax
import jax.numpy as jnp
from jax.extend import core

from bigjax.nn import cpu, logical
from bigjax.plan.flops import taps
from bigjax.train.feed import batch_shapes
from bigjax.train.step import prepare

INNER = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')  # where primitives keep the function that they call


def model_flops(program) -> float:
    """FLOPs of one step of all members, over all devices."""
    state, _, _, _ = program.arguments()
    one = (lambda x: x) if program.members is None else (lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    state, s = jax.tree.map(one, state), program.settings
    batch = batch_shapes(program.experiment.data, s.batch_size // s.accumulate)
    with cpu.lowering_for('tpu'), logical.using(None):  # layers as they are written, on one device
        jaxpr = jax.make_jaxpr(_loss(program))(state.params, state.model_state, batch, state.key)
    active = [True] * len(jax.tree.leaves(state.params))
    active += [False] * (len(jaxpr.jaxpr.invars) - len(active))
    return _count(jaxpr.jaxpr, active)[0] * s.accumulate * s.population


def _loss(program):
    e = program.experiment

    def loss(params, model_state, batch, key):
        batch = prepare(batch, key, e.data.preprocess, e.data.augment)
        per_example, weights, _ = e.task.loss(program.apply, {'params': params, **model_state}, batch, key, True)
        return jnp.sum(per_example * weights)

    return loss


def _count(jaxpr, active: list[bool]) -> tuple[float, list[bool]]:
    """(FLOPs forward and backward, which results parameters reach); `active`: which inputs they reach."""
    reached = dict(zip(jaxpr.invars, active, strict=True))
    look = lambda v: not isinstance(v, core.Literal) and reached.get(v, False)
    total = 0.0
    for eqn in jaxpr.eqns:
        flops, out = _equation(eqn, [look(v) for v in eqn.invars])
        total += flops
        for var, on in zip(eqn.outvars, out, strict=True):
            reached[var] = on and jnp.issubdtype(var.aval.dtype, jnp.inexact)
    return total, [look(v) for v in jaxpr.outvars]


def _equation(eqn, active) -> tuple[float, list[bool]]:
    name = eqn.primitive.name
    everywhere = [any(active) and name != 'stop_gradient'] * len(eqn.outvars)
    if name in ('dot_general', 'conv_general_dilated'):
        forward = _dot(eqn) if name == 'dot_general' else _convolution(eqn)
        return forward * (1 + active[0] + active[1]), everywhere
    if name == 'scan':
        return _scan(eqn, active)
    if name == 'while':
        return _count(eqn.params['body_jaxpr'].jaxpr, active[eqn.params['cond_nconsts']:])
    if name == 'cond':
        counts = [_count(b.jaxpr, active[1:]) for b in eqn.params['branches']]
        return max(c[0] for c in counts), [any(on) for on in zip(*(c[1] for c in counts), strict=True)]
    for key in INNER:
        inner = eqn.params.get(key)
        inner = getattr(inner, 'jaxpr', inner)
        if inner is not None and len(getattr(inner, 'invars', ())) == len(active):
            return _count(inner, active)
    return 0.0, everywhere


def _scan(eqn, active) -> tuple[float, list[bool]]:
    """Body x length; what a parameter reaches in one turn, it reaches in all."""
    p = eqn.params
    first, carry = p['num_consts'], slice(p['num_consts'], p['num_consts'] + p['num_carry'])
    active = list(active)
    while True:
        total, out = _count(p['jaxpr'].jaxpr, active)
        grown = [a or b for a, b in zip(active[carry], out[:p['num_carry']], strict=True)]
        if grown == active[carry]:
            return total * p['length'], out
        active[first:first + len(grown)] = grown


def _dot(eqn) -> float:
    (contracted, _), _ = eqn.params['dimension_numbers']
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)


def _convolution(eqn) -> float:
    p, (lhs, rhs) = eqn.params, (v.aval.shape for v in eqn.invars)
    out, spec = eqn.outvars[0].aval.shape, p['dimension_numbers']
    total = 2.0 * out[spec.out_spec[0]] * out[spec.out_spec[1]] * rhs[spec.rhs_spec[1]]
    for k, (a, b, c) in enumerate(zip(spec.out_spec[2:], spec.rhs_spec[2:], spec.lhs_spec[2:], strict=True)):
        total *= taps(out[a], rhs[b], lhs[c], p['window_strides'][k], tuple(p['padding'][k]), p['lhs_dilation'][k],
                      p['rhs_dilation'][k])
    return total
