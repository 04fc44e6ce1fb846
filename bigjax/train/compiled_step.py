"""The compiled functions of training: the state before the first step, and a call that takes one or several steps.

    init()                                          -> carry
    train_steps(state, totals, arrays, items)       -> state, totals, halted      compiled once, state and totals donated

The carry is {'state': TrainState, 'totals': metrics since the last log, 'best': see `bigjax.train.best`, or None}; it is what a
checkpoint holds. In a population every leaf has a leading axis of members.
"""
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.data.sources import array_shapes
from bigjax.errors import UserError
from bigjax.experiment import Experiment
from bigjax.nn import cpu
from bigjax.sharding import explicit_reduce, logical, rules, tree_paths
from bigjax.sharding import mesh as meshes
from bigjax.train import best, optimizers, update_bound
from bigjax.train.feed import batch_shapes
from bigjax.train.frozen import shapes as shapes_of
from bigjax.train.population import Population
from bigjax.train.settings import Settings
from bigjax.train.state import init_variables, state_of
from bigjax.train.step import train_step

MAX_STEPS_PER_CALL, MAX_STEPS_PER_CALL_CPU = 100, 20
MAX_UNOPTIMISED_INIT = 2e7  # parameters; more take longer to draw without optimisations than these take to compile
UNOPTIMISED = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
SHORT_STEP = 1e7  # parameters of all members times examples, below which a CPU's step takes about 10 ms at most


class MemberOptimizer:
    """The optimizer of an experiment, for numbers that the members of a population have of their own."""

    def __init__(self, experiment: Experiment, settings: Settings, population: Population, params):
        self._spec, self._transforms = optimizers.as_spec(experiment.optimizer), experiment.transforms
        self._values, self._params = population.values, params
        self._run = dict(total_steps=settings.steps, steps_per_epoch=settings.steps_per_epoch, batch_size=settings.batch_size)
        self.tx, self._rate = self._make({})  # its errors are raised before any device is touched

    def of_member(self, values: Mapping) -> optax.GradientTransformationExtraArgs:
        """The transformation of the member with these numbers, {key: array}."""
        return self._make(values)[0] if values else self.tx

    def learning_rate(self, step: int) -> np.ndarray:
        """[members], or one number where all have the same."""
        return np.asarray(self._rates(self._values, step) if self._values else self._rate(step))

    @functools.cached_property
    def _rates(self):
        return jax.jit(jax.vmap(lambda values, step: self._make(values)[1](step), (0, None)))

    def _make(self, values: Mapping) -> tuple:
        explained = functools.partial(_explained, name=self._spec.get('name'), keys=list(values)) if values else lambda fn: fn
        tx, rate = explained(optimizers.make)({**self._spec, **values} if values else self._spec, self._params, **self._run)
        tx = optimizers.wrap(tx, self._transforms)
        return (optax.GradientTransformationExtraArgs(*map(explained, tx)) if values else tx), rate


def _explained(fn: Callable, name: str, keys: list[str]) -> Callable:
    """`fn`, with the error of an optimizer that computes something else for other numbers made one for the user."""
    def call(*args, **kwargs):
        try:
            return fn(*args, **kwargs)
        except jax.errors.ConcretizationTypeError:
            raise UserError(f"config.population_over: {name} decides by one of {', '.join(keys)} what it computes; fix: train "
                            'members that differ in it as runs of their own', code='config/population-over') from None
    return call


class CompiledStep:
    """The step of one experiment over a mesh, for a plain run or a population.

    Args:
      apply: the model, bound by `bigjax.tasks.bind`.
      inputs: the model's arguments for a batch of one example.
      optimizer: of each member.
      axes: the table of logical axes (`bigjax.sharding.logical.table`).
      layout: where parameters and what follows them are placed.
      frozen: arrays of `variables['frozen']` on the mesh, {} for none.
      resident: whether batches are taken from arrays on the device, by index.
      shared_data: whether all members train on the same examples.
      tokens: positions that a step works on at a time, 0 where examples have none.
      judged: the metric that judges the weights, or None.
      watch: reports functions that are compiled more than once.
    """

    def __init__(self, experiment: Experiment, settings: Settings, population: Population, optimizer: MemberOptimizer, *,
                 apply: Callable, inputs: tuple, mesh, axes: Mapping, layout, frozen: Mapping, resident: bool,
                 shared_data: bool, tokens: int, judged: best.Best | None, watch):
        self._experiment, self._settings, self._population, self._optimizer = experiment, settings, population, optimizer
        self._apply, self._inputs, self._mesh, self._axes, self._layout = apply, inputs, mesh, axes, layout
        self._frozen, self._resident, self._shared_data, self._judged = frozen, resident, shared_data, judged
        self.steps_per_call = self._choose_steps_per_call()
        self.compiled = watch('the train step', jax.jit(
            self._call, donate_argnums=(0, 1), compiler_options=cpu.compiler_options(tokens),
            out_shardings=(self.shardings['state'], *[meshes.replicated(mesh)] * 2)))

    def train_steps(self, state, totals, arrays, items) -> tuple:
        """`(state, totals, halted)` after `steps_per_call` steps; `state` and `totals` are given away."""
        return self.compiled(state, totals, arrays, items, self._frozen)

    def step(self, state, batch, values=None, reduce_fn=None, frozen=None):
        """`(state, metrics)` of one member: the shared train step with this experiment bound.

        Args:
          values: the member's own numbers of the optimizer, {key: array}.
          reduce_fn: see `train_step`.
          frozen: the arrays of `variables['frozen']`, by default the experiment's.
        """
        e, s = self._experiment, self._settings
        step = functools.partial(
            train_step, apply=self._apply, loss=e.task.loss, tx=self._optimizer.of_member(values), accumulate=s.accumulate,
            ema=s.ema, preprocess=e.data.preprocess, augment=e.data.augment,
            frozen=self._frozen if frozen is None else frozen,
            bounded=not values and not e.transforms and update_bound.bounded(e.optimizer))
        if s.reduce_dtype:
            own = lambda state, batch, reduce_fn: step(state, batch, reduce_fn=reduce_fn)
            return explicit_reduce.explicit_reduce(own, self._mesh, s.reduce_dtype)(state, batch)
        return step(state, batch, shard_grads=self._shard_grads, reduce_fn=reduce_fn)

    def _shard_grads(self, grads):
        """Gradients are placed where the optimizer's state is, and so summed on the way (reduce-scatter, not all-reduce)."""
        if self._mesh.size == 1:
            return grads
        return jax.lax.with_sharding_constraint(grads, rules.follow(grads, self._layout.optimizer, self._mesh))

    def _call(self, state, totals, arrays, items, frozen):
        source, rows = self._experiment.data.train, meshes.batch_sharding(self._mesh, 0)

        def member(state, totals, arrays, item, values):
            batch = source.take(arrays, item) if self._resident else item
            batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), batch)
            with logical.using(self._mesh, self._axes):
                state, metrics = self.step(state, batch, values, frozen=frozen)
            return state, jax.tree.map(jnp.add, totals, metrics)

        members = self._population.map(member, (0, 0, None if self._shared_data else 0, 0, 0))
        one = lambda state, totals, item: members(state, totals, arrays, item, self._population.values)
        if not self._resident:
            state, totals = one(state, totals, items)
        elif self.steps_per_call == 1:
            state, totals = one(state, totals, items[0])
        else:
            (state, totals), _ = jax.lax.scan(lambda carry, item: (one(*carry, item), None), (state, totals), items)
        return state, totals, state.halted + 0  # a buffer of its own: the state's is donated to the next call

    def _choose_steps_per_call(self) -> int:
        """The largest number of steps per dispatch, up to the wanted one, that divides every cadence."""
        s = self._settings
        own = [s.cadence(e.every) for e in self._experiment.evaluators.values()]
        common = math.gcd(s.steps, s.log_every, s.eval_every, s.checkpoint_every, *own)
        if not self._resident or common == 1:
            return 1
        wanted = s.steps_per_call or (
            self._wanted_on_a_cpu() if self._mesh.devices.flat[0].platform == 'cpu' else MAX_STEPS_PER_CALL)
        return max(k for k in range(1, max(1, min(wanted, common)) + 1) if common % k == 0)

    def _wanted_on_a_cpu(self) -> int:
        """Several steps per dispatch where the step is short, so that the dispatch counts, and has no convolution, which XLA
        slows inside a scan on a CPU."""
        s, state = self._settings, self.abstract['state']
        numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
        if self._mesh.size > 1 or numbers * s.batch_size > SHORT_STEP:
            return 1
        one = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
        state = state if self._population.size is None else jax.tree.map(one, state)
        with logical.using(self._mesh, self._axes):
            jaxpr = jax.make_jaxpr(self.step)(state, batch_shapes(self._experiment.data, s.batch_size), {}, None, self._frozen)
        return 1 if 'conv_general_dilated' in str(jaxpr) else MAX_STEPS_PER_CALL_CPU

    def init(self) -> dict:
        """The carry before the first step, placed on the mesh; `Experiment.init` is applied to the variables of each member.

        Raises:
          UserError: it returned variables of another structure or shape.
        """
        seeds = self._population.seed_array
        if self._experiment.init is None:
            return self._jit_init(self._init)(seeds)
        placed = self.abstract['state']
        where = jax.tree.map(lambda x: x.sharding, placed.variables(average=False))
        with logical.using(self._mesh, self._axes):
            variables = jax.jit(self._population.map(self._variables), out_shardings=where)(seeds)
        given = [_same_form(self._experiment.init(mine), mine) for mine in
                 (self._population.member(variables, m) for m in range(self._population.size or 1))]
        variables = given[0] if self._population.size is None else jax.tree.map(lambda *x: np.stack(x), *given)
        place = lambda x, sharding: x if isinstance(x, jax.Array) else meshes.device_put_global(x, sharding)
        variables = jax.tree.map(place, variables, where)
        return self._jit_init(self._init)(seeds, variables)

    def _jit_init(self, fn: Callable) -> Callable:
        """Compiled without optimisations on a CPU: `fn` runs once, and to optimise it takes much longer than to run it."""
        numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(self.abstract['state'].params))
        quick = self._mesh.devices.flat[0].platform == 'cpu' and numbers < MAX_UNOPTIMISED_INIT
        return jax.jit(fn, out_shardings=self.shardings, compiler_options=UNOPTIMISED if quick else None)

    def _variables(self, seed):
        return init_variables(self._experiment.model, self._inputs, seed)

    def _init(self, seeds, variables=None) -> dict:
        def one(seed, values, variables):
            variables = self._variables(seed) if variables is None else variables
            state = state_of(variables, self._optimizer.of_member(values), seed, ema=bool(self._settings.ema))
            metrics = jax.eval_shape(self.step, state, batch_shapes(self._experiment.data, self._settings.batch_size),
                                     values, None, self._frozen)[1]
            return {'state': state, 'totals': jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics),
                    'best': best.none_yet(state) if self._judged else None}

        with logical.using(self._mesh, self._axes):
            return self._population.map(one)(seeds, self._population.values, variables)

    @functools.cached_property
    def abstract(self) -> dict:
        """The carry as shapes with their places, into which a checkpoint is restored; nothing is computed."""
        carry = jax.eval_shape(self._init, self._population.seed_array)
        follow = functools.partial(rules.follow, mesh=self._mesh, members=self._population.size is not None)
        state, where = carry['state'], jax.tree.map(lambda x: meshes.replicated(self._mesh), carry)
        if carry['best'] is not None:
            where['best']['variables'] = follow(carry['best']['variables'], self._layout.params)
        where['state'] = where['state'].replace(
            params=follow(state.params, self._layout.params), opt_state=follow(state.opt_state, self._layout.optimizer),
            ema=follow(state.ema, self._layout.optimizer))
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), carry, where)

    @property
    def shardings(self) -> dict:
        """Where the arrays of the carry are placed."""
        return jax.tree.map(lambda x: x.sharding, self.abstract)

    def arguments(self) -> tuple:
        """The arguments of `compiled` as shapes with their places: (state, totals, arrays, items, frozen)."""
        size, everywhere = self._population.size, meshes.replicated(self._mesh)
        lead = () if size is None else (size,)
        placed = lambda shape, dtype, where: jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=where)
        if self._resident:
            own = () if self._shared_data else lead
            arrays = {k: placed((*own, *a.shape), a.dtype, everywhere)
                      for k, a in array_shapes(self._experiment.data.train).items()}
            items = placed((self.steps_per_call, *lead, self._settings.batch_size), np.int32, everywhere)
        else:
            shapes = batch_shapes(self._experiment.data, self._settings.batch_size)
            arrays, rows = {}, meshes.batch_sharding(self._mesh, len(lead))
            items = {k: placed((*lead, *s.shape), s.dtype, rows) for k, s in shapes.items()}
        return self.abstract['state'], self.abstract['totals'], arrays, items, shapes_of(self._frozen)


def _same_form(given, wanted) -> dict:
    """`Experiment.init`'s result in the types of the model's variables.

    Raises:
      UserError: it has other variables, or one of another shape.
    """
    there, here = dict(tree_paths.leaves(given)), dict(tree_paths.leaves(wanted))
    shape = lambda tree, path: list(tree[path].shape) if path in tree else 'nothing'
    for path in [*here, *there]:
        if shape(there, path) != shape(here, path):
            raise UserError(f'Experiment.init: got {shape(there, path)} at {path}, expected {shape(here, path)}; fix: return '
                            'the variables that it was given, with values replaced', code='experiment/init')
    cast = lambda x, like: x if isinstance(x, jax.Array) and x.dtype == like.dtype else np.asarray(x, like.dtype)
    return jax.tree.map(cast, given, wanted)
