"""Batches of data that is not kept on the device; the only module that imports Grain.

The order of examples comes from `bigjax.data.order`, so batch t is a pure function of (seed, t); Grain reads it ahead with
threads or worker processes. Each process reads only its own part of every global batch.
"""
import dataclasses
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from bigjax.data import batches, order, sources
from bigjax.errors import UserError
from bigjax.io import storage

PREFETCHED_BATCHES = 4  # at least; one for each thread where there are more
LIKELY_CAUSES = {'SIGKILL': ', most likely because the machine ran out of memory',  # by the signal that ended a worker
                 'SIGBUS': ', most likely because the shared memory (/dev/shm) is full'}
MOST_SKIPPED = 100  # damaged records in a row; more are no accident


@dataclasses.dataclass
class Stages:
    """Seconds spent by the reading threads in each stage, to name the slow one."""

    read: float = 0.0
    transform: float = 0.0

    def slowest(self) -> str:
        """The stage that took longer, for a warning."""
        return 'reading examples (the source)' if self.read >= self.transform else 'transforming examples'


@dataclasses.dataclass
class TrainBatches:
    """This process's part of batches first, first + 1, … of training, by number: element k is batch first + k.

    Where the source can gather many examples at once, and nothing has to run on each of them, a batch is one call of its
    `take`. The random state of `transform` is a function of (seed, position in the global order), so it does not depend on the
    number of processes or threads. `spec` holds what `collate` returns to one shape. With `skip` the next record that can be
    read replaces a damaged one, so a batch is still a function of (seed, t) and of the files.

    Raises:
      UserError: the batch cannot be divided evenly among the processes.
    """

    source: Any
    seed: int
    batch_size: int
    shuffle: bool
    first: int
    steps: int
    process: int = 0
    processes: int = 1
    transform: Callable | None = None
    collate: Callable | None = None
    spec: Mapping[str, Any] | None = None
    stages: Stages = dataclasses.field(default_factory=Stages)
    skip: bool = False
    skipped: set = dataclasses.field(default_factory=set)

    def __post_init__(self):
        if self.batch_size % self.processes:
            raise UserError(f'config.batch_size: got {self.batch_size}, expected a multiple of {self.processes} processes; '
                            f'fix: --config.batch_size={-(-self.batch_size // self.processes) * self.processes}',
                            code='data/uneven-batch')
        self._order = order.Blocks(self.seed, self.batch_size, len(self.source), self.shuffle, self.first, self.process,
                                   self.processes)

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, k: int) -> batches.Batch:
        step = self.first + int(k)
        indices = self._order.at(step)[0]
        start = step * self.batch_size + self.process * len(indices)
        seeds = [(self.seed, start + i) for i in range(len(indices))] if self.transform is not None else ()
        return _read(self, indices, seeds, True)


@dataclasses.dataclass
class EvalBatches:
    """This process's part of every batch over a whole source in order: element k is (batch, mask [B / processes] float32).

    The last batch is completed with example 0, where the mask is 0.
    """

    source: Any
    batch_size: int
    process: int = 0
    processes: int = 1
    transform: Callable | None = None
    collate: Callable | None = None
    spec: Mapping[str, Any] | None = None
    stages: Stages = dataclasses.field(default_factory=Stages)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, k: int) -> tuple[batches.Batch, np.ndarray]:
        local = self.batch_size // self.processes
        position = int(k) * self.batch_size + self.process * local + np.arange(local)
        inside = position < len(self.source)
        indices = np.where(inside, position, 0)
        batch = _read(self, indices, indices.tolist(), False)
        return batch, inside.astype(np.float32)


def _read(elements: TrainBatches | EvalBatches, indices: np.ndarray, seeds: Sequence, train: bool) -> batches.Batch:
    """The batch of examples `indices`; the random state of `transform` of example i is that of `seeds[i]`."""
    source, transform, collate, stages = elements.source, elements.transform, elements.collate, elements.stages
    started = time.perf_counter()
    if batches.gathers(source, transform, collate):
        batch = source.take(source.arrays, indices)
        stages.read += time.perf_counter() - started
        return batch
    examples = []
    for i, index in enumerate(indices.tolist()):
        for distance in range(MOST_SKIPPED):
            number = (index + distance) % len(source)
            try:
                examples.append(_example(elements, number, seeds[i] if transform is not None else None, train))
                break
            except Exception as error:
                _place(error, f'record {number} of {source!r}')
                if getattr(error, 'code', '') not in sources.DAMAGED or not train:
                    raise
                if not elements.skip:
                    raise sources.skippable(error) from None
                _note_skipped(elements.skipped, number, error)
                if distance == MOST_SKIPPED - 1:
                    raise
    started = time.perf_counter()
    try:
        batch = batches.collated(examples, collate, elements.spec)
    except Exception as error:
        _place(error, f'the batch that begins with record {indices[0]} of {source!r}')
        raise
    stages.transform += time.perf_counter() - started
    return batch


def _example(elements: TrainBatches | EvalBatches, index: int, seed, train: bool):
    """Example `index`, read and transformed."""
    started = time.perf_counter()
    example = elements.source[index]
    read = time.perf_counter()
    if elements.transform is not None:
        example = elements.transform(example, np.random.default_rng(seed), train)
    elements.stages.read += read - started
    elements.stages.transform += time.perf_counter() - read
    return example


def _note_skipped(skipped: set, number: int, error: Exception) -> None:
    """Prints a line for each damaged record, once."""
    if number not in skipped:
        skipped.add(number)
        print(f'warning: skipped ({sources.SKIP}): {error}', file=sys.stderr, flush=True)


def _place(error: Exception, place: str) -> None:
    """Adds to an error the place in the data where it happened.

    Raises:
      RuntimeError: in its stead, where the error itself would be lost between processes or taken for the end of the data.
    """
    if isinstance(error, StopIteration) or not _portable(error):
        raise RuntimeError(f'{type(error).__name__}: {error} ({place})') from error
    if not isinstance(error, UserError):
        error.add_note(place)
    elif place.partition(' of ')[0] not in str(error):  # only this one line of it is printed
        error.args = (f'{place}: {error}',)


def _portable(error: Exception) -> bool:
    """Whether the main process can receive it: Grain waits without end for an error that cannot be pickled."""
    if multiprocessing.parent_process() is None:
        return True
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))
    except Exception:
        return False


class WorkerDied(storage.StorageUnavailable):
    """A reading process ended without an error of its own; like a broken store, it is reported in one line, no traceback."""

    def __init__(self, exit_code: int, workers: int):
        how = signal.Signals(-exit_code).name if exit_code < 0 else f'exit code {exit_code}'
        super().__init__(
            f'one of the processes that read the data died ({how}){LIKELY_CAUSES.get(how, "")}: run the same command again '
            f'with a smaller --config.data_workers than {workers} (0 reads with threads), or with more memory')


class _Watched:
    """Batches of worker processes; the death of one is raised as `WorkerDied`."""

    def __init__(self, ahead: Iterator, workers: int):
        self._ahead, self._workers = ahead, workers

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._ahead)
        except RuntimeError as error:
            found = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
            if not found:
                raise
            raise WorkerDied(int(found[1]), self._workers) from None

    def close(self) -> None:
        self._ahead.close()


def _start_worker(index: int, count: int) -> None:
    """Runs first in a worker process: it ignores signals, and ends when the main process ends, even by SIGKILL."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a whole job gets them; the main process needs batches until it saved
        signal.signal(number, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read(elements: TrainBatches | EvalBatches, *, threads: int, workers: int) -> Iterator:
    """The elements in order, read ahead by threads or by worker processes; `close()` it where it is left early.

    An error of the source or the transform names its record.

    Raises:
      UserError: Grain is missing.
      WorkerDied: on reading on, when a worker process died.
    """
    ahead = iter(dataset(elements, threads=threads, workers=workers))
    return _Watched(ahead, workers) if workers else ahead


def dataset(elements: TrainBatches | EvalBatches, *, threads: int, workers: int):
    """The Grain dataset of `read`; a record of Grain's is a whole batch, so its cost per record is paid once per batch."""
    try:
        import grain
    except ImportError:
        raise UserError('config.resident: got data that is not kept on the device, which needs Grain; fix: pip install grain, '
                        'or --config.resident=yes', code='data/no-grain') from None
    reading = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=max(PREFETCHED_BATCHES, threads))
    data = grain.MapDataset.source(elements).to_iter_dataset(reading)
    if workers:
        _parse_flags()
        _tidy_quietly()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=PREFETCHED_BATCHES)
        data = data.mp_prefetch(options, _start_worker)
    return data


def _parse_flags() -> None:
    """Parses absl's flags where they are not yet: Grain passes them to its workers and refuses unparsed ones."""
    from absl import flags
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['bigjax'])


def _tidy_quietly() -> None:
    """Starts Python's resource tracker with its warnings off: after a failed run it frees the shared memory, and its warning
    would follow the line with the cause. A filter reaches that process by its environment alone."""
    before = os.environ.get('PYTHONWARNINGS', '')
    os.environ['PYTHONWARNINGS'] = ','.join(filter(None, [before, 'ignore:resource_tracker']))
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ['PYTHONWARNINGS'] = before
