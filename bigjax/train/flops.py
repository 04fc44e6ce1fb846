"""The cost of a step: the FLOPs that its program needs at least as it is written, and the units that it processes.

Model FLOPs are those of the loss and of its gradient, two for every multiplication of a product or convolution: the loss
once, and once more for each of the two operands that a parameter reaches (for a dense layer three times the forward pass;
Kaplan et al. 2020, section 2.1). Recomputation is not counted. Causal attention counts whole, as it is computed.
"""
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.compat import Literal
from bigjax.distributed import hardware
from bigjax.nn import cpu
from bigjax.nn.cost_hints import CostHints
from bigjax.sharding import logical
from bigjax.tasks import FROZEN, loss_metrics, mean
from bigjax.train.feed import batch_shapes
from bigjax.train.step import prepare

CHECKPOINT = ('checkpoint', 'remat', 'remat2')  # names of its primitive
INNER = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')  # where primitives keep the function that they call


def model_flops(program) -> float:
    """FLOPs of one step of all members, over all devices."""
    return step_flops(program)[0]


def step_flops(program) -> tuple[float, float]:
    """(model FLOPs, forward FLOPs inside `jax.checkpoint`) of one step of all members, over all devices.

    The backward pass executes the second again by design, except what a checkpoint policy keeps.
    """
    state, _, _, _, frozen = program.arguments()
    one = (lambda x: x) if program.members is None else (lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    state, s = jax.tree.map(one, state), program.settings
    batch = batch_shapes(program.experiment.data, s.batch_size // s.accumulate)
    with cpu.lowering_for('tpu'), logical.using(None):  # layers as they are written, on one device
        others = {**state.model_state, FROZEN: frozen} if frozen else state.model_state
        jaxpr = jax.make_jaxpr(_loss(program))(state.params, others, batch, state.key).jaxpr
    active = [True] * len(jax.tree.leaves(state.params))
    active += [False] * (len(jaxpr.invars) - len(active))
    times = s.accumulate * s.population
    return _count(jaxpr, active, [True])[0] * times, _checkpointed(jaxpr) * times


def _checkpointed(jaxpr) -> float:
    """Forward FLOPs of the functions under `jax.checkpoint`."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = _inner(eqn)
        if inner is None or not hasattr(inner, 'eqns'):
            continue
        if eqn.primitive.name in CHECKPOINT:
            total += _count(inner, [False] * len(inner.invars), [False] * len(inner.outvars))[0]
        else:
            total += eqn.params.get('length', 1) * _checkpointed(inner)
    return total


def _loss(program):
    e = program.experiment

    def loss(params, others, batch, key):
        batch = prepare(batch, key, e.data.preprocess, e.data.augment)
        terms, _ = e.task.loss(program.apply, {'params': params, **others}, batch, key, True)
        return mean(loss_metrics(terms)['loss'])

    return loss


def _count(jaxpr, active: list[bool], wanted: list[bool]) -> tuple[float, list[bool]]:
    """(FLOPs forward and backward, which inputs a gradient flows to).

    Args:
      active: which inputs the parameters reach.
      wanted: which outputs a gradient comes from.
    """
    reached = _reach(jaxpr, active)
    flowing = {v: on for v, on in zip(jaxpr.outvars, wanted, strict=True) if not isinstance(v, Literal) and on}
    total = 0.0
    for eqn in reversed(jaxpr.eqns):
        flops, to = _equation(eqn, _look(reached, eqn.invars), _look(flowing, eqn.outvars))
        total += flops
        flowing.update({v: True for v, on in zip(eqn.invars, to, strict=True) if on and not isinstance(v, Literal)})
    return total, [on and r for on, r in zip(_look(flowing, jaxpr.invars), active, strict=True)]


def _look(flags: dict, variables) -> list[bool]:
    return [not isinstance(v, Literal) and flags.get(v, False) for v in variables]


def _reach(jaxpr, active) -> dict:
    """{variable: True} of those that parameters reach through functions that have a derivative."""
    reached = {v: on for v, on in zip(jaxpr.invars, active, strict=True) if on}
    for eqn in jaxpr.eqns:
        for var, on in zip(eqn.outvars, _reached_by(eqn, _look(reached, eqn.invars)), strict=True):
            if on and jnp.issubdtype(var.aval.dtype, jnp.inexact):
                reached[var] = True
    return reached


def _reached_by(eqn, active) -> list[bool]:
    name, inner = eqn.primitive.name, _inner(eqn)
    if name == 'scan':
        return _look(_reach(inner, _settled(eqn, active)), inner.outvars)
    if inner is not None and len(inner.invars) == len(active):
        return _look(_reach(inner, active), inner.outvars)
    return [any(active) and name != 'stop_gradient'] * len(eqn.outvars)


def _settled(eqn, active) -> list[bool]:
    """The inputs of a scan's body that are reached in some turn."""
    first, carry = eqn.params['num_consts'], eqn.params['num_carry']
    inner, active = eqn.params['jaxpr'].jaxpr, list(active)
    while True:
        out = _look(_reach(inner, active), inner.outvars)[:carry]
        grown = [a or b for a, b in zip(active[first:first + carry], out, strict=True)]
        if grown == active[first:first + carry]:
            return active
        active[first:first + carry] = grown


def _inner(eqn):
    """The function that a primitive calls on its own arguments, or None."""
    found = next((eqn.params[key] for key in INNER if eqn.params.get(key) is not None), None)
    return getattr(found, 'jaxpr', found)


def _equation(eqn, active, wanted) -> tuple[float, list[bool]]:
    """(FLOPs, which inputs a gradient flows to)."""
    name, inner = eqn.primitive.name, _inner(eqn)
    to = [a and any(wanted) and name != 'stop_gradient' for a in active]
    if name in ('dot_general', 'conv_general_dilated'):
        forward = _dot(eqn) if name == 'dot_general' else _convolution(eqn)
        return forward * (1 + to[0] + to[1]), to
    if name == 'scan':
        return _scan(eqn, active, wanted)
    if name == 'while':  # has no gradient; of a trip count that only running it tells
        return _count(eqn.params['body_jaxpr'].jaxpr, [False] * len(eqn.params['body_jaxpr'].jaxpr.invars),
                      [False] * len(eqn.outvars))[0], to
    if name == 'cond':
        counts = [_count(b.jaxpr, active[1:], wanted) for b in eqn.params['branches']]
        return max(c[0] for c in counts), [False, *map(any, zip(*(c[1] for c in counts), strict=True))]
    if inner is not None and len(getattr(inner, 'invars', ())) == len(active):
        return _count(inner, active, wanted)
    return 0.0, to


def _scan(eqn, active, wanted) -> tuple[float, list[bool]]:
    """Body x length; where a gradient flows in one turn, it flows in all."""
    first, carry = eqn.params['num_consts'], eqn.params['num_carry']
    active, wanted = _settled(eqn, active), list(wanted)
    while True:
        total, to = _count(eqn.params['jaxpr'].jaxpr, active, wanted)
        grown = [a or b for a, b in zip(wanted[:carry], to[first:first + carry], strict=True)]
        if grown == wanted[:carry]:
            return total * eqn.params['length'], to
        wanted[:carry] = grown


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


@functools.lru_cache(4096)
def taps(out: int, kernel: int, data: int, stride: int, pad: tuple, lhs_dilate: int, rhs_dilate: int) -> int:
    """Pairs (output position, kernel tap) that meet a number of the input, along one axis."""
    positions, total = np.arange(out, dtype=np.int64) * stride - pad[0], 0
    for tap in range(kernel):
        at = positions + tap * rhs_dilate
        total += int(np.count_nonzero((at >= 0) & (at % lhs_dilate == 0) & (at < data * lhs_dilate)))
    return total


def cost_hints(program) -> CostHints | None:
    """The sizes that the model gives, or None."""
    own, data = getattr(program.experiment.model, 'cost_hints', None), program.experiment.data
    if own is None:
        return None
    inputs = lambda batch: program.experiment.task.inputs(data.preprocess(batch) if data.preprocess else batch)
    return own(*jax.eval_shape(inputs, batch_shapes(data, 1)))


def positions(program) -> int:
    """Tokens or patches of one example; 0 where the model gives none."""
    hints = cost_hints(program)
    return hints.positions if hints else 0


def units(program, examples: int) -> int:
    """How many of the task's `unit` a batch of so many examples holds."""
    size = program.experiment.task.size
    return examples if size is None else int(size(batch_shapes(program.experiment.data, examples)))


class StepCost(NamedTuple):
    """One step of all members: model FLOPs, how many `unit`s, and the peak FLOP/s of its devices (None where it is not known).

    MFU (model FLOPs utilisation; Chowdhery et al. 2022, appendix B) = model FLOPs / seconds / peak.
    """

    flops: float
    amount: int
    unit: str
    peak: float | None

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """{'tokens_per_second', 'tflops', 'mfu'}; no MFU where the peak is not known."""
        found = {f'{self.unit}_per_second': self.amount * steps_per_second, 'tflops': self.flops * steps_per_second / 1e12}
        return found | ({'mfu': self.flops * steps_per_second / self.peak} if self.peak else {})


def step_cost(program) -> StepCost:
    """The cost of a program's step."""
    s = program.settings
    return StepCost(model_flops(program), s.population * units(program, s.batch_size), program.experiment.task.unit,
                    hardware.peak(program.mesh.devices.flatten()))
