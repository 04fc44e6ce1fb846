"""Evaluation: every example of a split exactly once, whatever the batch size, the number of devices or of members.

Batches are read ahead and transferred while the device computes, and the host never waits for the newest one: the padding is
counted on the host, sums stay on the device until the end, and predictions are fetched a batch late.
"""
import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data import pipeline
from bigjax.data.sources import ArraySource
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator
from bigjax.nn import rng
from bigjax.sharding import logical
from bigjax.sharding import mesh as meshes
from bigjax.tasks import FROZEN, MASK, Task, loss_metrics, mean
from bigjax.train.compile_cache import Watch
from bigjax.train.feed import Resident, fits_on_device

BATCHES_IN_FLIGHT = 2  # one is computed while the next is transferred; each more would hold another batch on the device
RNG_PREDICT = 1  # folded into the key of a batch for `predict`; `loss` uses the key itself


class Stopped(Exception):
    """The run received a stop request, and an evaluation ended between two batches."""


@dataclasses.dataclass
class _Batch:
    """One batch on the device, and the host's part in it.

    Attributes:
      item: indices of examples on the device, or the batch itself there.
      mask: [B] on the device, 0 where an example is padding.
      examples: how many are none.
      kept: {name: [(members,) B, …]} of the keys that `compute` receives, on the host, or on the device where other
        processes have a part of them; {} where they come from the source.
    """

    item: Any
    mask: jax.Array
    examples: int
    kept: Mapping[str, Any]


class Evaluation:
    """The evaluators of an experiment, compiled once.

    Args:
      datas: the data of each member, or of all (length 1).
      members: None for a plain run, else the size of the population.
      batch_size: examples at a time; rounded up to the devices, and no larger than the split.
      seeds: one per member, for predictions that draw random numbers.
      threads, workers: for data that is not on the device, as in training.
      watch: receives evaluators that are compiled more than once.
      axes: `Experiment.axes`.

    Raises:
      UserError: an evaluator keeps a key that the data does not have.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], datas: Sequence[Data], task: Task, apply, *, members, mesh,
                 cache: Resident, resident: str, batch_size: int, seeds: Sequence[int], watch: Watch, threads: int = 1,
                 workers: int = 0, axes: Mapping | None = None):
        self._evaluators, self._datas, self._members, self._mesh = evaluators, datas, members, mesh
        self._cache, self._resident, self._batch_size = cache, resident, batch_size
        self._task, self._apply = task, apply
        self._threads, self._workers, self._axes = threads, workers, axes
        self._seeds, self._compiled, self._watch, self._add = seeds, {}, watch, jax.jit(_add)
        for name, evaluator in evaluators.items():
            self._check_keys(name, evaluator)

    @functools.cached_property
    def _key(self) -> jax.Array:
        """The key of evaluation, one per member; made when it is used, as a plan's devices cannot hold it."""
        key = rng.key(self._seeds[0]) if self._members is None else jax.vmap(rng.key)(np.asarray(self._seeds, np.int32))
        return meshes.device_put_global(key, meshes.replicated(self._mesh))

    def _check_keys(self, name: str, evaluator: Evaluator) -> None:
        if evaluator.compute is None or not evaluator.keep:
            return
        spec = dataclasses.replace(self._datas[0], train=self._sources(evaluator.split)[0]).spec
        missing = [key for key in evaluator.keep if key not in spec]
        if missing:
            raise UserError(f"evaluator '{name}': got keep='{missing[0]}', expected keys of the {evaluator.split} examples "
                            f'({", ".join(spec)}); fix: Evaluator(keep=…) with the keys that compute reads',
                            code='evaluator/no-key')

    def _sources(self, split: str) -> list:
        return [d.train if split == 'train' else d.evals[split] for d in self._datas]

    def run(self, name: str, variables, stop: Callable[[], bool] | None = None,
            waiting=contextlib.nullcontext) -> tuple[dict[str, list[float]], list[dict]]:
        """Runs one evaluator, and waits for its data within `waiting()`.

        Returns:
          metrics {'split/metric': [one value per member]} and the artifacts of each member.

        Raises:
          Stopped: `stop()` was true between two batches.
        """
        evaluator = self._evaluators[name]
        metrics, artifacts = {}, [{} for _ in range(self._members or 1)]
        seen, totals, outputs, examples = self._pass(name, evaluator, variables, stop, waiting)
        for metric, (total, count) in totals.items():
            metrics[f'{evaluator.split}/{metric}'] = [float(v) for v in np.atleast_1d(mean((total, count)))]
        metrics[f'{evaluator.split}/examples'] = [float(seen)] * (self._members or 1)
        if evaluator.compute is not None:
            for m in range(self._members or 1):
                of_member = jax.tree.map(lambda x, m=m: x if self._members is None else x[m], outputs)
                found = evaluator.compute(of_member, examples[m % len(examples)])
                for key, value in mapping(f"evaluator '{name}', compute", found):
                    if np.ndim(value) == 0 and not isinstance(value, str) and isinstance(value, float | int | np.number):
                        metrics.setdefault(f'{evaluator.split}/{key}', []).append(float(value))
                    else:
                        artifacts[m][key] = value
        return metrics, artifacts

    def _pass(self, name, evaluator, variables, stop, waiting):
        """(examples seen, sums and counts, gathered outputs [(members,) n, …], kept examples of each source)."""
        sources_ = self._sources(evaluator.split)
        length = len(sources_[0])
        resident = fits_on_device(sources_[0], self._datas[0], self._resident)
        fn = self._fn(name, evaluator, sources_[0], resident)
        arrays = self._cache.arrays(sources_) if resident else {}
        keep = evaluator.keep if evaluator.compute is not None else ()
        seen, totals, in_flight, fetched = 0, {}, collections.deque(), []
        with contextlib.ExitStack() as stack:
            for number, batch in enumerate(self._batches(sources_, resident, keep, waiting, stack)):
                if stop is not None and stop():
                    raise Stopped
                number = meshes.device_put_global(np.int32(number), meshes.replicated(self._mesh))
                sums, out = fn(variables, arrays, batch.item, batch.mask, self._key, number)
                seen += batch.examples
                totals = self._add(totals, sums) if totals else sums
                in_flight.append((sums, out, batch.kept))
                if len(in_flight) > BATCHES_IN_FLIGHT:
                    fetched.append(_fetch(*in_flight.popleft()))
            fetched.extend(_fetch(*late) for late in in_flight)
        totals = jax.device_get(totals)
        if evaluator.compute is None:
            return seen, totals, None, None
        outputs = _joined([out for out, _ in fetched], length, self._members is not None)
        if resident:
            return seen, totals, outputs, [_kept_of(source, keep) for source in sources_]
        separate = len(sources_) > 1
        kept = _joined([kept for _, kept in fetched], length, separate)
        return seen, totals, outputs, [jax.tree.map(lambda x, m=m: x[m], kept) for m in range(len(sources_))
                                       ] if separate else [kept]

    def _batches(self, sources_, resident, keep, waiting, stack) -> Iterator[_Batch]:
        """The batches of a split, those of the pipeline read ahead; `stack` ends the reading."""
        length, parts = len(sources_[0]), meshes.data_size(self._mesh)
        size = -(-min(self._batch_size, length) // parts) * parts
        if resident:
            everywhere = meshes.replicated(self._mesh)
            for start in range(0, length, size):
                index = np.arange(start, start + size)
                inside = index < length
                rows = np.where(inside, index, 0).astype(np.int32)
                item, mask = meshes.device_put_global((rows, inside.astype(np.float32)), everywhere)
                yield _Batch(item, mask, int(inside.sum()), {})
            return
        data, (process, processes) = self._datas[0], meshes.process_part(self._mesh)
        spec = data.spec if data.collate else None
        streams = [pipeline.read(pipeline.EvalBatches(source, size, process, processes, data.transform, data.collate, spec),
                                 threads=self._threads, workers=self._workers) for source in sources_]
        for stream in streams:
            stack.callback(stream.close)
        separate = len(sources_) > 1  # members with data of their own
        for start in range(0, length, size):
            with waiting():
                rows = [next(stream) for stream in streams]
            batch = jax.tree.map(lambda *x: np.stack(x), *(local for local, _ in rows)) if separate else rows[0][0]
            item = meshes.device_put_local(batch, meshes.batch_sharding(self._mesh, 1 if separate else 0))
            mask = meshes.device_put_local(rows[0][1], meshes.batch_sharding(self._mesh, 0))
            kept = {key: (item if processes > 1 else batch)[key] for key in keep}
            yield _Batch(item, mask, min(size, length - start), kept)

    def _fn(self, name, evaluator, source, resident):
        """The compiled pass over one batch: (sums and counts, predictions)."""
        if name in self._compiled:
            return self._compiled[name]
        data, task, apply, mesh = self._datas[0], self._task, self._apply, self._mesh
        predict = evaluator.predict or task.predict

        def one(variables, arrays, item, mask, key, number):
            key = jax.random.fold_in(key, number)
            batch = source.take(arrays, item) if resident else item
            batch = {**batch, MASK: mask}
            batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, meshes.batch_sharding(mesh, 0)), batch)
            if data.preprocess:
                batch = {**data.preprocess({k: v for k, v in batch.items() if k != MASK}), MASK: mask}
            sums, out = {}, None
            if evaluator.sums:
                terms, aux = task.loss(apply, variables, batch, key, False)
                sums = {**loss_metrics(terms), **aux.metrics}
            if evaluator.compute is not None:
                out = predict(apply, variables, batch, jax.random.fold_in(key, RNG_PREDICT))
            return sums, out

        def on_mesh(*args):
            with logical.using(mesh, self._axes):
                return one(*args)

        fn = on_mesh
        if self._members is not None:
            own = 0 if len(self._datas) > 1 else None
            rest = own, None if resident else own, None, 0, None

            def fn(variables, *args):  # frozen arrays have no axis of members
                axes = {collection: None if collection == FROZEN else 0 for collection in variables}
                return jax.vmap(on_mesh, in_axes=(axes, *rest))(variables, *args)
        self._compiled[name] = self._watch(f"the evaluator '{name}'", jax.jit(fn))
        return self._compiled[name]


def mapping(what: str, result) -> list[tuple[str, Any]]:
    """The items of what a function of a script returned.

    Raises:
      UserError: it is no mapping from names.
    """
    if not isinstance(result, Mapping) or not all(isinstance(key, str) for key in result):
        raise UserError(f'{what}: got {type(result).__name__}, expected a mapping from names to values; fix: return one',
                        code='evaluator/result')
    return list(result.items())


def _add(totals, sums):
    return jax.tree.map(jnp.add, totals, sums)


def _fetch(sums, out, kept):
    """Waits for an old batch, which bounds how many inputs are on the device: (its predictions, its kept keys) on the host."""
    jax.block_until_ready(sums)
    return meshes.to_host((out, kept))


def _joined(parts: Sequence, length: int, members: bool):
    """The parts of a split one after the other, without the padding."""
    axis = 1 if members else 0
    return jax.tree.map(lambda *x: np.concatenate(x, axis).take(np.arange(length), axis), *parts)


def _kept_of(source, keep: Sequence[str]) -> dict[str, np.ndarray]:
    """The kept keys of every example of a source with arrays."""
    arrays = source.arrays
    if isinstance(getattr(source, 'stand_in', source), ArraySource):  # rows of the other arrays are not copied
        arrays = {key: arrays[key] for key in keep}
    batch = source.take(arrays, np.arange(len(source))) if keep else {}
    return {key: np.asarray(batch[key]) for key in keep}
