"""Batches of data that is not kept on the device: the only module that knows Grain.

The order of examples comes from `bigjax.data.order`, so batch t is a pure function of (seed, t); Grain reads it ahead with
threads or worker processes. Each process reads only its own part of every global batch.
"""
import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np

from bigjax import UserError
from bigjax.data import order

SPARE = 4  # batches read ahead


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
        example = self.source[index]
        read = time.perf_counter()
        if self.transform is not None:
            example = self.transform(example, np.random.default_rng((self.seed, position)), True)
        self.stages.read += read - started
        self.stages.transform += time.perf_counter() - read
        return example


def train_batches(records: Ordered, *, threads: int, workers: int) -> Iterator:
    """This process's part of every batch from `records.first` on, as {name: [B / processes, …]}.

    Raises:
      UserError: Grain is missing, or the batch cannot be shared out evenly.
    """
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
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=SPARE))
    return iter(data)


def _parse_flags() -> None:
    """Grain hands the program's absl flags to its workers and refuses flags that were never parsed."""
    from absl import flags
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['bigjax'])


def eval_batches(source, batch_size: int, transform: Callable | None, *, process: int = 0,
                 processes: int = 1) -> Iterator[tuple[dict, np.ndarray]]:
    """(batch, mask [B / processes]) over the whole source in order; the last batch repeats example 0 where mask is 0."""
    local = batch_size // processes
    for start in range(0, len(source), batch_size):
        position = start + process * local + np.arange(local)
        mask = (position < len(source)).astype(np.float32)
        rows = []
        for i in np.where(mask > 0, position, 0):
            example = source[int(i)]
            rows.append(transform(example, np.random.default_rng(int(i)), False) if transform else example)
        yield {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}, mask
