"""Evaluation: every example of a split exactly once, whatever the batch size, the number of devices or of members."""
import contextlib
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data import pipeline
from bigjax.experiment import Data, Evaluator
from bigjax.nn import rng
from bigjax.sharding import logical
from bigjax.sharding import mesh as meshes
from bigjax.tasks import MASK, Task, loss_metrics, mean
from bigjax.train.compile_cache import Watch
from bigjax.train.feed import Resident, keeps


class Stopped(Exception):
    """An evaluation was left before its end, because the run was asked to stop."""


class Evaluation:
    """The evaluators of an experiment, compiled once.

    Args:
      datas: the data of each member, or of all (length 1).
      members: None for a plain run, else the size of the population.
      batch_size: examples at a time; rounded up to the devices, and no larger than the split.
      watch: told of evaluators that are compiled more than once.
      axes: the table of logical axes (`bigjax.sharding.logical.table`).
    """

    def __init__(self, evaluators: dict[str, Evaluator], datas: Sequence[Data], task: Task, apply, *, members, mesh,
                 cache: Resident, resident: str, batch_size: int, seed: int, watch: Watch, axes=None):
        self._evaluators, self._datas, self._members, self._mesh = evaluators, datas, members, mesh
        self._cache, self._resident, self._batch_size = cache, resident, batch_size
        self._task, self._apply, self._key = task, apply, rng.key(seed)
        self._compiled, self._watch, self._axes = {}, watch, axes

    def _sources(self, split: str) -> list:
        return [d.train if split == 'train' else d.evals[split] for d in self._datas]

    def run(self, name: str, variables, stop: Callable[[], bool] | None = None,
            waiting=contextlib.nullcontext) -> tuple[dict[str, list[float]], list[dict]]:
        """One evaluator; it waits for its data within `waiting()`.

        Returns:
          metrics {'split/metric': [one value a member]} and the artifacts of each member.

        Raises:
          Stopped: `stop()` said so between two batches.
        """
        evaluator = self._evaluators[name]
        sources = self._sources(evaluator.split)
        metrics, artifacts = {}, [{} for _ in range(self._members or 1)]
        seen, totals, outputs, examples = self._pass(name, evaluator, sources, variables, stop, waiting)
        for metric, (total, count) in totals.items():
            metrics[f'{evaluator.split}/{metric}'] = [float(v) for v in np.atleast_1d(mean((total, count)))]
        metrics[f'{evaluator.split}/examples'] = [float(seen)] * (self._members or 1)
        if evaluator.compute is not None:
            for m in range(self._members or 1):
                mine = jax.tree.map(lambda x, m=m: x if self._members is None else x[m], outputs)
                theirs = examples[m % len(examples)]
                for key, value in evaluator.compute(mine, theirs).items():
                    if np.ndim(value) == 0 and not isinstance(value, str) and isinstance(value, float | int | np.number):
                        metrics.setdefault(f'{evaluator.split}/{key}', []).append(float(value))
                    else:
                        artifacts[m][key] = value
        return metrics, artifacts

    def _pass(self, name, evaluator, sources, variables, stop, waiting):
        """(examples seen, sums and counts, gathered outputs [(members,) n, …], examples of each source)."""
        data, length = self._datas[0], len(sources[0])
        parts = meshes.data_size(self._mesh)
        size = min(self._batch_size, length)
        size = -(-size // parts) * parts
        resident = keeps(sources[0], data, self._resident)
        fn = self._fn(name, evaluator, sources[0], resident)
        arrays = self._cache.arrays(sources) if resident else {}
        seen, totals, outputs, batches = 0, {}, [], []
        for number, (item, mask) in enumerate(self._items(sources, size, resident, waiting)):
            if stop is not None and stop():
                raise Stopped
            sums, out = fn(variables, arrays, item, mask, jax.random.fold_in(self._key, number))
            seen += int(jnp.sum(mask))
            totals = sums if not totals else jax.tree.map(jnp.add, totals, sums)
            if evaluator.compute is not None:
                outputs.append(meshes.whole(out))
                if not resident:
                    batches.append(meshes.whole(item))
        totals = jax.device_get(totals)
        if evaluator.compute is None:
            return seen, totals, None, None
        axis = 0 if self._members is None else 1
        gathered = jax.tree.map(lambda *x: np.concatenate(x, axis).take(np.arange(length), axis), *outputs)
        if resident:
            examples = [jax.tree.map(np.asarray, s.take(s.arrays, np.arange(length))) for s in sources]
        else:
            whole = jax.tree.map(lambda *x: np.concatenate(x, axis), *batches)
            examples = [jax.tree.map(lambda x, m=m: (x if self._members is None else x[m])[:length], whole)
                        for m in range(1 if self._members is None else self._members)]
        return seen, totals, gathered, examples

    def _items(self, sources, size, resident, waiting):
        """What `fn` takes for each batch, with the mask of its padding."""
        length = len(sources[0])
        if resident:
            for start in range(0, length, size):
                index = np.arange(start, start + size)
                yield np.where(index < length, index, 0).astype(np.int32), (index < length).astype(np.float32)
            return
        part, parts = meshes.process_part(self._mesh)
        streams = [pipeline.eval_batches(s, size, self._datas[0].transform, process=part, processes=parts) for s in sources]
        for parts in _each(zip(*streams, strict=True), waiting):
            mask = parts[0][1]
            batch = parts[0][0]
            if self._members is not None:
                rows = [p[0] for p in parts] * (self._members if len(parts) == 1 else 1)
                batch = jax.tree.map(lambda *x: np.stack(x), *rows)
            yield (meshes.put_local(batch, meshes.split(self._mesh, 0 if self._members is None else 1)),
                   meshes.put_local(mask, meshes.split(self._mesh, 0)))

    def _fn(self, name, evaluator, source, resident):
        """The compiled pass over one batch: (sums and counts, predictions)."""
        if name in self._compiled:
            return self._compiled[name]
        data, task, apply, mesh = self._datas[0], self._task, self._apply, self._mesh
        predict = evaluator.predict or task.predict

        def one(variables, arrays, item, mask, key):
            batch = source.take(arrays, item) if resident else item
            batch = {**batch, MASK: mask}
            batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, meshes.split(mesh, 0)), batch)
            if data.preprocess:
                batch = {**data.preprocess({k: v for k, v in batch.items() if k != MASK}), MASK: mask}
            sums, out = {}, None
            if evaluator.sums:
                terms, aux = task.loss(apply, variables, batch, key, False)
                sums = {**loss_metrics(terms), **aux.metrics}
            if evaluator.compute is not None:
                out = predict(apply, variables, batch, jax.random.fold_in(key, 0x9E))
            return sums, out

        def on_mesh(*args):
            with logical.using(mesh, self._axes):
                return one(*args)

        fn = on_mesh
        if self._members is not None:
            shared = len(self._datas) == 1
            fn = jax.vmap(on_mesh, in_axes=(0, None if shared else 0, None if resident else 0, None, None))
        self._compiled[name] = self._watch(f"the evaluator '{name}'", jax.jit(fn))
        return self._compiled[name]


def _each(batches: Iterator, waiting) -> Iterator:
    """The batches, each fetched within `waiting()`."""
    while True:
        with waiting():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
