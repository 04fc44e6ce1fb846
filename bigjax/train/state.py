"""The state of training: a pytree of arrays, and nothing outside it."""
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from bigjax.nn import rng
from bigjax.tasks import LOSSES, RNG_STREAMS, bind
from bigjax.train.averages import eval_params


@flax.struct.dataclass
class TrainState:
    """Everything that one step turns into the next.

    Attributes:
      step: int32, updates applied so far.
      key: the seed's key; the randomness of step t is `fold_in(key, t)`.
      params: float32 parameters.
      model_state: the model's other collections, such as 'batch_stats'.
      opt_state: the optimizer's state.
      ema: moving average of `params`, or None.
      halted: int32, the step whose loss or gradient was not finite, or -1. Once set, steps change nothing.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    model_state: Mapping[str, Any]
    opt_state: Any
    ema: Any
    halted: jax.Array

    def variables(self, average: bool = True) -> dict:
        """The model's variables; with averaged parameters (`ema`, or the optimizer's own) unless `average` is False."""
        params = self.params
        if average:
            params = eval_params(self.opt_state, params) if self.ema is None else self.ema
        return {'params': params, **self.model_state}


def init_variables(model, inputs: tuple, seed) -> dict:
    """The model's variables at step 0, a pure function of (model, seed)."""
    names = ('params', *RNG_STREAMS)
    keys = jax.random.split(jax.random.fold_in(rng.key(seed), 0x1217), len(names))
    variables = dict(model.init(dict(zip(names, keys, strict=True)), *inputs, train=False))
    variables.pop(LOSSES, None)
    return variables


def init_state(model, inputs: tuple, tx, seed, *, ema: bool) -> TrainState:
    """The state before the first step. `inputs`: the model's arguments for one batch; only their shapes matter."""
    return state_of(init_variables(model, inputs, seed), tx, seed, ema=ema)


def state_of(variables: Mapping, tx, seed, *, ema: bool) -> TrainState:
    """The state before the first step of a run that starts from these variables."""
    variables = dict(variables)
    params = variables.pop('params')
    return TrainState(
        step=jnp.int32(0), key=rng.key(seed), params=params, model_state=variables, opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None, halted=jnp.int32(-1))


def count(params) -> int:
    """The number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))


__all__ = ['TrainState', 'bind', 'count', 'init_state', 'init_variables']
