"""The input of the train step: batch t of every member, from arrays on the device or from the host pipeline.

Members of a population see the batches that they would see alone: each has its own seed and, where the population is
over something else than the seed, its own examples.
"""
import contextlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data import order, pipeline, sources
from bigjax.data.batches import shapes as batch_shapes
from bigjax.errors import UserError
from bigjax.experiment import Data, Experiment
from bigjax.io.stopwatch import Stopwatch
from bigjax.sharding import mesh as meshes

__all__ = ['Feed', 'Resident', 'batch_shapes', 'example_inputs', 'fits_on_device', 'stack']

RESIDENT_BYTES = 2 << 30  # the most data that resident='auto' keeps on the device


def fits_on_device(source, data: Data, resident: str) -> bool:
    """Whether a source is kept on the device; a source that opens late stays closed.

    Raises:
      UserError: `resident` is 'yes' and it cannot be.
    """
    plain = data.transform is None and data.collate is None
    arrays = sources.array_shapes(source) if plain else None
    if arrays is None:
        if resident == 'yes':
            raise UserError(f'config.resident: got yes, expected auto: {source!r} is read example by example and cannot live '
                            'on the device; fix: --config.resident=auto', code='data/not-resident')
        return False
    longest = max([len(source), *(shape.shape[0] for shape in arrays.values())])
    if longest > order.FITS_INT32:
        if resident == 'yes':
            raise UserError(f'config.resident: got yes, expected auto: {source!r} counts to {longest:,}, and devices to '
                            f'{order.FITS_INT32:,}; fix: --config.resident=auto', code='data/not-resident')
        return False
    size = sum(shape.size * shape.dtype.itemsize for shape in arrays.values())
    return resident == 'yes' or (resident == 'auto' and size <= RESIDENT_BYTES)


def example_inputs(experiment: Experiment) -> tuple:
    """The model's arguments for a batch of one example of zeros."""
    data = experiment.data
    batch = {k: jnp.zeros(s.shape, s.dtype) for k, s in batch_shapes(data, 1).items()}
    return experiment.task.inputs(data.preprocess(batch) if data.preprocess else batch)


class Resident:
    """The arrays of sources, transferred to the device once each.

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
            self._kept[key] = (meshes.device_put_global(dict(host), meshes.replicated(self._mesh)), list(sources))
        return self._kept[key][0]


def stack(sources: Sequence) -> dict:
    """The arrays of sources of equal shapes, with a leading axis for the source.

    Raises:
      UserError: their shapes differ.
    """
    shapes = [{k: a.shape for k, a in s.arrays.items()} for s in sources]
    other = next((s for s, source in zip(shapes, sources, strict=True)
                  if s != shapes[0] or len(source) != len(sources[0])), None)
    if other is not None:
        raise UserError(f'config.population: got members whose data has the shapes {shapes[0]} and {other}, expected equal '
                        'shapes; fix: train the members one by one', code='data/members-differ')
    return {k: np.stack([s.arrays[k] for s in sources]) for k in sources[0].arrays}


def _rows(block: jax.Array) -> tuple[jax.Array, ...]:
    """[n, …] as n arrays [1, …]."""
    return tuple(block[i:i + 1] for i in range(block.shape[0]))


class Feed:
    """The training batches.

    Args:
      datas: the data of each member, or of all (length 1).
      seeds: one per member.
      members: None for a plain run, else the size of the population.
      start, steps: the first step and the end.
      skip: a damaged record is skipped, see `bigjax.data.pipeline.TrainBatches`.

    Attributes:
      arrays: the arrays that stay on the device, {} where batches come from the pipeline.
      shared: whether members share `arrays`.
      resident: whether the data is on the device.
      stages: the seconds that reading and transforming took, or None where nothing is read.
    """

    def __init__(self, datas: Sequence[Data], seeds: Sequence[int], *, members: int | None, batch_size: int, mesh,
                 cache: Resident, resident: str, threads: int, workers: int, start: int, steps: int,
                 skip: bool = False):
        self._data, self._mesh, self._members = datas[0], mesh, members
        self._sources = [d.train for d in datas]
        self._seeds, self._batch_size, self._steps, self._skip = list(seeds), batch_size, steps, skip
        self.shared = len(datas) == 1
        self.resident = fits_on_device(self._sources[0], self._data, resident)
        self._waited_s, self._start, self._rows = 0.0, start, (None, ())
        self.arrays = cache.arrays(self._sources) if self.resident else {}
        self._iterators, self._next, self.stages = [], None, None if self.resident else pipeline.Stages()
        if self.resident:
            self._orders = [order.Blocks(seed, batch_size, len(self._sources[0]), self._data.shuffle, start)
                            for seed in self._seeds]
        else:
            part, parts = meshes.process_part(mesh)
            for i, seed in enumerate(self._seeds):
                elements = self._batches(self._sources[0 if self.shared else i], seed, start, steps, part, parts)
                self._iterators.append(pipeline.read(elements, threads=threads, workers=workers))

    def _batches(self, source, seed, start, steps, part=0, parts=1):
        data = self._data
        return pipeline.TrainBatches(source, seed, self._batch_size, data.shuffle, start, steps, part, parts, data.transform,
                                     data.collate, data.spec if data.collate else None, self.stages or pipeline.Stages(),
                                     self._skip)

    def _pull(self, waiting=contextlib.nullcontext):
        """The next batch, already on its way to the device."""
        with waiting():
            parts = [next(it) for it in self._iterators]
        batch = parts[0] if self._members is None else jax.tree.map(lambda *x: np.stack(x), *parts)
        return meshes.device_put_local(batch, meshes.batch_sharding(self._mesh, 0 if self._members is None else 1))

    def _indices(self, step: int, count: int) -> jax.Array:
        """[count, (members,) B] on the device. Their transfer waits for a device that is busy, which is no wait for data."""
        watch = Stopwatch()
        indices = [each.at(step, count) for each in self._orders]
        indices = indices[0] if self._members is None else np.stack(indices, 1)
        self._waited_s += watch.seconds()
        return meshes.device_put_global(indices, meshes.replicated(self._mesh))

    def _block(self, step: int) -> jax.Array:
        """The same as `_indices(step, 1)` with one transfer per block: a transfer alone can take longer than a small step."""
        number, offset = divmod(step - self._start, order.BLOCK)
        if self._rows[0] != number:
            split = jax.jit(_rows, out_shardings=meshes.replicated(self._mesh))
            self._rows = number, split(self._indices(step - offset, order.BLOCK))
        return self._rows[1][offset]

    def at(self, step: int, count: int):
        """Indices [count, (members,) B] of batches step … step + count - 1, or the next batch of the pipeline itself."""
        if self.resident:
            return self._block(step) if count == 1 else self._indices(step, count)
        watch = Stopwatch()
        items, self._next = self._next or self._pull(), None
        self._waited_s += watch.seconds()
        return items

    def ahead(self, step: int, waiting=contextlib.nullcontext) -> None:
        """Transfers batch `step` while the one before it is being computed; waits for its data within `waiting()`."""
        if not self.resident and step < self._steps:
            watch = Stopwatch()
            self._next = self._pull(waiting)
            self._waited_s += watch.seconds()

    def host_batch(self, step: int, member: int):
        """Batch `step` of one member as NumPy arrays, to be kept."""
        source, seed = self._sources[0 if self.shared else member], self._seeds[member]
        return {name: np.asarray(x) for name, x in self._batches(source, seed, step, step + 1)[0].items()}

    def taken(self) -> float:
        """The seconds that the loop waited for data since the last call."""
        seconds, self._waited_s = self._waited_s, 0.0
        return seconds

    def close(self) -> None:
        """Ends the reading threads or processes."""
        for it in self._iterators:
            if hasattr(it, 'close'):
                it.close()
