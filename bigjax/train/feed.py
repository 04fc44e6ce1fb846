"""What the step is fed with: batch t of every member, from arrays on the device or from the host pipeline.

Members of a population see the batches that they would see alone: each has its own seed and, where the population is
over something else than the seed, its own examples.
"""
import contextlib
import time
from collections.abc import Sequence

import jax
import numpy as np

from bigjax.data import order, pipeline
from bigjax.errors import UserError
from bigjax.experiment import Data
from bigjax.sharding import mesh as meshes

LIMIT = 2 << 30  # bytes of data that 'auto' keeps on the device
BLOCK = 64  # steps whose order is computed at once


def keeps(source, data: Data, resident: str) -> bool:
    """Whether a source lives on the device.

    Raises:
      UserError: it was asked to and cannot.
    """
    able = hasattr(source, 'arrays') and hasattr(source, 'take') and data.transform is None
    longest = max([len(source), *map(len, source.arrays.values())]) if able else 0
    if longest > order.FITS_INT32:
        if resident == 'yes':
            raise UserError(f'config.resident: {source!r} counts to {longest:,}, and devices to {order.FITS_INT32:,}; '
                            'write --config.resident=auto')
        return False
    if resident == 'yes' and not able:
        raise UserError(f'config.resident: {source!r} is read example by example and cannot live on the device; '
                        "write --config.resident=auto")
    return able and (resident == 'yes' or (resident == 'auto' and sum(a.nbytes for a in source.arrays.values()) <= LIMIT))


def batch_shapes(data: Data, rows: int) -> dict:
    """Shapes of a batch of `rows` as it comes from the data, before `preprocess`; no device is touched."""
    source = data.train
    if data.transform is None and hasattr(source, 'take'):
        batch = source.take(source.arrays, np.zeros(rows, np.int32))
        return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    example = source[0]
    if data.transform is not None:
        example = data.transform(example, np.random.default_rng(0), True)
    example = {k: np.asarray(v) for k, v in example.items()}
    return {k: jax.ShapeDtypeStruct((rows, *v.shape), v.dtype) for k, v in example.items()}


class Resident:
    """The arrays of sources, put on the device once each.

    `arrays(sources)` gives one tree for members that share their examples, and one with a leading member axis for
    members that do not.
    """

    def __init__(self, mesh):
        self._mesh, self._kept = mesh, {}

    def arrays(self, sources: Sequence):
        """Device arrays, replicated over the mesh."""
        key = tuple(id(s) for s in sources)
        if key not in self._kept:
            host = sources[0].arrays if len(sources) == 1 else stack(sources)
            self._kept[key] = (meshes.put(dict(host), meshes.replicated(self._mesh)), list(sources))
        return self._kept[key][0]


def stack(sources: Sequence) -> dict:
    """The arrays of sources of equal shapes, with a leading axis for the source.

    Raises:
      UserError: their shapes differ.
    """
    shapes = [{k: a.shape for k, a in s.arrays.items()} for s in sources]
    if any(s != shapes[0] for s in shapes) or any(len(s) != len(sources[0]) for s in sources):
        raise UserError(f'config.population: the members hold data of different shapes, {shapes[0]} and '
                        f'{next((s for s in shapes if s != shapes[0]), shapes[0])}; train them one by one')
    return {k: np.stack([s.arrays[k] for s in sources]) for k in sources[0].arrays}


class Feed:
    """The training batches.

    Args:
      datas: the data of each member, or of all (length 1).
      seeds: one a member.
      members: None for a plain run, else the size of the population.
      start, steps: the first step and the end.

    Attributes:
      arrays: what stays on the device, {} where batches come from the pipeline.
      shared: whether members share `arrays`.
    """

    def __init__(self, datas: Sequence[Data], seeds: Sequence[int], *, members: int | None, batch_size: int, mesh,
                 cache: Resident, resident: str, threads: int, workers: int, start: int, steps: int):
        self._data, self._mesh, self._members = datas[0], mesh, members
        self._sources = [d.train for d in datas]
        self._seeds, self._batch_size, self._steps = list(seeds), batch_size, steps
        self.shared = len(datas) == 1
        self.resident = keeps(self._sources[0], self._data, resident)
        self._waited = 0.0
        self._block = (None, None)
        self.arrays = cache.arrays(self._sources) if self.resident else {}
        self._iterators, self._next, self.stages = [], None, pipeline.Stages()
        if not self.resident:
            self._open(start, threads, workers)

    def _open(self, start, threads, workers):
        part, parts = meshes.process_part(self._mesh)
        for i, seed in enumerate(self._seeds):
            records = pipeline.Ordered(
                self._sources[0 if self.shared else i], seed, self._batch_size, self._data.shuffle, start, self._steps,
                part, parts, self._data.transform, self.stages)
            self._iterators.append(pipeline.train_batches(records, threads=threads, workers=workers))

    def _pull(self, waiting=contextlib.nullcontext):
        """The next batch, already on its way to the device."""
        with waiting():
            parts = [next(it) for it in self._iterators]
        batch = parts[0] if self._members is None else jax.tree.map(lambda *x: np.stack(x), *parts)
        return meshes.put_local(batch, meshes.split(self._mesh, 0 if self._members is None else 1))

    def _indices(self, step: int, count: int) -> np.ndarray:
        """[count, (members,) B] int32."""
        first, block = self._block
        if first is None or not first <= step <= step + count <= first + len(block):
            size = max(BLOCK, count)
            per = [order.batch_indices(seed, step, size, self._batch_size, len(self._sources[0]), self._data.shuffle)
                   for seed in self._seeds]
            block = per[0] if self._members is None else np.stack(per, 1)
            first = step
            self._block = (first, block)
        return block[step - first:step - first + count]

    def at(self, step: int, count: int):
        """Indices [count, (members,) B] of batches step … step + count - 1, or the next batch of the pipeline itself."""
        started = time.perf_counter()
        if self.resident:
            items = self._indices(step, count)
            if jax.process_count() > 1:
                items = meshes.put(items, meshes.replicated(self._mesh))
        else:
            items, self._next = self._next or self._pull(), None
        self._waited += time.perf_counter() - started
        return items

    def ahead(self, step: int, waiting=contextlib.nullcontext) -> None:
        """Fetches batch `step` to the device while the one before it is being computed; waits for it within `waiting()`."""
        if not self.resident and step < self._steps:
            started = time.perf_counter()
            self._next = self._pull(waiting)
            self._waited += time.perf_counter() - started

    def host_batch(self, step: int, member: int):
        """Batch `step` of one member as NumPy arrays, for keeping."""
        source, seed = self._sources[0 if self.shared else member], self._seeds[member]
        if self.resident:
            index = order.batch_indices(seed, step, 1, self._batch_size, len(source), self._data.shuffle)[0]
            return jax.tree.map(np.asarray, source.take(source.arrays, index))
        records = pipeline.Ordered(source, seed, self._batch_size, self._data.shuffle, step, step + 1,
                                   transform=self._data.transform)
        rows = [records[k] for k in range(len(records))]
        return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}

    def taken(self) -> float:
        """Seconds that the loop has stood still for data since it last asked."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def close(self) -> None:
        """Ends the reading threads or processes."""
        for it in self._iterators:
            if hasattr(it, 'close'):
                it.close()
