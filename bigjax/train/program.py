"""An experiment turned into compiled functions on a mesh: the one assembly that training, eval, plan, bench and tests share."""
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from bigjax.checkpoint import initial_weights, manager
from bigjax.data import sources
from bigjax.errors import UserError
from bigjax.experiment import Experiment
from bigjax.nn import rng
from bigjax.sharding import logical, rules
from bigjax.sharding import mesh as meshes
from bigjax.tasks import FROZEN, RNG_STREAMS, bind, check_data
from bigjax.train import best, flops, frozen, known_metrics, optimizers
from bigjax.train.compile_cache import Watch
from bigjax.train.compiled_step import CompiledStep, MemberOptimizer
from bigjax.train.evaluate import Evaluation
from bigjax.train.feed import Feed, Resident, example_inputs, fits_on_device
from bigjax.train.population import Population, check_data_alone
from bigjax.train.settings import Settings, check_devices
from bigjax.train.state import count

WAYS = ('higher', 'lower')  # directions in which a metric improves


class Program:
    """The compiled functions of one run, and what they were made of.

    Args:
      experiments: one, or one per member where members differ in their data.
      settings: the resolved config.
      check: called when every key that shapes the run has been read, before any device is touched.
      devices: to compute on, or described only, to compile for (`bigjax.plan`); None for all that there are.
      watch: reports functions that are compiled more than once.

    Attributes:
      population, mesh, layout, frozen: see `bigjax.train.population`, `sharding.mesh`, `sharding.rules`, `train.frozen`.
      members: the size of the population, None for a plain run.
      tx, learning_rate: the optimizer of a plain run, and `learning_rate(step)` of each member.
      train_steps, step, init, abstract, arguments, compiled, steps_per_call: see `bigjax.train.compiled_step`.
      best: the metric that judges the weights (`bigjax.train.best`), or None; `keep_best(best, value, state) -> best`.
    """

    def __init__(self, experiments: Sequence[Experiment], settings: Settings, check: Callable = lambda: None, devices=None,
                 watch: Watch | None = None):
        e, s = self.experiment, self.settings = experiments[0], settings
        self.datas, self.watch, self.apply = [each.data for each in experiments], watch or Watch(), bind(e.model)
        self.population = Population(s)
        self.members, self.seeds, self.values = self.population.size, self.population.seeds, self.population.values
        inputs = example_inputs(e)
        params, output = initial_shapes(e, inputs)
        for data in self.datas:
            check_data(e.task, output, data)
        self.parameters = count(params)
        optimizer = MemberOptimizer(e, s, self.population, params)
        self.tx, self.learning_rate = optimizer.tx, optimizer.learning_rate
        check()
        for source in (each for data in self.datas for each in (data.train, *data.evals.values()) if s.damaged == 'stop'):
            sources.check_opened(source)
        if len(experiments) > 1:
            check_data_alone(experiments, s.population_over)
        self.mesh = meshes.make(s.mesh, devices)
        check_devices(s, meshes.data_size(self.mesh))
        self.axes = logical.table(e.axes, meshes.AXES)
        self.layout = rules.layout(params, e.partition_rules, self.mesh, e.axes)
        self.frozen = frozen.place(e.frozen, e.partition_rules, self.mesh, e.axes)
        self.cache = Resident(self.mesh)
        self.resident = fits_on_device(self.datas[0].train, self.datas[0], s.resident)
        self._check_splits()
        self.evaluation = Evaluation(e.evaluators, self.datas, e.task, self.apply, members=self.members, mesh=self.mesh,
                                     cache=self.cache, resident=s.resident, seeds=self.seeds, watch=self.watch,
                                     batch_size=s.eval_batch_size or max(s.batch_size, 256), threads=s.data_threads,
                                     workers=s.data_workers, axes=self.axes)
        self.best = known_metrics.resolve_best(self)
        known_metrics.check_expected(self)
        tokens = s.batch_size // s.accumulate * flops.positions(self)
        step = CompiledStep(e, s, self.population, optimizer, apply=self.apply, inputs=inputs, mesh=self.mesh,
                            axes=self.axes, layout=self.layout, frozen=self.frozen, resident=self.resident,
                            shared_data=len(self.datas) == 1, tokens=tokens, judged=self.best, watch=self.watch)
        self.train_steps, self.step, self.init, self.arguments = step.train_steps, step.step, step.init, step.arguments
        self.compiled, self.steps_per_call, self._step = step.compiled, step.steps_per_call, step
        if self.best:
            update = functools.partial(best.update, higher=self.best.higher)
            self.keep_best = jax.jit(self.population.map(update), donate_argnums=0)

    @property
    def abstract(self) -> dict:
        """The carry as shapes with their places."""
        return self._step.abstract

    def feed(self, start: int) -> Feed:
        """The training batches from step `start` on."""
        s = self.settings
        return Feed(self.datas, self.seeds, members=self.members, batch_size=s.batch_size, mesh=self.mesh,
                    cache=self.cache, resident=s.resident, threads=s.data_threads, workers=s.data_workers,
                    start=start, steps=s.steps, skip=s.damaged == 'skip')

    def variables(self, carry, weights: str = 'auto', reported: bool = True) -> dict:
        """The variables that an evaluator applies the model with.

        Args:
          carry: the carry, or that of `restore_weights`.
          weights: as `Evaluator.weights`: 'auto', 'ema', 'raw' or 'best'.
          reported: of the weights that the run reports ('auto' is then the best where `config.best` is set), else of the
            newest.
        """
        state, kept = carry['state'], carry['best']
        newest = state.variables(average=weights != 'raw')
        if kept is not None and (weights == 'best' or (weights == 'auto' and reported)):
            newest = self.population.map(best.reported)(kept, newest)
        return {**newest, FROZEN: self.frozen} if self.frozen else newest

    def member_variables(self, carry, index: int) -> dict:
        """The reported variables of one member."""
        variables = self.variables(carry)
        return {name: tree if name == FROZEN else self.population.member(tree, index)
                for name, tree in variables.items()}

    def restore(self, path) -> dict:
        """The carry of a checkpoint."""
        return manager.load(path, self.abstract)

    def restore_weights(self, path) -> dict:
        """The carry of a checkpoint less the optimizer's moments, which evaluation neither reads nor allocates."""
        if self._averages_in_optimizer():
            return self.restore(path)
        state = self.abstract['state']
        parts = {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != 'opt_state'}
        parts = {name: part for name, part in parts.items() if part is not None}
        like = {'state': parts} | ({'best': self.abstract['best']} if self.best else {})
        found = manager.load(path, like, whole=False)
        return {'state': state.replace(opt_state=(), **found['state']), 'best': found.get('best')}

    def check_weights(self, folder) -> None:
        """Raises what `load_weights` would, before anything is computed."""
        state = self.abstract['state']
        initial_weights.check(folder, state.params, state.model_state, model=self.experiment.model, members=self.members or 0)

    def load_weights(self, carry, folder, say: Callable[[str], None] = print) -> dict:
        """The carry with the weights of another run, or of another library in every member."""
        state = carry['state']
        params, model_state = initial_weights.load(folder, state.params, state.model_state, say,
                                                   model=self.experiment.model, members=self.members or 0)
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        return {**carry, 'state': state.replace(params=params, model_state=model_state, ema=ema)}

    def devices(self) -> dict:
        """The platform, kind and number of the devices."""
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

    def _averages_in_optimizer(self) -> bool:
        """Whether the weights that are evaluated come out of the optimizer's state (schedule-free, averages)."""
        same, state = [], self.abstract['state']
        jax.eval_shape(lambda opt_state, params: same.append(optimizers.eval_params(opt_state, params) is params),
                       state.opt_state, state.params)
        return not same[0]

    def _check_splits(self) -> None:
        """Raises UserError where an evaluator is of a split that the data lacks, or of weights that the run does not have."""
        e, s = self.experiment, self.settings
        if row := next((row for row in e.expected if row.better not in (*WAYS, None)), None):
            raise UserError(f"expected '{row.metric}': got better={row.better!r}, expected 'higher', 'lower' or None",
                            code='experiment/better')
        for name, evaluator in e.evaluators.items():
            if evaluator.split not in ('train', *e.data.evals):
                raise UserError(f"evaluator '{name}': got the split '{evaluator.split}', expected one of "
                                f"{', '.join(['train', *e.data.evals])}; fix: name one of the data's splits",
                                code='experiment/split')
            if strange := next((item for item in evaluator.better.items() if item[1] not in WAYS), None):
                raise UserError(f"evaluator '{name}': got better={{{strange[0]!r}: {strange[1]!r}}}, expected 'higher' or "
                                "'lower'; fix: one of them", code='experiment/better')
            if evaluator.every and not s.cadence(evaluator.every):
                raise UserError(f"evaluator '{name}': got every={evaluator.every!r}, expected at least one step, or None",
                                code='experiment/every')
            missing = {'ema': not s.ema, 'best': not s.best}.get(evaluator.weights, evaluator.weights not in ('auto', 'raw'))
            if missing:
                raise UserError(f"evaluator '{name}': got weights='{evaluator.weights}', of which this run has none; fix: "
                                "--config.ema=0.999 for 'ema', --config.best=METRIC for 'best', or 'auto' or 'raw'",
                                code='experiment/weights')


def initial_shapes(experiment: Experiment, inputs: tuple | None = None) -> tuple:
    """(parameters, output of the model) of one example, as shapes; nothing is computed."""
    inputs = example_inputs(experiment) if inputs is None else inputs
    rngs = {name: rng.key(0) for name in ('params', *RNG_STREAMS)}
    output, variables = jax.eval_shape(lambda: experiment.model.init_with_output(rngs, *inputs, train=False))
    return variables['params'], output
