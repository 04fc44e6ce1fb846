"""Batches of data that is not kept on the device: the only module that knows Grain.

The order of examples comes from `bigjax.data.order`, so batch t is a pure function of (seed, t); Grain reads it ahead with
threads or worker processes. Each process reads only its own part of every global batch.
"""
import dataclasses
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import numpy as np

from bigjax.data import order
from bigjax.errors import UserError
from bigjax.io import storage

SPARE = 4  # batches read ahead
LIKELY = {'SIGKILL': ', most likely because the machine ran out of memory',  # what a signal to a worker process tells
          'SIGBUS': ', most likely because the shared memory (/dev/shm) is full'}


@dataclasses.dataclass
class Stages:
    """Seconds spent by the reading threads in each stage, to name the slow one."""

    read: float = 0.0
    transform: float = 0.0

    def slowest(self) -> str:
        """In words, for a warning."""
        return 'reading examples (the source)' if self.read >= self.transform else 'transforming examples'


@dataclasses.dataclass
class Ordered:
    """The local records of batches first, first + 1, …: record k is example k % local of batch first + k // local.

    The random state of `transform` is a function of (seed, position in the global order), so it does not depend on
    the number of processes or threads.
    """

    source: object
    seed: int
    batch_size: int
    shuffle: bool
    first: int
    steps: int
    process: int = 0
    processes: int = 1
    transform: Callable | None = None
    stages: Stages = dataclasses.field(default_factory=Stages)

    def __len__(self) -> int:
        return (self.steps - self.first) * (self.batch_size // self.processes)

    def __getitem__(self, k: int):
        local = self.batch_size // self.processes
        step, within = divmod(int(k), local)
        position = (self.first + step) * self.batch_size + self.process * local + within
        index = int(order.batch_indices(self.seed, position, 1, 1, len(self.source), self.shuffle)[0, 0])
        started = time.perf_counter()
        try:
            example = self.source[index]
            read = time.perf_counter()
            if self.transform is not None:
                example = self.transform(example, np.random.default_rng((self.seed, position)), True)
        except Exception as error:
            _place(error, self.source, index)
            raise
        self.stages.read += read - started
        self.stages.transform += time.perf_counter() - read
        return example


def _place(error: Exception, source, index: int) -> None:
    """Makes an error say which record of the source it is about.

    Raises:
      RuntimeError: in its stead, where the error itself would be lost on its way or taken for the end of the data.
    """
    place = f'record {index} of {source!r}'
    if isinstance(error, StopIteration) or not _portable(error):
        raise RuntimeError(f'{type(error).__name__}: {error} ({place})') from error
    if not isinstance(error, UserError):
        error.add_note(place)
    elif f'record {index}' not in str(error):  # one line is all that is shown of it
        error.args = (f'{place}: {error}',)


def _portable(error: Exception) -> bool:
    """Whether the main process gets to see it: one that cannot be pickled is lost, and is waited for without an end."""
    if multiprocessing.parent_process() is None:
        return True
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))
    except Exception:
        return False


class WorkerDied(storage.Broken):
    """A reading process ended without an error of its own. As of a store that is broken, its line says all: no traceback."""

    def __init__(self, exit_code: int, workers: int):
        how = signal.Signals(-exit_code).name if exit_code < 0 else f'exit code {exit_code}'
        super().__init__(
            f'one of the processes that read the data died ({how}){LIKELY.get(how, "")}: run the same command again with '
            f'a smaller --config.data_workers than {workers} (0 reads with threads), or with more memory')


class _Watched:
    """Batches of worker processes, where one that died is told in words."""

    def __init__(self, batches: Iterator, workers: int):
        self._batches, self._workers = batches, workers

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._batches)
        except RuntimeError as error:
            found = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
            if not found:
                raise
            raise WorkerDied(int(found[1]), self._workers) from None

    def close(self) -> None:
        self._batches.close()


def _start_worker(index: int, count: int) -> None:
    """In a worker process: it leaves signals to the main process, and ends when that one ends, even by SIGKILL."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a job; batches are needed until it has saved
        signal.signal(number, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_batches(records: Ordered, *, threads: int, workers: int) -> Iterator:
    """This process's part of every batch from `records.first` on, as {name: [B / processes, …]}.

    An error of the source or the transform says the number of its record.

    Raises:
      UserError: Grain is missing, or the batch cannot be shared out evenly.
      WorkerDied: on reading on, when a worker process died.
    """
    batches = iter(dataset(records, threads=threads, workers=workers))
    return _Watched(batches, workers) if workers else batches


def dataset(records: Ordered, *, threads: int, workers: int):
    """The Grain dataset of `train_batches`."""
    try:
        import grain
    except ImportError:
        raise UserError('config.resident: data that is not kept on the device needs Grain; pip install grain, '
                        'or --config.resident=yes') from None
    if records.batch_size % records.processes:
        raise UserError(f'config.batch_size: {records.batch_size} is not divisible by {records.processes} processes')
    local = records.batch_size // records.processes
    data = grain.MapDataset.source(records).batch(local)
    reading = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=max(SPARE, threads))
    data = data.to_iter_dataset(reading)
    if workers:
        _parse_flags()
        _tidy_quietly()
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=SPARE), _start_worker)
    return data


def _parse_flags() -> None:
    """Grain hands the program's absl flags to its workers and refuses flags that were never parsed."""
    from absl import flags
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['bigjax'])


def _tidy_quietly() -> None:
    """Python's process that gives back the shared memory of a run that failed does so without a warning, which would follow the
    line that says why the run ended; a warning's filter reaches it by its environment alone."""
    before = os.environ.get('PYTHONWARNINGS', '')
    os.environ['PYTHONWARNINGS'] = ','.join(filter(None, [before, 'ignore:resource_tracker']))
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ['PYTHONWARNINGS'] = before


def eval_batches(source, batch_size: int, transform: Callable | None, *, process: int = 0,
                 processes: int = 1) -> Iterator[tuple[dict, np.ndarray]]:
    """(batch, mask [B / processes]) over the whole source in order; the last batch repeats example 0 where mask is 0."""
    local = batch_size // processes
    for start in range(0, len(source), batch_size):
        position = start + process * local + np.arange(local)
        mask = (position < len(source)).astype(np.float32)
        rows = []
        for i in np.where(mask > 0, position, 0):
            try:
                example = source[int(i)]
                rows.append(transform(example, np.random.default_rng(int(i)), False) if transform else example)
            except Exception as error:
                _place(error, source, int(i))
                raise
        yield {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}, mask
