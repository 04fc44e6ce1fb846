"""An experiment turned into compiled functions: init, train, keep the best, evaluate. Everything that runs one shares it."""
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.checkpoint import manager
from bigjax.data.sources import array_shapes
from bigjax.errors import UserError
from bigjax.experiment import Experiment
from bigjax.nn import cpu, rng
from bigjax.sharding import explicit_reduce, logical, rules
from bigjax.sharding import mesh as meshes
from bigjax.tasks import RNG_STREAMS, bind, check_data
from bigjax.train import flops, optimizers, update_bound
from bigjax.train.compile_cache import Watch
from bigjax.train.evaluate import Evaluation
from bigjax.train.feed import Feed, Resident, batch_shapes, fits_on_device
from bigjax.train.settings import Settings, check_devices
from bigjax.train.state import count, init_state
from bigjax.train.step import train_step

MAX_STEPS_PER_CALL = 100


class Program:
    """The compiled functions of one run.

    The carry of training is {'state': TrainState, 'totals': metrics since the last log, 'best': the best weights or
    None}; it is what a checkpoint holds. In a population every leaf has a leading member axis.

    Args:
      experiments: one, or one a member where members differ in more than the seed.
      settings: the resolved config.
      check: called when every key that shapes the run has been read, before any device is touched.
      devices: to compute on, or described only, to compile for (`bigjax.plan`); None for all that there are.
      watch: told of functions that are compiled more than once.
    """

    def __init__(self, experiments: Sequence[Experiment], settings: Settings, check: Callable = lambda: None, devices=None,
                 watch: Watch | None = None):
        self.experiment, self.settings, self.watch = experiments[0], settings, watch or Watch()
        self.datas = [e.data for e in experiments]
        self.members = settings.population if settings.population > 1 else None
        over_seed = settings.population_over == 'seed'
        self.seeds = ([int(member.get('seed', settings.seed)) for member in settings.members] or
                      [settings.seed + (m if over_seed else 0) for m in range(settings.population)])
        self.apply = bind(self.experiment.model)
        params, output = initial_shapes(self.experiment)
        for data in self.datas:
            check_data(self.experiment.task, output, data)
        self.parameters, self._params = count(params), params
        self.values = {key.partition('.')[2]: np.asarray([member[key] for member in settings.members], np.float32)
                       for key in (settings.members or ({},))[0] if key != 'seed'}
        self.tx, self._rate = self._optimizer({})  # what is wrong with it is said before any device is touched
        check()
        self.mesh = meshes.make(settings.mesh, devices)
        check_devices(settings, meshes.data_size(self.mesh))
        self.axes = logical.table(self.experiment.axes, meshes.AXES)
        self.layout = rules.layout(params, self.experiment.partition_rules, self.mesh, self.experiment.axes)
        self.cache = Resident(self.mesh)
        self.resident = fits_on_device(self.datas[0].train, self.datas[0], settings.resident)
        self.steps_per_call = self._steps_per_call()

    def _optimizer(self, values: dict) -> tuple:
        """(transformation, learning rate by step), with some of its numbers given as arrays (of one member of a population)."""
        s, spec = self.settings, self.experiment.optimizer

        def explained(function):
            def call(*args, **kwargs):
                try:
                    return function(*args, **kwargs)
                except jax.errors.ConcretizationTypeError:
                    raise UserError(f"config.population_over: {spec['name']} decides by one of {', '.join(values)} what it "
                                    'computes; train members that differ in it one by one') from None
            return call

        make = explained(optimizers.make) if values else optimizers.make
        tx, rate = make({**spec, **values} if values else spec, self._params, total_steps=max(1, s.steps),
                        steps_per_epoch=s.steps_per_epoch, batch_size=s.batch_size)
        return (optax.GradientTransformationExtraArgs(*map(explained, tx)) if values else tx), rate

    def learning_rate(self, step: int) -> np.ndarray:
        """[members], or one number where all have the same."""
        return np.asarray(self._rates(self.values, step) if self.values else self._rate(step))

    @functools.cached_property
    def _rates(self):
        return jax.jit(jax.vmap(lambda values, step: self._optimizer(values)[1](step), (0, None)))

    def _shapes(self, rows: int) -> dict:
        return batch_shapes(self.experiment.data, rows)

    def _steps_per_call(self) -> int:
        """As many steps a dispatch as divide every cadence; one on a CPU, where XLA slows convolutions inside a scan."""
        s = self.settings
        own = [s.cadence(e.every) for e in self.experiment.evaluators.values()]
        common = math.gcd(s.steps, s.log_every, s.eval_every, s.checkpoint_every, *own)
        wanted = s.steps_per_call or (1 if self.mesh.devices.flat[0].platform == 'cpu' else MAX_STEPS_PER_CALL)
        if not self.resident:
            return 1
        return max(k for k in range(1, max(1, min(wanted, common)) + 1) if common % k == 0)

    def _tokens(self) -> int:
        """Positions that a step works on at a time."""
        return self.settings.batch_size // self.settings.accumulate * flops.positions(self)

    def feed(self, start: int) -> Feed:
        """The training batches from step `start` on."""
        s = self.settings
        return Feed(self.datas, self.seeds, members=self.members, batch_size=s.batch_size, mesh=self.mesh,
                    cache=self.cache, resident=s.resident, threads=s.data_threads, workers=s.data_workers,
                    start=start, steps=s.steps)

    def _each(self, fn, in_axes=0):
        """`fn` of one member, over all of them."""
        return fn if self.members is None else jax.vmap(fn, in_axes=in_axes)

    def step(self, state, batch, values=None, reduce_fn=None):
        """`(state, metrics)` of one member: the shared train step with this experiment bound.

        Args:
          values: the member's own numbers of the optimizer, {key: array}.
          reduce_fn: see `train_step`.
        """
        e, s = self.experiment, self.settings
        step = functools.partial(
            train_step, apply=self.apply, loss=e.task.loss, tx=self._optimizer(values)[0] if values else self.tx,
            accumulate=s.accumulate, ema=s.ema, preprocess=e.data.preprocess, augment=e.data.augment,
            bounded=not values and not e.transforms and update_bound.bounded(e.optimizer))
        if s.reduce_dtype:
            own = lambda state, batch, reduce_fn: step(state, batch, reduce_fn=reduce_fn)
            return explicit_reduce.explicit_reduce(own, self.mesh, s.reduce_dtype)(state, batch)
        return step(state, batch, shard_grads=self._shard_grads, reduce_fn=reduce_fn)

    def _shard_grads(self, grads):
        """Gradients go where the optimizer's state is, and are summed on the way (reduce-scatter, not all-reduce)."""
        if self.mesh.size == 1:
            return grads
        return jax.lax.with_sharding_constraint(grads, rules.follow(grads, self.layout.optimizer, self.mesh))

    def _shardings(self, carry) -> dict:
        """Where the carry's arrays are."""
        follow = functools.partial(rules.follow, mesh=self.mesh, members=self.members is not None)
        state, everywhere = carry['state'], meshes.replicated(self.mesh)
        placed = jax.tree.map(lambda x: everywhere, carry)
        best = None if carry['best'] is None else {
            **placed['best'], 'variables': follow(carry['best']['variables'], self.layout.params)}
        return {**placed, 'best': best, 'state': placed['state'].replace(
            params=follow(state.params, self.layout.params), opt_state=follow(state.opt_state, self.layout.optimizer),
            ema=follow(state.ema, self.layout.optimizer))}

    @functools.cached_property
    def call(self):
        """`call(state, totals, arrays, items) -> (state, totals, halted)`: steps_per_call steps, compiled, donated."""
        many, resident, source = self.steps_per_call, self.resident, self.datas[0].train
        rows = meshes.split(self.mesh, 0)

        def member(state, totals, arrays, item, values):
            batch = source.take(arrays, item) if resident else item
            batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), batch)
            with logical.using(self.mesh, self.axes):
                state, metrics = self.step(state, batch, values)
            return state, jax.tree.map(jnp.add, totals, metrics)

        members = self._each(member, (0, 0, None if len(self.datas) == 1 else 0, 0, 0))
        one = lambda *parts: members(*parts, self.values)

        def call(state, totals, arrays, items):
            if not resident:
                state, totals = one(state, totals, arrays, items)
            elif many == 1:
                state, totals = one(state, totals, arrays, items[0])
            else:
                def body(carry, item):
                    return one(*carry, arrays, item), None
                (state, totals), _ = jax.lax.scan(body, (state, totals), items)
            return state, totals, state.halted + 0  # a buffer of its own: the state's is donated to the next call

        everywhere = meshes.replicated(self.mesh)
        return self.watch('the train step', jax.jit(
            call, donate_argnums=(0, 1), compiler_options=cpu.compiler_options(self._tokens()),
            out_shardings=(self.shardings['state'], everywhere, everywhere)))

    def compiled_text(self) -> str:
        """The compiled step, as the compiler writes it."""
        return self.call.lower(*self.arguments()).compile().as_text()

    def init(self) -> dict:
        """The carry before the first step, placed on the mesh."""
        return jax.jit(self._init, out_shardings=self.shardings)(self._seeds())

    @functools.cached_property
    def shardings(self) -> dict:
        """Where the arrays of the carry are."""
        return self._shardings(jax.eval_shape(self._init, self._seeds()))

    def arguments(self) -> tuple:
        """What `call` is given, as shapes with their places: (state, totals, arrays, items). No device is touched."""
        def placed(shape, dtype, sharding):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        lead, everywhere = () if self.members is None else (self.members,), meshes.replicated(self.mesh)
        start = jax.eval_shape(self._init, self._seeds())
        carry = jax.tree.map(lambda x, where: placed(x.shape, x.dtype, where), start, self.shardings)
        if self.resident:
            own = () if len(self.datas) == 1 else lead
            arrays = {k: placed((*own, *a.shape), jax.dtypes.canonicalize_dtype(a.dtype), everywhere)
                      for k, a in array_shapes(self.datas[0].train).items()}
            items = placed((self.steps_per_call, *lead, self.settings.batch_size), np.dtype(np.int32), everywhere)
        else:
            arrays, rows = {}, meshes.split(self.mesh, len(lead))
            items = {k: placed((*lead, *s.shape), jax.dtypes.canonicalize_dtype(s.dtype), rows)
                     for k, s in self._shapes(self.settings.batch_size).items()}
        return carry['state'], carry['totals'], arrays, items

    def _seeds(self):
        seeds = np.asarray(self.seeds, np.int32)
        return seeds if self.members else seeds[0]

    def _init(self, seeds) -> dict:
        model, ema = self.experiment.model, bool(self.settings.ema)

        def one(seed, values):
            tx = self._optimizer(values)[0] if values else self.tx
            state = init_state(model, example_inputs(self.experiment), tx, seed, ema=ema)
            return {'state': state, 'totals': self._zeros(state, values), 'best': self._no_best(state)}

        with logical.using(self.mesh, self.axes):
            return self._each(one)(seeds, self.values)

    def _zeros(self, state, values):
        """Metrics before any step."""
        metrics = jax.eval_shape(self.step, state, self._shapes(self.settings.batch_size), values)[1]
        return jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)

    def _no_best(self, state):
        if not self.settings.best:
            return None
        worst = -jnp.inf if self.settings.best_is_higher else jnp.inf
        return {'value': jnp.float32(worst), 'step': jnp.int32(0),
                'variables': jax.tree.map(jnp.copy, state.variables())}

    def zero_totals(self, carry) -> dict:
        """Fresh metrics for the next interval."""
        return jax.tree.map(jnp.zeros_like, carry['totals'])

    @functools.cached_property
    def keep_best(self):
        """`keep_best(best, value, state) -> best`: the weights of the better value, member by member."""
        higher = self.settings.best_is_higher

        def one(best, value, state):
            better = value > best['value'] if higher else value < best['value']
            new = {'value': jnp.asarray(value, jnp.float32), 'step': state.step, 'variables': state.variables()}
            return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)

        return jax.jit(self._each(one), donate_argnums=0)

    @functools.cached_property
    def evaluation(self) -> Evaluation:
        """The evaluators."""
        s, e = self.settings, self.experiment
        for name, evaluator in e.evaluators.items():
            if evaluator.split != 'train' and evaluator.split not in e.data.evals:
                raise UserError(f"evaluator '{name}': there is no split '{evaluator.split}'; the data has "
                                f"{', '.join(['train', *e.data.evals])}")
        return Evaluation(e.evaluators, self.datas, e.task, self.apply, members=self.members, mesh=self.mesh,
                          cache=self.cache, resident=s.resident, batch_size=s.eval_batch_size or max(s.batch_size, 256),
                          seeds=self.seeds, watch=self.watch, threads=s.data_threads, workers=s.data_workers,
                          axes=self.axes)

    def variables(self, carry) -> dict:
        """What is reported: the best weights where `config.best` asks for them, else the newest."""
        return carry['best']['variables'] if carry['best'] is not None else carry['state'].variables()

    def restore(self, path) -> dict:
        """The carry of a checkpoint."""
        return manager.load(path, jax.tree.map(abstract, self.init()))

    def devices(self) -> dict:
        """What the run computes on."""
        device = self.mesh.devices.flat[0]
        many = {'processes': jax.process_count()} if jax.process_count() > 1 else {}
        return {'platform': device.platform, 'kind': device.device_kind, 'count': self.mesh.size, **many}

    def describe(self) -> str:
        """The run in one line, for people."""
        d, s = self.devices(), self.settings
        shared = f" of {d['processes']} processes" if 'processes' in d else ''
        where = f"{d['count']} x {d['kind']} ({d['platform']}){shared}"
        many = f' x {s.population} members over {s.population_over}' if self.members else ''
        place = 'kept on the device' if self.resident else 'read by the pipeline'
        return (f'{where} · {self.parameters:,} parameters{many} · {s.steps:,} steps of {s.batch_size} '
                f'({s.steps / s.steps_per_epoch:.1f} epochs) · data {place}')

    def load_weights(self, carry, folder) -> dict:
        """The carry with the weights of another run."""
        state = carry['state']
        params, model_state = manager.weights(folder, state.params, state.model_state)
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        return {**carry, 'state': state.replace(params=params, model_state=model_state, ema=ema)}


def example_inputs(experiment: Experiment) -> tuple:
    """The model's arguments for a batch of one example of zeros."""
    data = experiment.data
    batch = {k: jnp.zeros(s.shape, s.dtype) for k, s in batch_shapes(data, 1).items()}
    return experiment.task.inputs(data.preprocess(batch) if data.preprocess else batch)


def initial_shapes(experiment: Experiment) -> tuple:
    """(parameters, output of the model) of one example, as shapes; nothing is computed."""
    rngs = {name: rng.key(0) for name in ('params', *RNG_STREAMS)}
    output, variables = jax.eval_shape(
        lambda: experiment.model.init_with_output(rngs, *example_inputs(experiment), train=False))
    return variables['params'], output


def abstract(x):
    """Shape, dtype and place of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def member(carry_or_tree, index: int, members: int | None):
    """One member's part of a population's tree."""
    return carry_or_tree if members is None else jax.tree.map(lambda x: x[index], carry_or_tree)
