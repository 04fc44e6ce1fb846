"""The metrics that a run will have, before its first step: a misspelt one must not come out after hours."""
import dataclasses
import warnings
from collections.abc import Collection

import jax
import numpy as np

from bigjax.errors import UserError
from bigjax.experiment import Data
from bigjax.io.text import nearest
from bigjax.nn import rng
from bigjax.sharding import logical
from bigjax.tasks import FROZEN, loss_metrics
from bigjax.train import best
from bigjax.train.evaluate import mapping
from bigjax.train.feed import batch_shapes, example_inputs
from bigjax.train.state import init_variables

TRIED = 32  # examples of a split, at equal distances, on which `compute` is tried


def resolve_best(program) -> best.Best | None:
    """`config.best` against the metrics that the run will have.

    Raises:
      UserError: no such metric, or one without a direction.
    """
    metric, _ = best.parse(program.settings.best)
    if not metric:
        return None
    known = {f'train/{name}' for name in of_loss(program, True)} if metric.startswith('train/') else set()
    evaluated, unknown = evaluated_metrics(program, [metric] if metric not in known else [])
    return best.resolve(program.settings.best, program.experiment.evaluators, known | evaluated, unknown)


def check_expected(program) -> None:
    """Raises UserError where a published result is of a metric that no evaluator gives."""
    wanted = [row.metric for row in program.experiment.expected]
    if not wanted:
        return
    known, unknown = evaluated_metrics(program, wanted)
    for metric in wanted:
        if metric not in known and metric.partition('/')[0] not in unknown:
            near = nearest(metric, sorted(known), 0.4) or 'one of them'
            raise UserError(f"expected '{metric}': got a metric that no evaluator gives, expected one of "
                            f"{', '.join(sorted(known))}; fix: {near}, or declare one that depends on the data, "
                            'Evaluator(better={…})', code='experiment/expected')


def evaluated_metrics(program, wanted: Collection[str]) -> tuple[set[str], set[str]]:
    """(the metrics of the evaluators, the splits of which `compute` may give more).

    Args:
      wanted: `compute` of a split is tried where the other metrics do not hold all that are wanted of it.
    """
    e, known, unknown = program.experiment, set(), set()
    for evaluator in e.evaluators.values():
        own = [*(of_loss(program, False) if evaluator.sums else ()), 'examples', *evaluator.better]
        known |= {f'{evaluator.split}/{name}' for name in own}
    for name, evaluator in e.evaluators.items():
        if evaluator.compute is None or all(m in known or m.partition('/')[0] != evaluator.split for m in wanted):
            continue
        found = _tried(program, name)
        known |= {f'{evaluator.split}/{key}' for key in found or ()}
        unknown |= {evaluator.split} if found is None else set()
    return known, unknown


def of_loss(program, train: bool) -> list[str]:
    """The metrics of the task's loss, by tracing it on shapes; 'loss' is one of them."""
    e = program.experiment

    def metrics(variables, batch, key):
        batch = e.data.preprocess(batch) if e.data.preprocess else batch
        terms, aux = e.task.loss(program.apply, variables, batch, key, train)
        return {**loss_metrics(terms), **aux.metrics}

    traced = _shapes(program, metrics, e.data, program.settings.batch_size)
    return [*traced, *(['grad_norm'] if train else [])]


def _shapes(program, function, data: Data, rows: int):
    """The shapes of `function(variables, batch, key)` on a batch of the data."""
    variables = jax.eval_shape(lambda: init_variables(program.experiment.model, example_inputs(program.experiment), 0))
    variables |= {FROZEN: program.frozen} if program.frozen else {}
    with logical.using(program.mesh, program.axes):
        return jax.eval_shape(function, variables, batch_shapes(data, rows), rng.key(0))


def _tried(program, name: str) -> set[str] | None:
    """The names that `compute` gives of a few real examples and made-up predictions; None where it fails on those, or where
    the data is still closed.

    Raises:
      UserError: it returned something else than a mapping.
    """
    e, evaluator = program.experiment, program.experiment.evaluators[name]
    source = e.data.train if evaluator.split == 'train' else e.data.evals[evaluator.split]
    if not getattr(source, 'opened', True):  # a plan reads no data
        return None
    data, rows = dataclasses.replace(e.data, train=source), min(TRIED, len(source))

    def predictions(variables, batch, key):
        batch = e.data.preprocess(batch) if e.data.preprocess else batch
        return (evaluator.predict or e.task.predict)(program.apply, variables, batch, key)

    draw = np.random.default_rng(0)
    made_up = lambda x: (draw.integers(0, 2, x.shape) if x.dtype.kind in 'iub' else draw.uniform(0, 1, x.shape)).astype(x.dtype)
    try:
        outputs = jax.tree.map(made_up, _shapes(program, predictions, data, rows))
        taken = [source[int(i)] for i in np.linspace(0, len(source) - 1, rows)] if evaluator.keep else []
        examples = {key: np.stack([example[key] for example in taken]) for key in evaluator.keep}
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore')
            result = evaluator.compute(outputs, examples)
    except Exception:  # it may need more examples, or others, than these
        return None
    return {key for key, value in mapping(f"evaluator '{name}', compute", result)}
